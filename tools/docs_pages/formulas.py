"""Formulas between dollars become MathML, which browsers draw without a script."""

from __future__ import annotations

import re
from collections.abc import Callable

from latex2mathml.converter import convert

__all__ = ["formula", "outside_code", "with_formulas"]

_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_FORMULA = re.compile(
    r"\$\$(.+?)\$\$|(?<![\\\w$])\$(?=\S)((?:[^$\n]|\n(?!\n))+?)(?<=\S)\$(?!\w)", re.DOTALL
)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Apply a change to everything but code blocks and code spans."""
    parts = _CODE.split(text)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def formula(latex: str, *, block: bool = False) -> str:
    """A formula as MathML.

    An inline formula stands in a span, as Markdown takes a line that starts with ``<math>`` for a block.
    """
    made = convert(latex.strip(), display="block" if block else "inline")
    return made if block else f"<span>{made}</span>"


def with_formulas(text: str) -> str:
    """Formulas between dollars become MathML.

    >>> with_formulas("costs `$x$`, $x$")[:45]
    'costs `$x$`, <span><math xmlns="http://www.w3'
    """

    def made(match: re.Match[str]) -> str:
        return formula(match[1] or match[2], block=bool(match[1]))

    return outside_code(text, lambda part: _FORMULA.sub(made, part))
