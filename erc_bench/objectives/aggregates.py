"""From losses per token to one number per run: what a token weighs, and what the sum is divided by.

Every aggregate is ``sum(weights * x) / denominator``. Weights depend on a row alone and
denominators add up over rows, so a batch can be split into micro-batches once the whole batch's
denominator is known.

A row without a token is padding and counts nowhere, as in verl 0.9. TRL and ERC's release divide by
all rows, and in ERC's release the mean of a row without a token is NaN. Where every row has a token,
all of them agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from erc_bench.core.numerics import Hyper, require_parameter

__all__ = [
    "Aggregate",
    "FixedHorizon",
    "SequenceMeanTokenMean",
    "SequenceMeanTokenSum",
    "TokenMean",
]


@runtime_checkable
class Aggregate(Protocol):
    """Reduces ``(..., B, T)`` to ``(...)``; masks are bool."""

    def weights(self, mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Weight of each token, ``(..., B, T)``; 0 where masked."""
        return mask.to(dtype)

    def denominator(self, mask: Tensor) -> Tensor:
        """What the weighted sum is divided by, ``(...)``; additive over rows, 0 for no tokens."""
        ...

    def __call__(self, x: Tensor, mask: Tensor, denominator: Tensor | None = None) -> Tensor:
        """``sum(weights * x) / denominator``; 0 where the denominator is 0.

        Args:
            x: ``(..., B, T)``; masked entries may hold anything.
            mask: tokens that count.
            denominator: of the whole batch, where this is one of its micro-batches.
        """
        if denominator is None:
            denominator = self.denominator(mask)
        total = (self.weights(mask, x.dtype) * torch.where(mask, x, 0.0)).sum((-2, -1))
        return (total / torch.where(denominator > 0, denominator, 1)).to(x.dtype)


def _rows(mask: Tensor) -> Tensor:
    """Rows with a token, ``(...)``."""
    return mask.any(-1).sum(-1)


@dataclass(frozen=True)
class TokenMean(Aggregate):
    """Every token weighs the same: ``sum_it x_it / sum_i |y_i|`` (DAPO, arXiv:2503.14476 eq. 8).

    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> TokenMean()(torch.tensor([[1.0, 2.0], [6.0, 0.0]]), mask)
    tensor(3.)
    """

    def denominator(self, mask: Tensor) -> Tensor:
        """Unmasked tokens."""
        return mask.sum((-2, -1))


@dataclass(frozen=True)
class SequenceMeanTokenMean(Aggregate):
    """Every response weighs the same: ``1/B sum_i 1/|y_i| sum_t x_it`` (GRPO, arXiv:2402.03300).

    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> SequenceMeanTokenMean()(torch.tensor([[1.0, 2.0], [6.0, 0.0]]), mask)
    tensor(3.7500)
    """

    def weights(self, mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """``1/|y_i|``."""
        return mask.to(dtype) / mask.sum(-1, keepdim=True).clamp(min=1)

    def denominator(self, mask: Tensor) -> Tensor:
        """Responses with a token."""
        return _rows(mask)


@dataclass(frozen=True)
class SequenceMeanTokenSum(Aggregate):
    """Every response weighs its length: ``1/B sum_i sum_t x_it``, the policy gradient of episodes.

    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> SequenceMeanTokenSum()(torch.tensor([[1.0, 2.0], [6.0, 0.0]]), mask)
    tensor(4.5000)
    """

    def denominator(self, mask: Tensor) -> Tensor:
        """Responses with a token."""
        return _rows(mask)


@dataclass(frozen=True)
class FixedHorizon(Aggregate):
    """Divides by a constant length: ``sum_it x_it / (B T_max)`` (Dr. GRPO, arXiv:2503.20783).

    Args:
        horizon: T_max, the longest response there may be, in tokens; a float, or one per run.

    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> FixedHorizon(3)(torch.tensor([[1.0, 2.0], [6.0, 0.0]]), mask)
    tensor(1.5000)
    """

    horizon: Hyper

    def __post_init__(self) -> None:
        require_parameter(self, "horizon", above=0, finite=True)

    def denominator(self, mask: Tensor) -> Tensor:
        """Responses with a token, times the horizon."""
        # An int tensor times a float would be float32, which is too coarse for a float64 loss.
        return _rows(mask).double() * self.horizon
