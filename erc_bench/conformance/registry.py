"""The list of properties; each is a function from a loss to one sentence with the number measured."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from erc_bench.conformance.losses import PolicyLoss

__all__ = ["PROPERTIES", "NotApplicable", "Property", "ViolationError", "prop"]

Check: TypeAlias = Callable[[PolicyLoss], str]


class ViolationError(AssertionError):
    """The loss breaks the rule; the message holds what was measured and a smallest example."""


class NotApplicable(Exception):  # noqa: N818  # no error: the rule has no meaning for this loss
    """The rule has no meaning for this loss; the message says why."""


@dataclass(frozen=True)
class Property:
    """A rule that every policy loss must keep.

    Attributes:
        name: for waivers and reports.
        check: returns what was measured, or raises ViolationError or NotApplicable.
        catches: a mistake that this property finds.
    """

    name: str
    check: Check
    catches: str

    @property
    def rule(self) -> str:
        """One line."""
        return (inspect.getdoc(self.check) or "").partition("\n")[0]

    @property
    def why(self) -> str:
        """What goes wrong in training where the rule is broken."""
        return " ".join((inspect.getdoc(self.check) or "").partition("\n")[2].split())


#: Every property by name, in the order they are checked and printed.
PROPERTIES: dict[str, Property] = {}


def prop(catches: str) -> Callable[[Check], Check]:
    """Register a property under its function's name; the docstring is the rule, then the reason."""

    def register(check: Check) -> Check:
        name = check.__name__
        if name in PROPERTIES:
            raise ValueError(f"property {name!r} is registered twice")
        PROPERTIES[name] = Property(name, check, catches)
        return check

    return register
