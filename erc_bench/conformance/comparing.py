"""Comparisons that raise a ViolationError with the smallest example, and the words for a token."""

from __future__ import annotations

import torch
from torch import Tensor

from erc_bench.conformance.losses import Evaluation
from erc_bench.conformance.probes import Fields
from erc_bench.conformance.registry import ViolationError

__all__ = ["EXACT", "require_equal", "require_finite", "require_same", "token"]

#: The relative error allowed where two float64 computations only differ in the order of their sums.
EXACT = 1e-9


def token(fields: Fields, row: int, column: int) -> str:
    """A token's position, ratio and advantage, and whether it is masked, in words."""
    log_ratio = fields["logp"][row, column] - fields["old_logp"][row, column]
    masked = "" if bool(fields["mask"][row, column]) else ", masked"
    return (
        f"row {row}, token {column} (r = {float(log_ratio.exp()):.4g}, "
        f"A = {float(fields['advantage'][row, column]):.3g}{masked})"
    )


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


def require_equal(what: str, first: Tensor, second: Tensor, tolerance: float = EXACT) -> float:
    """Require that two losses agree; returns their difference, relative to the larger one or to 1.

    Raises:
        ViolationError: with both numbers.
    """
    scale = max(1.0, abs(float(first)), abs(float(second)))
    gap = abs(float(first) - float(second)) / scale
    if not gap <= tolerance:
        raise ViolationError(
            f"{what}: the loss is {float(second):.6g} instead of {float(first):.6g}"
        )
    return gap


def require_same(
    what: str, first: Tensor, second: Tensor, fields: Fields, tolerance: float = EXACT
) -> float:
    """Require that gradients ``(B, T, ...)`` agree everywhere; returns the largest relative difference.

    Raises:
        ViolationError: with the token that differs most.
    """
    scale = float(torch.maximum(first.abs().max(), second.abs().max()).clamp(min=1e-300))
    gap = (first - second).abs() / scale
    gap = torch.where(gap.isnan(), torch.inf, gap)
    if bool((gap > tolerance).any()):
        place = torch.unravel_index(gap.argmax(), gap.shape)
        row, column = int(place[0]), int(place[1])
        raise ViolationError(
            f"{what}: the gradient at {token(fields, row, column)} is "
            f"{float(second[place]):.6g} instead of {float(first[place]):.6g}"
        )
    return float(gap.max())
