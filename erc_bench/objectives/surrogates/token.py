"""Losses of each token's own ratio, ``(..., B, T)``; each is minus what its paper maximises.

``r = exp(clamp(log pi - log pi_old, -20, 20))`` is the sampled action's ratio, ``A`` the advantage
and ``sg`` the stop-gradient. Clips leave ``r`` alone inside ``[1 - low, 1 + high]``, bounds
included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import Hyper, over_tokens, require_parameter
from erc_bench.objectives.base import Surrogate

__all__ = [
    "CEGPPO",
    "CISPO",
    "GPPO",
    "SAPO",
    "BehaviourWeighted",
    "ImportanceWeighted",
    "PPOClip",
    "Reinforce",
    "unit_ratio",
]


def unit_ratio(batch: TokenBatch) -> Tensor:
    """``r/sg(r)``, which is 1 and has the gradient of ``log pi``; a constant where ``r`` is clamped.

    It is computed without a division, whose gradient at a tiny ``r`` overflows in half precision.
    """
    return (batch.log_ratio - batch.log_ratio.detach()).exp()


@dataclass(frozen=True)
class Reinforce(Surrogate):
    """``-A log pi``: the policy gradient, however far the policy has moved (Williams, 1992)."""

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
class BehaviourWeighted(Surrogate):
    """``-(pi/mu) A``, with ``mu`` the policy that drew the tokens: ``rollout_logp``, else ``old_logp``.

    The surrogate of what anchors its trust region at the rollout, as DPPO (arXiv:2602.04879 eq. 11).
    """

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        return -batch.advantage * batch.behaviour_log_ratio.exp()


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

    def _ratio(self, batch: TokenBatch) -> Tensor:
        """The clipped quantity, with its gradient."""
        return batch.ratio

    def _clipped(self, batch: TokenBatch) -> Tensor:
        ratio = self._ratio(batch)
        low, high = self._bounds(ratio)
        return ratio.clamp(min=low).clamp(max=high)

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        ratio, advantage = self._ratio(batch), batch.advantage
        return -torch.minimum(ratio * advantage, self._clipped(batch) * advantage)

    def bound(self, batch: TokenBatch) -> Tensor:
        """Tokens where the clipped term is the smaller one."""
        above, below = self._binds(batch)
        return above | below

    def _binds(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Where the upper and where the lower bound determines the loss."""
        ratio, advantage = self.ratio(batch), batch.advantage
        low, high = self._bounds(ratio)
        return (ratio > high) & (advantage > 0), (ratio < low) & (advantage < 0)


@dataclass(frozen=True)
class GPPO(PPOClip):
    """``-min(r A, clip(r, (1 - low) r/sg(r), (1 + high) r/sg(r)) A)`` (arXiv:2508.07629).

    The value is PPO-clip's. Where the clip binds the gradient is kept, at the clipped ratio:
    ``-(1 + high) A grad log pi`` above and ``-(1 - low) A grad log pi`` below.
    """

    def _clipped(self, batch: TokenBatch) -> Tensor:
        return super()._clipped(batch).detach() * unit_ratio(batch)


@dataclass(frozen=True)
class CEGPPO(GPPO):
    """GPPO whose loss is multiplied where the clip binds (CE-GPPO, arXiv:2509.20712).

    ``-b_low (1 - low) r/sg(r) A`` at ``r < 1 - low, A < 0``, ``-b_high (1 + high) r/sg(r) A`` at
    ``r > 1 + high, A > 0``, else ``-r A``. Value and gradient are both multiplied, as in the paper
    and its release. With 1 and 1 it is GPPO; with 0 and 0 the gradient is PPO-clip's.

    Args:
        low: distance of the lower bound from 1.
        high: distance of the upper bound from 1.
        b_low: multiplies below the clip; keeps punishing unlikely actions, which lowers entropy. The
            paper's beta_1: 0.5 (1.5B) and 0.75 (7B).
        b_high: multiplies above the clip; keeps rewarding them, which raises entropy. beta_2: 1.

    Raises:
        InputError: a bound that is not positive, a negative or infinite multiplier.
    """

    b_low: Hyper = 0.5
    b_high: Hyper = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_parameter(self, "b_low", at_least=0, finite=True)
        require_parameter(self, "b_high", at_least=0, finite=True)

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        loss = super().__call__(batch)
        above, below = self._binds(batch)
        loss = torch.where(above, over_tokens(self.b_high, loss) * loss, loss)
        return torch.where(below, over_tokens(self.b_low, loss) * loss, loss)


@dataclass(frozen=True)
class CISPO(PPOClip):
    """``-sg(clip(r, 1 - low, 1 + high)) A log pi`` (CISPO, arXiv:2506.13585 eq. 4 and 5).

    The clip bounds the weight, and no token loses its gradient: ``-clip(r) A grad log pi``.

    Args:
        low: distance of the weight's lower bound from 1; 1, the default, sets none, as the paper.
        high: distance of its upper bound from 1, which the paper tunes. 4 lets the weight reach 5,
            the value that TRL recommends after ScaleRL (arXiv:2510.13786).

    Raises:
        InputError: not positive.
    """

    low: Hyper = 1.0
    high: Hyper = 4.0

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        return -self._clipped(batch).detach() * batch.advantage * batch.logp

    def _binds(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Where the weight is a bound, whatever the advantage's sign."""
        low, high = self._bounds(batch.ratio)
        return batch.ratio > high, batch.ratio < low


@dataclass(frozen=True)
class SAPO(Surrogate):
    """``-(4/tau) sigmoid(tau (r - 1)) A``: a soft clip (SAPO, arXiv:2511.20347).

    The gradient is ``-4 p (1 - p) r A grad log pi`` with ``p = sigmoid(tau (r - 1))``: ``r A`` near
    ``r = 1``, fading away from it. The value is not ``-A`` at ``r = 1`` but ``-2 A/tau``.

    Args:
        tau_positive: sharpness at ``A > 0``.
        tau_negative: sharpness at ``A <= 0``; the paper fades these faster.

    Raises:
        InputError: not positive, or infinite.
    """

    tau_positive: Hyper = 1.0
    tau_negative: Hyper = 1.05

    def __post_init__(self) -> None:
        require_parameter(self, "tau_positive", above=0, finite=True)
        require_parameter(self, "tau_negative", above=0, finite=True)

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        ratio, advantage = batch.ratio, batch.advantage
        positive, negative = (
            torch.as_tensor(over_tokens(tau, ratio), dtype=ratio.dtype, device=ratio.device)
            for tau in (self.tau_positive, self.tau_negative)
        )
        tau = torch.where(advantage > 0, positive, negative)
        return -(4 / tau) * torch.sigmoid(tau * (ratio - 1)) * advantage
