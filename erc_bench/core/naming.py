"""Names made of names: a gate before a recipe, ``placebo-`` before a recipe with a gate."""

from __future__ import annotations

__all__ = ["PLACEBO", "gated", "placebo"]

#: Before the name of a recipe with a gate.
PLACEBO = "placebo-"


def gated(base: str, condition: str) -> str:
    """The equation of a recipe with a gate.

    >>> gated("dapo", "rho < 1.05")
    'dapo if rho < 1.05, else sg(dapo)'
    """
    return f"{base} if {condition}, else sg({base})"


def placebo(equation: str) -> str:
    """The equation of a recipe whose gates drop as many tokens at random."""
    return f"{equation}; but as many tokens as that drops are dropped at random"
