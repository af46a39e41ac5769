"""The API reference, from the tree of packages: one page per room, which mkdocstrings fills in."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from importlib import import_module
from pathlib import Path

import erc_bench
from tools.docs_pages.markdown import code, render, table

__all__ = ["pages", "sources"]

ROOT = Path(__file__).parents[2]
FIRST = "api/index.md"
#: The folders that hold the packages.
PACKAGES = {"erc_bench": ROOT, "erc_envs": ROOT / "envs"}


def modules() -> dict[str, str]:
    """Every public module by its dotted name, with its path in the repository."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted((folder / package).rglob("[!_]*.py")):
            dotted = ".".join(path.relative_to(folder).with_suffix("").parts)
            found[dotted] = path.relative_to(ROOT).as_posix()
    return found


def room_of(module: str) -> str:
    """The package that stands on one page; ``erc_bench`` itself for the files outside its rooms."""
    package, room, *rest = module.split(".")
    return f"{package}.{room}" if rest else package


def page_of(module: str) -> str:
    """The page on which a module stands."""
    room = room_of(module)
    return FIRST if room == "erc_bench" else f"api/{room.removeprefix('erc_bench.')}.md"


def pages(covered: Collection[str]) -> dict[str, str]:
    """The first page and the rooms' pages, without the modules that have another page already."""
    rooms: dict[str, list[str]] = {}
    for module, path in modules().items():
        if path not in covered:
            rooms.setdefault(room_of(module), []).append(module)
    first, rows, found = rooms.pop("erc_bench"), [], {}
    for room, names in rooms.items():
        summary = code(inspect.getdoc(import_module(room)) or "").replace("\n>>>", "\n    >>>")
        page = page_of(names[0])
        rows.append((f"[`{room}`]({Path(page).name})", summary.partition("\n\n")[0]))
        found[page] = render("api_room", room=room, summary=summary, modules=names)
    overview = table(("Room", "What it holds"), rows)
    return {FIRST: render("api", rooms=overview, names=_names(), modules=first), **found}


def sources() -> dict[str, str]:
    """Where in the reference each module stands."""
    return {path: f"{page_of(module)}#{module}" for module, path in modules().items()}


def _names() -> str:
    """Links to the names in ``erc_bench`` itself."""
    homes = {name: getattr(erc_bench, name).__module__ for name in erc_bench.__all__}
    links = [f"[`{n}`]({Path(page_of(home)).name}#{home}.{n})" for n, home in homes.items()]
    return ", ".join(links)
