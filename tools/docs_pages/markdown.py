"""Pieces of Markdown that the generators share: tables, docstrings and templates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["code", "render", "table"]

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: object) -> str:
    """Fill in a file of ``templates``."""
    return _TEMPLATES.get_template(f"{template}.md.j2").render(**values)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], rule: str = "---") -> str:
    r"""A table; ``rule`` aligns all columns but the first.

    A vertical bar is escaped, except in a code span, where Markdown would show the backslash.

    >>> print(table(["a", "b"], [["`x|y`", "x|y"]]))
    | a | b |
    |---|---|
    | `x|y` | x\|y |
    """
    lines = [f"| {' | '.join(header)} |", f"|---|{f'{rule}|' * (len(header) - 1)}"]
    for row in rows:
        cells = (re.sub(r"(`[^`]*`)|\|", lambda m: m[1] or r"\|", str(cell)) for cell in row)
        lines += [f"| {' | '.join(cells)} |"]
    return "\n".join(lines)


def code(text: str) -> str:
    """Roles and double backquotes of reStructuredText become Markdown's code spans.

    >>> code("as :func:`make` makes ``x``")
    'as `make` makes `x`'
    """
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`")
