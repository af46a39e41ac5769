"""Losses whose ratio is a response's, written as one loss per token, ``(..., B, T)``.

A token's loss is the response's weight with a stop-gradient, times ``r/sg(r)``, which is 1 and has
the gradient of ``log pi``. So the mean over a response's tokens has the value and the gradient of
the sequence-level loss, and a gate that drops a token drops exactly this token's contribution.
(Detaching the token's log-probability inside the response's ratio would also change the weight of
its neighbours' gradients.)

Use them with ``SequenceMeanTokenMean``, which gives every response the same weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import Hyper, over_tokens, require_parameter
from erc_bench.objectives.base import Surrogate
from erc_bench.objectives.surrogates.token import PPOClip, unit_ratio

__all__ = ["GMPO", "GSPO"]


def _response_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over each response's tokens, ``(..., B, 1)``; 0 for a response without a token.

    The sum is at least in float32, because in float16 that of a long response would overflow.
    """
    wide = torch.where(mask, x, 0.0).to(torch.promote_types(x.dtype, torch.float32))
    return (wide.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)).to(x.dtype)


@dataclass(frozen=True)
class GSPO(PPOClip):
    """``-min(s A, clip(s, 1 - low, 1 + high) A)`` (GSPO, arXiv:2507.18071).

    ``s = exp(mean_t log r_t)`` is the response's ratio, length-normalised. The token form of the
    paper (GSPO-token): ``s_t = sg(s) r_t/sg(r_t)``, so advantages may differ between the tokens of a
    response. The gradient is ``-s A grad log pi`` at every token, and zero where the clip binds.

    Args:
        low: distance of the lower bound from 1; 1 or more never clips on that side.
        high: distance of the upper bound from 1; inf never clips on that side.

    Raises:
        InputError: not positive.
    """

    low: Hyper = 3e-4
    high: Hyper = 4e-4

    def ratio(self, batch: TokenBatch) -> Tensor:
        """``s`` at each token of its response, without a gradient; 1 where masked."""
        s = _response_mean(batch.log_ratio.detach(), batch.mask).exp()
        return torch.where(batch.mask, s, 1.0)

    def _ratio(self, batch: TokenBatch) -> Tensor:
        return self.ratio(batch) * unit_ratio(batch)


@dataclass(frozen=True)
class GMPO(Surrogate):
    """``-A exp(mean_t c_t)``, ``c_t`` the clipped ``log r_t`` (GMPO, arXiv:2507.20673).

    The geometric mean of ratios that are clipped where this lowers the objective: ``c = min(log r,
    high)`` at ``A > 0``, else ``c = max(log r, -low)``. The gradient is ``-exp(mean c) A grad log
    pi`` at the tokens that are not clipped, zero at the others. Where advantages differ between the
    tokens of a response, each token's own is used for both.

    Args:
        low: distance of the lower bound of ``log r`` from 0, nats; inf never clips on that side.
        high: distance of the upper bound of ``log r`` from 0, nats.

    Raises:
        InputError: not positive.
    """

    low: Hyper = 0.4
    high: Hyper = 0.4

    def __post_init__(self) -> None:
        require_parameter(self, "low", above=0)
        require_parameter(self, "high", above=0)

    @property
    def clip_range(self) -> tuple[Hyper, Hyper]:
        """``(1 - exp(-low), exp(high) - 1)``: the bounds as distances of the ratio from 1."""
        return _expm1(-self.low, -1.0), _expm1(self.high)

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        clipped = self.bound(batch)
        low, high = self._bounds(batch)
        log_ratio = batch.log_ratio.detach()
        log_ratio = torch.where(clipped, log_ratio.clamp(min=low).clamp(max=high), log_ratio)
        weight = batch.advantage * _response_mean(log_ratio, batch.mask).exp()
        return -weight * torch.where(clipped, 1.0, unit_ratio(batch))

    def bound(self, batch: TokenBatch) -> Tensor:
        """Tokens whose factor in the geometric mean is the clip's."""
        log_ratio, advantage = batch.log_ratio, batch.advantage
        low, high = self._bounds(batch)
        return ((log_ratio > high) & (advantage > 0)) | ((log_ratio < low) & (advantage < 0))

    def _bounds(self, batch: TokenBatch) -> tuple[Hyper, Hyper]:
        like = batch.log_ratio
        return over_tokens(-self.low, like), over_tokens(self.high, like)


def _expm1(x: Hyper, sign: float = 1.0) -> Hyper:
    if isinstance(x, Tensor):
        return sign * torch.expm1(x)
    return sign * (math.expm1(x) if x < 700 else math.inf)
