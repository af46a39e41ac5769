"""Per-token policy losses, ``(..., B, T)``: minus what is maximised.

``r = exp(clamp(log pi - log pi_old, -20, 20))`` is the sampled action's ratio, ``A`` the advantage
and ``sg`` the stop-gradient. Clips leave ``r`` alone inside ``[1 - low, 1 + high]``, bounds
included.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from erc_bench.batch import TokenBatch
from erc_bench.numerics import Hyper, over_tokens, require_parameter
from erc_bench.objectives.base import Surrogate

__all__ = ["GPPO", "DualClip", "ImportanceWeighted", "PPOClip", "Reinforce"]


@dataclass(frozen=True)
class Reinforce(Surrogate):
    """``-A log pi``: the policy gradient, blind to how far the policy moved (Williams, 1992)."""

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        return -batch.advantage * batch.logp


@dataclass(frozen=True)
class ImportanceWeighted(Surrogate):
    """``-r A``: the surrogate that trust-region methods bound (TRPO, arXiv:1502.05477 eq. 14)."""

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        return -batch.advantage * batch.ratio


@dataclass(frozen=True)
class PPOClip(Surrogate):
    """``-min(r A, clip(r, 1 - low, 1 + high) A)`` (PPO, arXiv:1707.06347 eq. 7).

    The gradient is ``-r A grad log pi``, and zero where the clip binds: ``r > 1 + high`` at ``A >
    0``, ``r < 1 - low`` at ``A < 0``.

    Args:
        low: distance of the lower bound from 1; 1 or more never clips on that side.
        high: distance of the upper bound from 1; inf never clips on that side.

    Raises:
        InputError: not positive.
    """

    low: Hyper = 0.2
    high: Hyper = 0.2

    def __post_init__(self) -> None:
        require_parameter(self, "low", above=0)
        require_parameter(self, "high", above=0)

    @property
    def clip_range(self) -> tuple[Hyper, Hyper]:
        """``(low, high)``."""
        return self.low, self.high

    def _bounds(self, ratio: Tensor) -> tuple[Hyper, Hyper]:
        return over_tokens(1 - self.low, ratio), over_tokens(1 + self.high, ratio)

    def _clipped(self, batch: TokenBatch) -> Tensor:
        low, high = self._bounds(batch.ratio)
        return batch.ratio.clamp(min=low).clamp(max=high)

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        ratio, advantage = batch.ratio, batch.advantage
        return -torch.minimum(ratio * advantage, self._clipped(batch) * advantage)

    def bound(self, batch: TokenBatch) -> Tensor:
        """Tokens where the clipped term is the smaller one."""
        ratio, advantage = batch.ratio, batch.advantage
        low, high = self._bounds(ratio)
        return ((ratio > high) & (advantage > 0)) | ((ratio < low) & (advantage < 0))


@dataclass(frozen=True)
class GPPO(PPOClip):
    """``-min(r A, clip(r, (1 - low) r/sg(r), (1 + high) r/sg(r)) A)`` (arXiv:2508.07629).

    The value is PPO-clip's. Where the clip binds the gradient is kept, at the clipped ratio:
    ``-(1 + high) A grad log pi`` above and ``-(1 - low) A grad log pi`` below.
    """

    def _clipped(self, batch: TokenBatch) -> Tensor:
        # r/sg(r), without a division: its gradient at a tiny r overflows in half precision
        one = (batch.log_ratio - batch.log_ratio.detach()).exp()
        return super()._clipped(batch).detach() * one


@dataclass(frozen=True)
class DualClip(Surrogate):
    """``min(base, -c A)`` at ``A < 0``, else ``base`` (arXiv:1912.09729).

    Where it binds, at ``r > c``, the gradient is zero: also on GPPO, as in ERC's release.

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
        """The base's."""
        return self.base.clip_range

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
