"""Surrogates that wrap another one, with a second clip or a weight."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import (
    Hyper,
    clamp_log_ratio,
    over_tokens,
    require_choice,
    require_parameter,
)
from erc_bench.objectives.base import Surrogate
from erc_bench.objectives.surrogates.token import PPOClip

__all__ = ["DualClip", "TruncatedImportance"]


@dataclass(frozen=True)
class DualClip(Surrogate):
    """``min(base, -c A)`` at ``A < 0``, else ``base`` (arXiv:1912.09729).

    Where it binds, at ``r > c``, the gradient is zero, even around GPPO, as in ERC's release.

    Args:
        base: surrogate whose loss is bounded.
        c: largest ratio that an action with a negative advantage is punished for. The paper uses 3,
            ERC's release 10.

    Raises:
        InputError: ``c`` not above 1.
    """

    base: Surrogate = field(default_factory=PPOClip)
    c: Hyper = 10.0

    def __post_init__(self) -> None:
        require_parameter(self, "c", above=1)

    @property
    def clip_range(self) -> tuple[Hyper, Hyper] | None:
        """The clip range of the base."""
        return self.base.clip_range

    def ratio(self, batch: TokenBatch) -> Tensor:
        """The ratio that the base clips."""
        return self.base.ratio(batch)

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        loss = self.base(batch)
        return torch.where(self._binds(loss, batch), self._limit(batch), loss)

    def bound(self, batch: TokenBatch) -> Tensor:
        """Tokens where the base's clip or this one determines the loss."""
        return self.base.bound(batch) | self._binds(self.base(batch), batch)

    def _limit(self, batch: TokenBatch) -> Tensor:
        return -batch.advantage * over_tokens(self.c, batch.advantage)

    def _binds(self, loss: Tensor, batch: TokenBatch) -> Tensor:
        return (batch.advantage < 0) & (loss > self._limit(batch))


@dataclass(frozen=True)
class TruncatedImportance(Surrogate):
    """``min(pi_old/pi_rollout, cap) base``: corrects for the engine that drew the tokens.

    Where the sampler's probabilities (``rollout_logp``) differ from the old policy's, a token is
    weighed by the ratio of the two, truncated; no gradient flows through the weight (Yao et al.,
    "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025; the truncation
    is V-trace's, arXiv:1802.01561). A batch without ``rollout_logp`` was drawn by the old policy:
    the weight is 1.

    Args:
        base: surrogate that is weighed.
        cap: largest weight; inf never truncates.
        level: whose ratio the weight is: the ``token``'s, or that of its whole ``sequence``, the product
            of its tokens'.

    Raises:
        InputError: ``cap`` not positive, or another level.
    """

    base: Surrogate = field(default_factory=PPOClip)
    cap: Hyper = 2.0
    level: Literal["token", "sequence"] = "token"

    def __post_init__(self) -> None:
        require_parameter(self, "cap", above=0)
        require_choice(self, "level", "token", "sequence")

    @property
    def clip_range(self) -> tuple[Hyper, Hyper] | None:
        """The clip range of the base."""
        return self.base.clip_range

    def ratio(self, batch: TokenBatch) -> Tensor:
        """The ratio that the base clips."""
        return self.base.ratio(batch)

    def bound(self, batch: TokenBatch) -> Tensor:
        """Tokens that the base's clip determines; the weight does not clip the policy."""
        return self.base.bound(batch)

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        loss = self.base(batch)
        return loss if batch.rollout_logp is None else self.weight(batch).to(loss) * loss

    def weight(self, batch: TokenBatch) -> Tensor:
        """``min(pi_old/pi_rollout, cap)``; at the level of tokens 1, or a smaller ``cap``, where masked."""
        gap = batch.old_logp - batch.require("rollout_logp", by="TruncatedImportance")
        if self.level == "sequence":
            gap = gap.to(torch.promote_types(gap.dtype, torch.float32)).sum(-1, keepdim=True)
        weight = clamp_log_ratio(gap).exp()
        return weight.clamp(max=over_tokens(self.cap, weight))
