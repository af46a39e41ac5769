"""The page of the rules that every policy loss must satisfy, from the registry of properties."""

from __future__ import annotations

from erc_bench.conformance import PROPERTIES
from erc_bench.conformance.signatures import ALIASES, ROW_COUNTS, TOKEN_COUNTS
from tools.docs_pages.markdown import render, table

__all__ = ["page", "pages", "sources"]


def page() -> str:
    """An overview, each property with its reason and an example, and the signatures."""
    names: dict[str, list[str]] = {}
    for alias, field in ALIASES.items():
        names.setdefault(field, []).append(alias)
    names["tokens of the whole batch"] = sorted(TOKEN_COUNTS)
    names["responses of the whole batch"] = sorted(ROW_COUNTS)
    given = [(field, ", ".join(f"`{a}`" for a in aliases)) for field, aliases in names.items()]
    rules = [(f"[`{p.name}`](#{p.name})", p.rule) for p in PROPERTIES.values()]
    return render(
        "conformance",
        overview=table(("Property", "Rule"), rules),
        properties=list(PROPERTIES.values()),
        signatures=table(("Given", "Names"), given),
    )


def pages() -> dict[str, str]:
    """The page by its path in the site."""
    return {"conformance.md": page()}


def sources() -> dict[str, str]:
    """Files that define properties, and the one that lists the signatures."""
    modules = {p.check.__module__ for p in PROPERTIES.values()}
    found = {f"{module.replace('.', '/')}.py": "conformance.md" for module in modules}
    return found | {"erc_bench/conformance/signatures.py": "conformance.md#signatures"}
