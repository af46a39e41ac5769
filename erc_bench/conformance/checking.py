"""Run the properties on a loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from erc_bench.conformance import (  # noqa: F401  # importing them registers the rules
    properties,
    ratio_properties,
    regularizer_properties,
    robustness,
)
from erc_bench.conformance.losses import PolicyLoss
from erc_bench.conformance.registry import (
    PROPERTIES,
    Level,
    NotApplicable,
    Property,
    ViolationError,
)
from erc_bench.core.errors import InputError
from erc_bench.core.validation import unknown

__all__ = ["Report", "Result", "Status", "check", "check_property", "require_properties"]

Status: TypeAlias = Literal["passed", "failed", "skipped", "waived"]


@dataclass(frozen=True)
class Result:
    """The outcome of one property.

    Attributes:
        status: ``waived`` is a failure for which the caller or the recipe has given a reason.
        message: what was measured, and for a failure its smallest example.
        reason: why the failure is allowed; empty without a waiver.
        seconds: wall-clock time.
    """

    property: Property
    status: Status
    message: str
    reason: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """All results for one loss, in the registry's order.

    Attributes:
        strict: whether failures of the level robustness count for the verdict.
    """

    loss: str
    kind: str
    results: tuple[Result, ...]
    strict: bool = False

    def count(self, status: Status, level: Level | None = None) -> int:
        """How many properties have this outcome, at one level or at both."""
        results = self.results if level is None else self.at(level)
        return sum(r.status == status for r in results)

    def at(self, level: Level) -> list[Result]:
        """The results of one level."""
        return [r for r in self.results if r.property.level == level]

    def decides(self, result: Result) -> bool:
        """Whether it is a failure that counts for the verdict."""
        counts = self.strict or result.property.level == "objective"
        return result.status == "failed" and counts

    @property
    def passed(self) -> bool:
        """Whether no failure counts: each is waived, or of the level robustness and not strict."""
        return not any(map(self.decides, self.results))


def require_properties(names: Iterable[str], *, by: str) -> None:
    """Check names that the caller gave.

    Raises:
        InputError: one of them is no property's; names the nearest one and all that are known.
    """
    for name in names:
        if name not in PROPERTIES:
            raise unknown(f"{by}: property", name, PROPERTIES)


def check(
    loss: PolicyLoss,
    *,
    waive: Mapping[str, str] | None = None,
    strict: bool = False,
    on_result: Callable[[Result], None] = lambda _: None,
) -> Report:
    """Try every property on a loss.

    Args:
        loss: from :func:`load_loss` or :func:`adapt`.
        waive: reasons by property; they take precedence over those that a recipe declares.
        strict: let failures of the level robustness count for the verdict.
        on_result: called after each property.

    Raises:
        InputError: a waiver of an unknown property, or without a reason.

    >>> from erc_bench.conformance import check, load_loss
    >>> check(load_loss("dapo")).passed
    True
    """
    given = dict(waive or {})
    require_properties(given, by="waive")
    for name, reason in given.items():
        if not reason.strip():
            raise InputError(f"waive: {name} has no reason")
    results = []
    for entry in PROPERTIES.values():
        results.append(check_property(loss, entry.name, given.get(entry.name)))
        on_result(results[-1])
    return Report(loss.name, loss.kind, tuple(results), strict)


def check_property(loss: PolicyLoss, name: str, waiver: str | None = None) -> Result:
    """Try one property; whatever the loss raises counts as a failure of that property.

    Torch's random state is left as it was.
    """
    entry = PROPERTIES[name]
    reason = waiver or loss.exemptions.get(name, "")
    started = time.perf_counter()
    status: Status = "passed"
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)  # a loss that draws has the same verdict every time
        try:
            message = entry.check(loss)
        except NotApplicable as skipped:
            status, message = "skipped", str(skipped)
        except ViolationError as violated:
            status, message = "failed", str(violated)
        except Exception as error:  # the loss may be anyone's code
            text = " ".join(str(error).split())
            status, message = "failed", f"it raised {type(error).__name__}: {text[:300]}"
    if reason and status == "failed":
        status = "waived"
    elif reason:
        message, reason = f"{message} (its waiver is not needed)", ""
    return Result(entry, status, message, reason, time.perf_counter() - started)
