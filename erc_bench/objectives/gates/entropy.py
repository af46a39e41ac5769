"""Gates on the ratio of the trained policy's entropy to the old one's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import (
    ENTROPY_EPS,
    Hyper,
    entropy_ratio,
    entropy_slope,
    over_tokens,
    require_parameter,
)
from erc_bench.objectives.base import Gate

__all__ = ["DirectionalEntropyRatio", "EntropyRatio"]


@dataclass(frozen=True)
class EntropyRatio(Gate):
    """Entropy Ratio Clipping: keeps ``1 - low < rho < 1 + high`` (ERC, arXiv:2512.05591).

    ``rho = (H(pi) + eps) / (H(pi_old) + eps)`` over the full vocabulary, both bounds strict. On the
    first update after a rollout ``rho = 1`` and nothing is dropped. The gate does not see changes
    that keep the entropy: swapping two probabilities leaves ``rho = 1``.

    Args:
        low: distance of the lower bound from 1; 1 or more never drops on that side.
        high: distance of the upper bound from 1; inf never drops on that side.
        eps: nats, keeps ``rho`` finite at deterministic states.

    Raises:
        InputError: not positive.
    """

    low: Hyper = 0.05
    high: Hyper = 0.05
    eps: Hyper = ENTROPY_EPS

    def __post_init__(self) -> None:
        require_parameter(self, "low", above=0)
        require_parameter(self, "high", above=0)
        require_parameter(self, "eps", above=0, finite=True)

    @property
    def band(self) -> tuple[Hyper, Hyper]:
        """``(low, high)``."""
        return self.low, self.high

    @torch.no_grad()
    def ratio(self, batch: TokenBatch) -> Tensor:
        """``rho`` of each token, ``(..., B, T)``."""
        entropy = batch.require("entropy", by=type(self).__name__)
        old_entropy = batch.require("old_entropy", by=type(self).__name__)
        return entropy_ratio(entropy, old_entropy, over_tokens(self.eps))

    @torch.no_grad()
    def keep(self, batch: TokenBatch) -> Tensor:
        """Tokens inside the band."""
        below, above = self._outside(batch)
        return ~(below | above)

    def _outside(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Tokens below the band and tokens above it.

        A side without a bound has no such tokens, even where rounding has made rho negative,
        infinite or NaN. On a side with a bound, NaN counts as outside.
        """
        rho = self.ratio(batch)
        below = ~((rho > over_tokens(1 - self.low, rho)) | over_tokens(self.low >= 1))
        above = ~((rho < over_tokens(1 + self.high, rho)) | over_tokens(self.high == torch.inf))
        return below, above


@dataclass(frozen=True)
class DirectionalEntropyRatio(EntropyRatio):
    """Outside ERC's band, drops only gradients that lead further out of it.

    A token's gradient step moves its state's entropy, to first order, along ``dH = -A [p_a (log p_a
    + H) - sum_b p_b^2 (log p_b + H)]``, with ``p`` the trained policy (compare arXiv:2602.03392).
    Tokens are dropped if ``rho >= 1 + high`` and ``dH > 0``, or if ``rho <= 1 - low`` and ``dH < 0``.
    A token whose gradient leads back into the band keeps it, which ERC takes away. ``A`` stands for
    the surrogate's gradient, since that of every surrogate here is ``A`` times a number that is not
    negative.

    The sign of ``dH`` is that of a step on this state's logits alone; with parameters shared between
    states, the entropy may move the other way.

    Args:
        low: distance of the lower bound from 1; 1 or more never drops on that side.
        high: distance of the upper bound from 1; inf never drops on that side.
        eps: nats, keeps ``rho`` finite at deterministic states.

    Raises:
        InputError: not positive.
    """

    @torch.no_grad()
    def keep(self, batch: TokenBatch) -> Tensor:
        """Tokens inside the band, or whose gradient leads back into it."""
        below, above = self._outside(batch)
        change = self.entropy_change(batch)
        return ~((below & (change < 0)) | (above & (change > 0)))

    @torch.no_grad()
    def entropy_change(self, batch: TokenBatch) -> Tensor:
        """``dH`` of each token, nats per unit of step, ``(..., B, T)``."""
        log_probs = batch.require("log_probs", by=type(self).__name__)
        log_probs = log_probs.masked_fill(~batch.mask.unsqueeze(-1), 0.0)
        entropy = batch.require("entropy", by=type(self).__name__)
        return batch.advantage * entropy_slope(log_probs, batch.logp, entropy)
