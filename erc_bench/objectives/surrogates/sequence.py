"""Losses whose ratio is a response's, written as one loss per token, ``(..., B, T)``.

A token's loss is the response's weight with a stop-gradient, times ``r/sg(r)``, which is 1 and has
the gradient of ``log pi``. So the mean over a response's tokens has the value and the gradient of
the sequence-level loss, and a gate that drops a token drops exactly this token's contribution.
(Detaching the token's log-probability inside the response's ratio would also change the weight of
its neighbours' gradients.)

Use GSPO and GMPO with ``SequenceMeanTokenMean``, which gives every response the same weight. VESPO and
TOPR weigh ``log pi`` by the ratio of the whole response, which is not normalised by its length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import Hyper, clamp_log_ratio, over_tokens, require_parameter
from erc_bench.objectives.base import Surrogate
from erc_bench.objectives.surrogates.token import PPOClip, unit_ratio

__all__ = ["GMPO", "GSPO", "TOPR", "VESPO"]


def _response_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over each response's tokens, ``(..., B, 1)``; 0 for a response without a token.

    The sum is at least in float32, because in float16 that of a long response would overflow.
    """
    wide = torch.where(mask, x, 0.0).to(torch.promote_types(x.dtype, torch.float32))
    return (wide.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)).to(x.dtype)


def _response_log_ratio(batch: TokenBatch) -> Tensor:
    """``log(pi(y)/mu(y))``, the sum over each response's tokens, ``(..., B, 1)``, without a gradient."""
    log_ratio = batch.behaviour_log_ratio.detach()
    wide = log_ratio.to(torch.promote_types(log_ratio.dtype, torch.float32))
    return clamp_log_ratio(wide.sum(-1, keepdim=True))


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


@dataclass(frozen=True)
class VESPO(Surrogate):
    """``-phi(w) A log pi``, ``phi(w) = w^k exp(lambda (1 - w))`` (VESPO, arXiv:2602.10693).

    ``w = pi(y)/mu(y)`` is the ratio of the whole response, ``mu`` the policy that drew it, and ``phi(w)``
    a constant: 1 at ``w = 1``, largest at ``w = k/lambda``, zero far away on either side. A soft mask of
    responses, with exponents of its own for either sign of the advantage. The gradient is ``-phi(w) A
    grad log pi``.

    Args:
        k_positive: exponent at ``A >= 0``: the more, the faster it falls below 1.
        lambda_positive: rate at ``A >= 0``: the more, the faster it falls above 1.
        k_negative: exponent at ``A < 0``.
        lambda_negative: rate at ``A < 0``.

    Raises:
        InputError: negative or infinite.
    """

    k_positive: Hyper = 2.0
    lambda_positive: Hyper = 3.0
    k_negative: Hyper = 3.0
    lambda_negative: Hyper = 2.0

    def __post_init__(self) -> None:
        for name in ("k_positive", "lambda_positive", "k_negative", "lambda_negative"):
            require_parameter(self, name, at_least=0, finite=True)

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        log_w = _response_log_ratio(batch)
        positive, negative = (
            over_tokens(k, log_w) * log_w - over_tokens(rate, log_w) * (log_w.exp() - 1)
            for k, rate in (
                (self.k_positive, self.lambda_positive),
                (self.k_negative, self.lambda_negative),
            )
        )
        phi = torch.where(batch.advantage >= 0, positive, negative).exp()
        return -phi.to(batch.logp) * batch.advantage * batch.logp


@dataclass(frozen=True)
class TOPR(Surrogate):
    """``-A log pi`` at ``A >= 0``, ``-min(w, cap) A log pi`` at ``A < 0`` (TOPR, arXiv:2503.14286).

    ``w = pi(y)/mu(y)`` is the ratio of the whole response, a constant, ``mu`` the policy that drew it. What
    was good is imitated, however unlikely it has become; what was bad is left alone once it is.

    Args:
        cap: the largest weight of a bad response.

    Raises:
        InputError: not positive.
    """

    cap: Hyper = 1.0

    def __post_init__(self) -> None:
        require_parameter(self, "cap", above=0)

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        w = _response_log_ratio(batch).exp()
        w = w.clamp(max=over_tokens(self.cap, w)).to(batch.logp)
        weight = torch.where(batch.advantage < 0, w, 1.0)
        return -weight * batch.advantage * batch.logp


def _expm1(x: Hyper, sign: float = 1.0) -> Hyper:
    if isinstance(x, Tensor):
        return sign * torch.expm1(x)
    return sign * (math.expm1(x) if x < 700 else math.inf)
