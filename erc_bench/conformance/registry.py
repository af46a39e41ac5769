"""The registry of properties: functions that measure a loss and say in one sentence what they found.

A rule of the level ``objective`` says that the loss optimises what it claims to: its gradient, mask,
aggregation, clip, gate and penalties. One of the level ``robustness`` says what it survives: NaN behind
masks, half precision, extreme ratios, old quantities that carry a graph. Most public losses break some
of the latter on purpose, because their trainers never hand them such input.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from erc_bench.conformance.losses import PolicyLoss

__all__ = ["LEVELS", "PROPERTIES", "Level", "NotApplicable", "Property", "ViolationError", "prop"]

Level: TypeAlias = Literal["objective", "robustness"]
LEVELS: tuple[Level, ...] = get_args(Level)

Check: TypeAlias = Callable[[PolicyLoss], str]


class ViolationError(AssertionError):
    """The loss breaks the rule; the message says what was measured, with a smallest example."""


class NotApplicable(Exception):  # noqa: N818  # it is not an error
    """The rule has no meaning for this loss; the message says why."""


@dataclass(frozen=True)
class Property:
    """A rule that every policy loss must keep.

    Attributes:
        name: what waivers and reports call it.
        check: says what it measured, or raises ViolationError or NotApplicable.
        catches: a mistake that this property finds.
        mend: what to do about a failure, as one sentence without a full stop.
        level: whether the objective is wrong or only fragile.
    """

    name: str
    check: Check
    catches: str
    mend: str
    level: Level

    @property
    def rule(self) -> str:
        """The first line of the check's docstring."""
        return (inspect.getdoc(self.check) or "").partition("\n")[0]

    @property
    def why(self) -> str:
        """What goes wrong in training where the rule is broken: the rest of the docstring."""
        return " ".join((inspect.getdoc(self.check) or "").partition("\n")[2].split())


#: Every property by name, in the order in which they are checked and printed.
PROPERTIES: dict[str, Property] = {}


def prop(*, catches: str, mend: str, level: Level = "objective") -> Callable[[Check], Check]:
    """Register a property under its function's name; its docstring holds the rule and the reason."""

    def register(check: Check) -> Check:
        name = check.__name__
        if name in PROPERTIES:
            raise ValueError(f"property {name!r} is registered twice")
        PROPERTIES[name] = Property(name, check, catches, mend, level)
        return check

    return register
