"""Gates that choose among the tokens of a batch, separately in each run.

Whether they keep a token depends on the other tokens, so a micro-batch is not gated like the whole
batch (``over_batch``). They draw no random numbers, so a run is gated alone as it is inside a
population.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import Hyper, masked_mean, over_tokens, require_parameter
from erc_bench.objectives.base import Gate, Surrogate

__all__ = [
    "ClipCovariance",
    "HighEntropy",
    "SecondMoment",
    "covariance",
    "first_of",
    "ranks",
    "share",
    "shuffled",
]


@torch.no_grad()
def covariance(batch: TokenBatch) -> Tensor:
    """Each token's share in the covariance of advantage and log-probability, ``(..., B, T)``.

    ``(A - mean A) (log pi - mean log pi)``, means over a run's unmasked tokens (arXiv:2505.22617);
    0 where masked. Where it is large, the update lowers the entropy most.
    """
    wide = torch.promote_types(batch.logp.dtype, torch.float32)  # float16 sums overflow
    centred = [
        x - masked_mean(x, batch.mask)[..., None, None]
        for x in (batch.advantage.to(wide), batch.logp.to(wide))
    ]
    return torch.where(batch.mask, centred[0] * centred[1], 0.0)


def share(fraction: Hyper, mask: Tensor) -> Tensor:
    """``max(1, floor(fraction n))`` of a run's n tokens, ``(...)``."""
    tokens = mask.sum((-2, -1))
    part = fraction.to(tokens.device) if isinstance(fraction, Tensor) else fraction
    return (part * tokens.double()).floor().clamp(min=1)


def ranks(key: Tensor, chosen: Tensor) -> Tensor:
    """Number a run's chosen tokens by ascending key, float32 ``(..., B, T)``; the others come after them.

    Equal keys are taken in the order of the tokens.

    >>> ranks(torch.tensor([[0.5, 0.1, 0.3]]), torch.tensor([[True, False, True]]))
    tensor([[1., 2., 0.]])
    """
    by_key = key.flatten(-2).argsort(dim=-1, stable=True)
    # The chosen tokens come first; both groups are in the order of their keys.
    behind = (~chosen.flatten(-2)).gather(-1, by_key).to(torch.int8).argsort(dim=-1, stable=True)
    order = by_key.gather(-1, behind)
    places = torch.arange(order.shape[-1], dtype=torch.float32, device=order.device)
    found = torch.empty(order.shape, dtype=torch.float32, device=order.device)
    return found.scatter_(-1, order, places.expand_as(order)).view_as(chosen)


def first_of(key: Tensor, chosen: Tensor, count: Tensor) -> Tensor:
    """Among the chosen tokens of each run those with the ``count`` smallest keys, bool ``(..., B, T)``."""
    return chosen & (ranks(key, chosen) < count[..., None, None])


@dataclass(frozen=True)
class HighEntropy(Gate):
    """Keeps the tokens of highest entropy: ``H >= tau``, the batch's quantile (arXiv:2506.01939).

    ``tau`` is the ``1 - fraction`` quantile of the trained policy's entropies over a run's unmasked
    tokens; a token whose entropy equals it is kept.

    Args:
        fraction: about the share of tokens that is kept; 1 or more keeps all.

    Raises:
        InputError: not positive.
    """

    over_batch: ClassVar[bool] = True

    fraction: Hyper = 0.2

    def __post_init__(self) -> None:
        require_parameter(self, "fraction", above=0)

    @torch.no_grad()
    def keep(self, batch: TokenBatch) -> Tensor:
        """Tokens at or above the quantile."""
        entropy = batch.require("entropy", by="HighEntropy")
        if not entropy.shape[-2] * entropy.shape[-1]:
            return batch.mask
        ascending = entropy.masked_fill(~batch.mask, torch.inf).flatten(-2).sort(dim=-1).values
        last = (batch.mask.sum((-2, -1)) - 1).clamp(min=0).double()
        below = 1 - self.fraction
        below = below.to(last) if isinstance(below, Tensor) else below
        # The smallest entropy that is not below the quantile. Without the 1e-6, rounding of
        # 1 - fraction could skip it.
        place = (below * last - 1e-6).ceil().clamp(min=0).long()
        tau = ascending.gather(-1, place.unsqueeze(-1)).unsqueeze(-1)
        return entropy >= tau


@dataclass(frozen=True)
class ClipCovariance(Gate):
    """Drops a few tokens of high covariance: ``low < cov < high`` (Clip-Cov, arXiv:2505.22617).

    Among the tokens with ``cov = (A - mean A) (log pi - mean log pi)`` inside the bounds,
    ``max(1, floor(fraction n))`` of a run's n unmasked tokens are dropped. They are chosen as if at
    random, and yet by the run's data alone: a hash of its actions (or of ``old_logp``, where there
    are no actions) shuffles the tokens. Another order of the responses gives another choice.

    Args:
        fraction: the share of all tokens that is dropped.
        low: the lower bound of ``cov``.
        high: the upper bound of ``cov``.
        besides: a surrogate whose clipped tokens are never chosen, since they have no gradient to lose.

    Raises:
        InputError: a fraction that is not positive, or a bound that is NaN.
    """

    over_batch: ClassVar[bool] = True

    fraction: Hyper = 2e-4
    low: Hyper = 1.0
    high: Hyper = 5.0
    besides: Surrogate | None = None

    def __post_init__(self) -> None:
        require_parameter(self, "fraction", above=0)
        require_parameter(self, "low")
        require_parameter(self, "high")

    @torch.no_grad()
    def keep(self, batch: TokenBatch) -> Tensor:
        """All tokens but the chosen ones."""
        candidates = self.candidates(batch)
        return ~first_of(shuffled(batch), candidates, share(self.fraction, batch.mask))

    @torch.no_grad()
    def candidates(self, batch: TokenBatch) -> Tensor:
        """Tokens among which the gate chooses, bool ``(..., B, T)``."""
        cov = covariance(batch)
        inside = (cov > over_tokens(self.low, cov)) & (cov < over_tokens(self.high, cov))
        inside &= batch.mask
        return inside if self.besides is None else inside & ~self.besides.bound(batch)


@dataclass(frozen=True)
class SecondMoment(Gate):
    """Drops the largest ``(log r)^2`` until the mean of the rest is at most ``tau`` (M2PO, arXiv:2510.01161).

    Algorithm 1 of the paper, with ``r = pi/mu`` and ``mu`` the policy that drew the tokens. It looks at
    the tokens that a clip would look at, ``A > 0, r > 1`` and ``A < 0, r < 1``, and keeps all others. Where
    even the smallest one exceeds ``tau``, all of them are dropped. AReaL counts every token instead; the
    authors' release turns the bound into a clip range.

    Args:
        tau: bound on the mean of ``(log r)^2`` over a run's tokens; inf drops nothing.

    Raises:
        InputError: not positive.
    """

    over_batch: ClassVar[bool] = True

    tau: Hyper = 0.04

    def __post_init__(self) -> None:
        require_parameter(self, "tau", above=0)

    @torch.no_grad()
    def keep(self, batch: TokenBatch) -> Tensor:
        """All tokens but those with the largest second moments."""
        log_ratio = batch.behaviour_log_ratio
        wide = log_ratio.to(torch.promote_types(log_ratio.dtype, torch.float32))
        constrained = (wide * batch.advantage > 0) & batch.mask
        moment = wide.square()
        ascending = moment.masked_fill(~constrained, torch.inf).flatten(-2).sort(dim=-1).values
        number = torch.arange(1, ascending.shape[-1] + 1, device=ascending.device)
        tau = self.tau
        bound = tau.to(wide)[:, None] if isinstance(tau, Tensor) and tau.ndim else tau
        # The mean of the smallest ones rises with their number, so those that fit come first.
        fits = (ascending.cumsum(-1) / number <= bound) & ascending.isfinite()
        return ~constrained | first_of(moment, constrained, fits.sum(-1))


#: Odd constants of splitmix64 (Steele, Lea and Flood, 2014), as signed integers.
_MIX = (-4658895280553007687, -7723592293110705685)


def _mixed(x: Tensor) -> Tensor:
    """A bijection of 64-bit integers that looks random."""
    for shift, factor in zip((30, 27), _MIX, strict=True):
        x = (x ^ (x >> shift)) * factor
    return x ^ (x >> 31)


def shuffled(batch: TokenBatch) -> Tensor:
    """A different number for each token of a run, int64 ``(..., B, T)``, that looks random.

    The seed is made of the run's actions, which are exact; log-probabilities may differ in their last
    bit between a run alone and the run in a population. Masked tokens do not change it.
    """
    given = batch.action
    bits = batch.old_logp.double().view(torch.int64) if given is None else given.long()
    place = batch.mask.long().cumsum(-1)
    seed = torch.where(batch.mask, _mixed(_mixed(bits) + place), 0).sum((-2, -1), keepdim=True)
    number = batch.mask.flatten(-2).long().cumsum(-1).view_as(place)
    return _mixed(_mixed(seed) + number)
