"""The page of the rules that every policy loss must satisfy, from the registry of properties."""

from __future__ import annotations

from erc_bench.conformance import PROPERTIES
from erc_bench.conformance.profiles import PROFILES
from erc_bench.conformance.registry import LEVELS
from erc_bench.conformance.signatures import ALIASES
from erc_bench.conformance.sources import FORMS
from tools.docs_pages.markdown import render, table

__all__ = ["page", "pages", "sources"]


def page() -> str:
    """An overview by level, each property with its reason and an example, and the signatures."""
    names: dict[str, list[str]] = {}
    for alias, field in ALIASES.items():
        names.setdefault(field, []).append(alias)
    names["tokens of the whole batch"] = names.pop("tokens")
    names["responses of the whole batch"] = names.pop("rows")
    given = [(field, ", ".join(f"`{a}`" for a in aliases)) for field, aliases in names.items()]
    overviews = {
        level: table(
            ("Property", "Rule"),
            [(f"[`{p.name}`](#{p.name})", p.rule) for p in PROPERTIES.values() if p.level == level],
        )
        for level in LEVELS
    }
    calls = [(f"`{name}`", p.source, f"`{p.binds}`") for name, p in PROFILES.items()]
    return render(
        "conformance",
        overviews=overviews,
        properties=list(PROPERTIES.values()),
        signatures=table(("Given", "Names"), given),
        forms=table(("Form", "What is given"), [(f"`{n}`", told) for n, told in FORMS.items()]),
        profiles=table(("--like", "Read in", "Given"), calls),
    )


def pages() -> dict[str, str]:
    """The page by its path in the site."""
    return {"conformance.md": page()}


def sources() -> dict[str, str]:
    """Files that define properties, and the one that lists the signatures."""
    modules = {p.check.__module__ for p in PROPERTIES.values()}
    found = {f"{module.replace('.', '/')}.py": "conformance.md" for module in modules}
    return found | {"erc_bench/conformance/signatures.py": "conformance.md#signatures"}
