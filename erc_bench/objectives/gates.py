"""Gates: which tokens keep their gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erc_bench.batch import TokenBatch
from erc_bench.numerics import ENTROPY_EPS, Hyper, entropy_ratio, over_tokens, require_parameter
from erc_bench.objectives.base import Gate

__all__ = ["EntropyRatio"]


@dataclass(frozen=True)
class EntropyRatio(Gate):
    """Entropy Ratio Clipping: keeps ``1 - low < rho < 1 + high`` (ERC, arXiv:2512.05591).

    ``rho = (H(pi) + eps) / (H(pi_old) + eps)`` over the full vocabulary, both bounds strict. On the
    first update after a rollout ``rho = 1`` and nothing is dropped. Changes that keep the entropy
    pass unseen: swapping two probabilities leaves ``rho = 1``.

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

    @torch.no_grad()
    def ratio(self, batch: TokenBatch) -> Tensor:
        """``rho`` of each token, ``(..., B, T)``."""
        entropy = batch.require("entropy", by="EntropyRatio")
        old_entropy = batch.require("old_entropy", by="EntropyRatio")
        return entropy_ratio(entropy, old_entropy, over_tokens(self.eps))

    @torch.no_grad()
    def keep(self, batch: TokenBatch) -> Tensor:
        """Tokens inside the band."""
        rho = self.ratio(batch)
        # An open side drops nothing: also not a rho that rounding made negative, infinite or NaN.
        above = (rho > over_tokens(1 - self.low, rho)) | over_tokens(self.low >= 1)
        below = (rho < over_tokens(1 + self.high, rho)) | over_tokens(self.high == torch.inf)
        return above & below
