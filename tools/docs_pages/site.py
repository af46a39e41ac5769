"""Everything that the site shows, as plain Markdown and files.

Links are written for the repository, and the site keeps them working:

- A page outside ``docs/`` that the navigation names, and every file that a page links to, comes along under
  its path in the repository.
- A link to a source file leads to the page that is made from it: to ``claims.toml``, to the claims.

The page of ``figures/`` shows each figure with its caption, notebooks become pages with the outputs that
are stored in them, and formulas in dollars become MathML, so that the builder needs no extension for these.
"""

from __future__ import annotations

import html
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import MarkdownExporter

from tools.docs_pages import (
    api,
    claims,
    conformance,
    environments,
    experiments,
    metrics,
    objectives,
)
from tools.docs_pages.formulas import outside_code, with_formulas

__all__ = ["LINK", "ROOT", "expanded", "files", "generated"]

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")

Nav = list[Any]


def generated() -> tuple[dict[str, str | bytes], dict[str, str]]:
    """The generated files by their path in the site, and the page made from each source."""
    made: dict[str, str | bytes] = {}
    sources: dict[str, str] = {}
    for module in (claims, conformance, environments, experiments, objectives):
        made |= module.pages()
        sources |= module.sources()
    return made | api.pages(sources), api.sources() | sources


def files(nav: Nav) -> dict[str, bytes]:
    """Every file of the site by its path, pages of the repository first."""
    made, sources = generated()
    found: dict[str, str | bytes] = {}
    waiting = [p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*") if p.is_file()]
    waiting += [leaf for leaf in _leaves(nav) if (ROOT / leaf).is_file()]
    waiting += [f"figures/{figure['name']}.png" for figure in _figures()]
    for page, content in made.items():
        if isinstance(content, str) and page.endswith(".md"):
            found[page], linked = _moved(content, f"docs/{page}", {})
            waiting += linked
        else:
            found[page] = content
    while waiting:
        path = waiting.pop()
        if _site_path(path) in found:
            continue
        if path.endswith((".md", ".ipynb")):
            text, extra = _page(path)
            found |= extra
            found[_site_path(path)], linked = _moved(text, path, sources)
            waiting += linked
        if not path.endswith(".md"):
            found[path.removeprefix("docs/")] = (ROOT / path).read_bytes()
    return {k: v.encode() if isinstance(v, str) else v for k, v in found.items()}


def expanded(nav: Nav, pages: dict[str, bytes]) -> Nav:
    """The navigation with each folder, ``Objectives: objectives/``, replaced by the pages in it."""

    def entries(value: Any) -> Any:
        if isinstance(value, list):
            return [entries(item) for item in value]
        if isinstance(value, dict):
            return {key: entries(item) for key, item in value.items()}
        if not value.endswith("/"):
            return value
        inside = [p for p in pages if p.endswith(".md") and posixpath.dirname(p) == value[:-1]]
        return sorted(inside, key=lambda p: not p.endswith("/index.md"))

    return list(entries(nav))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)


def _site_path(path: str) -> str:
    """Where the page or file of a path in the repository lies in the site."""
    return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))


def _page(path: str) -> tuple[str, dict[str, str | bytes]]:
    """Markdown of a page of the repository, with what the site adds, and files that belong to it."""
    if path.endswith(".ipynb"):
        return _notebook(path)
    text = (ROOT / path).read_text(encoding="utf-8")
    if path == "docs/metrics.md":
        text = metrics.with_tables(text)
    if path == "figures/README.md":
        text += "\n\n## Figures\n"
        for figure in _figures():
            number = figure["name"].split("_")[0].removeprefix("fig")
            caption = html.escape(figure["caption"]).replace("_", "\\_").replace("*", "\\*")
            text += f"\n### Figure {number}: {figure['title']}\n\n"
            text += f"![{figure['title']}]({figure['name']}.png)\n\n{caption}\n"
    return text, {}


def _figures() -> list[dict[str, str]]:
    """Name, title and caption of each figure of the committed gallery."""
    text = (ROOT / "figures" / "figures.json").read_text(encoding="utf-8")
    return list(json.loads(text)["figures"])


def _notebook(path: str) -> tuple[str, dict[str, str | bytes]]:
    """The page of a notebook, and the images of its outputs."""
    stem = posixpath.splitext(path)[0]
    text, resources = MarkdownExporter().from_notebook_node(
        nbformat.read(ROOT / path, as_version=4),
        resources={"output_files_dir": posixpath.basename(stem)},
    )
    folder = posixpath.dirname(_site_path(path))
    images = {posixpath.join(folder, name): data for name, data in resources["outputs"].items()}
    return _ANSI.sub("", text), images


def _moved(text: str, path: str, sources: dict[str, str]) -> tuple[str, list[str]]:
    """A page with its links as they are in the site and its formulas as MathML, and the files it links to."""
    folder, here = posixpath.dirname(path), posixpath.dirname(_site_path(path)) or "."
    linked = []

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        fragment = match[2] or ""
        if target in sources:
            page, mark, anchor = sources[target].partition("#")
            return posixpath.relpath(page, here) + (mark + anchor or fragment)
        if not (ROOT / target).is_file():
            return match[0]  # A link to a generated page; the builder warns if there is none.
        linked.append(target)
        return posixpath.relpath(_site_path(target), here) + fragment

    return with_formulas(outside_code(text, lambda part: LINK.sub(moved, part))), linked
