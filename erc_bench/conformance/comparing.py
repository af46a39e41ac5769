"""Comparisons that raise a ViolationError with the smallest example, and the words for a token.

Every tolerance is that of the precision in which the loss computes (:class:`Precision`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from erc_bench.conformance.losses import Evaluation, PolicyLoss
from erc_bench.conformance.probes import Fields
from erc_bench.conformance.registry import NotApplicable, ViolationError

__all__ = [
    "apart",
    "nonzero",
    "require_equal",
    "require_finite",
    "require_given",
    "require_same",
    "token",
]


def token(fields: Fields, row: int, column: int) -> str:
    """A token's position, ratio and advantage, and whether it is masked, in words."""
    log_ratio = fields["logp"][row, column] - fields["old_logp"][row, column]
    masked = "" if bool(fields["mask"][row, column]) else ", masked"
    return (
        f"row {row}, token {column} (r = {float(log_ratio.exp()):.4g}, "
        f"A = {float(fields['advantage'][row, column]):.3g}{masked})"
    )


def apart(found: float, expected: float) -> str:
    """``X instead of Y``, with as many digits as it takes to tell the two apart.

    >>> apart(1.0, 2.0), apart(7.2774400001, 7.27744)
    ('1 instead of 2', '7.27744 instead of 7.27744 (1e-10 more)')
    """
    texts = f"{found:.6g}", f"{expected:.6g}"
    gap = found - expected
    told = f" ({abs(gap):.2g} {'more' if gap > 0 else 'less'})" if texts[0] == texts[1] else ""
    return f"{texts[0]} instead of {texts[1]}{told}"


def nonzero(loss: PolicyLoss, gradient: Tensor, beside: Tensor | None = None) -> Tensor:
    """Where a gradient is more than the rounding error beside the largest one, bool."""
    scale = (gradient if beside is None else beside).abs().max()
    return ~(gradient.abs() <= loss.precision.none * scale)


def require_given(loss: PolicyLoss, field: str, what: str) -> None:
    """Leave a rule out where the loss is not given the field.

    Raises:
        NotApplicable: it is not.
    """
    if field not in loss.reads:
        raise NotApplicable(f"the loss is given no {what}")


def require_finite(found: Evaluation, fields: Fields, case: str) -> None:
    """Require that loss and gradients are finite.

    Raises:
        ViolationError: names the case and the first token with a gradient that is not.
    """
    if not bool(found.loss.isfinite()):
        raise ViolationError(f"{case}: the loss is {float(found.loss):g}")
    for name, gradient in found.gradient.items():
        bad = (~gradient.isfinite()).nonzero()
        if len(bad):
            row, column = bad[0].tolist()[:2]
            number = float(gradient[tuple(bad[0].tolist())])
            raise ViolationError(
                f"{case}: the gradient of {name} is {number:g} at {token(fields, row, column)}"
            )


def require_equal(loss: PolicyLoss, what: str, first: Tensor, second: Tensor) -> float:
    """Require that two losses agree; returns their difference, relative to the larger one or to 1.

    Raises:
        ViolationError: with both numbers.
    """
    scale = max(1.0, abs(float(first)), abs(float(second)))
    gap = abs(float(first) - float(second)) / scale
    if not gap <= loss.precision.same:
        raise ViolationError(f"{what}: the loss is {apart(float(second), float(first))}")
    return gap


def require_same(
    loss: PolicyLoss, what: str, first: Tensor, second: Tensor, fields: Fields
) -> float:
    """Require that gradients ``(B, T, ...)`` agree everywhere; returns the largest relative difference.

    Raises:
        ViolationError: with the token that differs most.
    """
    scale = float(torch.maximum(first.abs().max(), second.abs().max()).clamp(min=1e-300))
    gap = (first - second).abs() / scale
    gap = torch.where(gap.isnan(), torch.inf, gap)
    if bool((gap > loss.precision.same).any()):
        place = torch.unravel_index(gap.argmax(), gap.shape)
        row, column = int(place[0]), int(place[1])
        raise ViolationError(
            f"{what}: the gradient at {token(fields, row, column)} is "
            f"{apart(float(second[place]), float(first[place]))}"
        )
    return float(gap.max())
