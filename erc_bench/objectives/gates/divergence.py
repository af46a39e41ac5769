"""Gates on how far the policy has moved at a token's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.drift import kl_exact, tv
from erc_bench.core.numerics import (
    Hyper,
    binary_kl,
    over_tokens,
    require_choice,
    require_parameter,
)
from erc_bench.objectives.base import Gate

__all__ = ["KLTrustRegion", "SampledKL", "SampledTV", "SequenceTrustRegion", "TVTrustRegion"]


@dataclass(frozen=True)
class _TrustRegion(Gate):
    """Keeps tokens whose whole distributions are at most ``delta`` apart."""

    delta: Hyper

    def __post_init__(self) -> None:
        require_parameter(self, "delta", above=0)

    def distance(self, batch: TokenBatch) -> Tensor:
        """How far the two are apart at each token, ``(..., B, T)``; 0 where masked."""
        raise NotImplementedError

    def _distributions(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Those of the old and of the trained policy, cleared where masked: anything may stand there."""
        masked = ~batch.mask.unsqueeze(-1)
        old = batch.require("old_log_probs", by=type(self).__name__)
        new = batch.require("log_probs", by=type(self).__name__)
        return old.masked_fill(masked, 0.0), new.masked_fill(masked, 0.0)

    @torch.no_grad()
    def keep(self, batch: TokenBatch) -> Tensor:
        """Tokens inside the region."""
        distance = self.distance(batch)
        delta = over_tokens(self.delta, distance)
        # An open region drops nothing, not even a token whose distance is NaN.
        return (distance <= delta) | (delta == torch.inf)


@dataclass(frozen=True)
class KLTrustRegion(_TrustRegion):
    """Keeps ``KL(pi_old || pi) <= delta`` over the full vocabulary: the constraint of TRPO itself.

    This gate is an oracle: it sees the divergence itself, which ERC estimates (TRPO,
    arXiv:1502.05477, at each state). On the first update after a rollout nothing is dropped.

    Args:
        delta: nats; inf drops nothing.

    Raises:
        InputError: not positive.
    """

    delta: Hyper = 0.01

    @torch.no_grad()
    def distance(self, batch: TokenBatch) -> Tensor:
        """KL, nats."""
        return kl_exact(*self._distributions(batch))


@dataclass(frozen=True)
class TVTrustRegion(_TrustRegion):
    """Keeps ``TV(pi_old, pi) = 1/2 sum_a |pi_a - pi_old_a| <= delta`` over the full vocabulary.

    The oracle of :class:`SampledTV` (arXiv:2602.04879). The default is what Pinsker's inequality
    allows at ``KL <= 0.01``: ``TV <= sqrt(KL / 2)``, about 0.07.

    Args:
        delta: in (0, 1]; 1 or more drops nothing.

    Raises:
        InputError: not positive.
    """

    delta: Hyper = 0.07

    @torch.no_grad()
    def distance(self, batch: TokenBatch) -> Tensor:
        """Total variation."""
        return tv(*self._distributions(batch))


@dataclass(frozen=True)
class SequenceTrustRegion(KLTrustRegion):
    """Keeps responses with ``max_t KL(pi_old || pi) <= delta``: Trust Region Masking (arXiv:2512.23075).

    The bound on what a surrogate can miss over a long response hangs on the largest divergence among
    its tokens, so one token outside the region costs the whole response its gradient. The divergences
    are exact, over the full vocabulary, as the paper's guarantee asks for.

    Args:
        delta: nats; inf drops nothing. The default is the bound of DPPO-Binary-KL and of TROLL.
        criterion: ``max``, or the ``mean`` over the response's tokens.

    Raises:
        InputError: a bound that is not positive, or another criterion.
    """

    over_sequences: ClassVar[bool] = True

    delta: Hyper = 0.05
    criterion: Literal["max", "mean"] = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "criterion", "max", "mean")

    @torch.no_grad()
    def distance(self, batch: TokenBatch) -> Tensor:
        """The response's KL at each of its tokens, nats."""
        kl = super().distance(batch)
        if self.criterion == "max":
            return kl.sort(dim=-1).values[..., -1:].expand_as(kl)
        tokens = batch.mask.sum(-1, keepdim=True).clamp(min=1)
        return (kl.sum(-1, keepdim=True) / tokens).expand_as(kl)


@dataclass(frozen=True)
class SampledTV(Gate):
    """Drops a token whose probability has moved too far in its gradient's direction (DPPO-Binary-TV).

    Tokens are dropped if ``A > 0`` and ``pi - mu > high``, or if ``A < 0`` and ``mu - pi > low``
    (arXiv:2602.04879 eq. 12), with ``mu`` the policy that drew the tokens: ``rollout_logp``, else
    ``old_logp``. ``|pi - mu|`` is the total variation where only two outcomes are told apart, the sampled
    action and all others; it never exceeds that of the whole distributions. prime-rl's default loss
    has this mask at 0.2.

    Args:
        low: the largest loss of probability; 1 or more drops nothing on that side.
        high: the largest gain of probability.

    Raises:
        InputError: not positive.
    """

    low: Hyper = 0.15
    high: Hyper = 0.15

    def __post_init__(self) -> None:
        require_parameter(self, "low", above=0)
        require_parameter(self, "high", above=0)

    @torch.no_grad()
    def distance(self, batch: TokenBatch) -> Tensor:
        """How far the sampled action's probability has moved, ``(..., B, T)``."""
        return (batch.logp.exp() - batch.behaviour_logp.exp()).abs()

    @torch.no_grad()
    def keep(self, batch: TokenBatch) -> Tensor:
        """Tokens that have not moved too far, or whose gradient leads back."""
        distance, change = self.distance(batch), batch.logp - batch.behaviour_logp
        rises = (batch.advantage > 0) & (change > 0) & (distance > over_tokens(self.high, distance))
        falls = (batch.advantage < 0) & (change < 0) & (distance > over_tokens(self.low, distance))
        return ~(rises | falls)


@dataclass(frozen=True)
class SampledKL(SampledTV):
    """The same with the KL of the two outcomes, ``KL(mu || pi)`` (DPPO-Binary-KL, arXiv:2602.04879 eq. 14).

    ``mu log(mu/pi) + (1 - mu) log((1 - mu)/(1 - pi))`` never exceeds that of the whole distributions.

    Args:
        low: nats that an action with ``A < 0`` may fall; inf drops nothing on that side.
        high: nats that an action with ``A > 0`` may rise.

    Raises:
        InputError: not positive.
    """

    low: Hyper = 0.05
    high: Hyper = 0.05

    @torch.no_grad()
    def distance(self, batch: TokenBatch) -> Tensor:
        """The binary KL, nats, ``(..., B, T)``."""
        return binary_kl(batch.behaviour_logp, batch.logp)
