"""What is added to a surrogate: KL penalties, entropy bonus, likelihood of correct responses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import (
    Hyper,
    clamp_log_ratio,
    k1,
    k2,
    k3,
    kl,
    require_choice,
    require_parameter,
)
from erc_bench.core.projection import kl_projection
from erc_bench.objectives.gates.selection import covariance, first_of, share

__all__ = [
    "AdaptiveKL",
    "CovarianceKL",
    "EntropyBonus",
    "ExactKL",
    "KLEstimate",
    "PositiveNLL",
    "ProbabilityShift",
    "ProjectionKL",
]

Reference = Literal["old", "ref"]

_ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


@dataclass(frozen=True)
class _Weighted:
    """A coefficient, and the mask for a regularizer of all tokens."""

    coefficient: Hyper

    def __post_init__(self) -> None:
        require_parameter(self, "coefficient", at_least=0, finite=True)

    def mask(self, batch: TokenBatch) -> Tensor:
        """Every unmasked token."""
        return batch.mask


@dataclass(frozen=True)
class ExactKL(_Weighted):
    """KL over the full vocabulary, nats (PPO's penalty, arXiv:1707.06347 eq. 8).

    ``forward`` is ``KL(reference || pi)``, ``reverse`` is ``KL(pi || reference)``.

    Args:
        coefficient: weight of the penalty.
        reference: ``old``, the policy that made the rollout, or ``ref``, a fixed one.
        direction: ``forward`` or ``reverse``.

    Raises:
        InputError: a negative coefficient or an unknown word.
    """

    reference: Reference = "old"
    direction: Literal["forward", "reverse"] = "forward"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "reference", "old", "ref")
        require_choice(self, "direction", "forward", "reverse")

    @property
    def name(self) -> str:
        """Such as ``kl_forward_old``."""
        return f"kl_{self.direction}_{self.reference}"

    def penalty(self, batch: TokenBatch) -> Tensor:
        """KL of each token."""
        masked = ~batch.mask.unsqueeze(-1)
        reference = batch.require(f"{self.reference}_log_probs", by="ExactKL")
        policy = batch.require("log_probs", by="ExactKL").masked_fill(masked, 0.0)
        reference = reference.masked_fill(masked, 0.0)
        if self.direction == "forward":
            return kl(reference, policy)
        return kl(policy, reference)


@dataclass(frozen=True)
class AdaptiveKL(ExactKL):
    """``KL(pi_old || pi)`` with a coefficient that keeps it near a target (arXiv:1707.06347 sec. 4).

    The updates of a rollout lead to a mean KL of ``d``. Then ``beta`` is halved where ``d < target /
    1.5`` and doubled where ``d > 1.5 target``. Between rollouts it is an :class:`ExactKL`.

    Args:
        coefficient: the first ``beta``.
        target: the mean KL to be kept, nats.

    Raises:
        InputError: a coefficient or target that is not positive, or any other KL than this one.
    """

    target: Hyper = 0.01

    #: The metric that is measured; ``erc_bench.core.drift`` defines it.
    metric: ClassVar[str] = "drift/kl_exact"

    def __post_init__(self) -> None:
        require_parameter(self, "coefficient", above=0, finite=True)
        require_parameter(self, "target", above=0, finite=True)
        require_choice(self, "reference", "old")
        require_choice(self, "direction", "forward")

    def adapted(self, metrics: Mapping[str, Tensor]) -> AdaptiveKL:
        """The penalty with each run's next coefficient, which stays the same where the measured KL is NaN.

        Raises:
            ValueError: no ``drift/kl_exact`` among the metrics.
        """
        if self.metric not in metrics:
            raise ValueError(f"AdaptiveKL: needs the metric {self.metric!r}, got {[*metrics]}")
        measured = metrics[self.metric].detach().double()
        beta, target = (
            torch.as_tensor(value, dtype=measured.dtype, device=measured.device)
            for value in (self.coefficient, self.target)
        )
        factor = torch.ones_like(measured)
        factor[measured < target / 1.5] = 0.5
        factor[measured > target * 1.5] = 2.0
        return self.with_coefficient((beta * factor).clamp(*_BETA_RANGE))

    def with_coefficient(self, coefficient: Hyper) -> AdaptiveKL:
        """The same penalty with another coefficient."""
        return replace(self, coefficient=coefficient)


#: Bounds of an adaptive coefficient, which may be halved or doubled any number of times.
_BETA_RANGE = (1e-20, 1e20)


@dataclass(frozen=True)
class CovarianceKL(_Weighted):
    """``|log r|`` on the tokens of highest covariance (KL-Cov, arXiv:2505.22617).

    ``max(1, floor(fraction n))`` of a run's n unmasked tokens, by ``cov = (A - mean A) (log pi -
    mean log pi)``, are penalised; the penalty is aggregated over all tokens. Its gradient is
    ``sign(log r) grad log pi``, and zero at ``r = 1``. The absolute log-ratio is the estimate of the
    KL in the paper's code.

    Args:
        coefficient: weight of the penalty.
        fraction: the share of tokens that is penalised; the paper uses 2e-3 (7B) and 2e-4 (32B).

    Raises:
        InputError: a negative coefficient, or a fraction that is not positive.
    """

    over_batch: ClassVar[bool] = True

    coefficient: Hyper = 1.0
    fraction: Hyper = 2e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_parameter(self, "fraction", above=0)

    @property
    def name(self) -> str:
        """``kl_cov``."""
        return "kl_cov"

    def penalty(self, batch: TokenBatch) -> Tensor:
        """``|log r|`` of the chosen tokens, 0 of the others."""
        return torch.where(self.chosen(batch), batch.log_ratio.abs(), 0.0)

    @torch.no_grad()
    def chosen(self, batch: TokenBatch) -> Tensor:
        """The tokens of highest covariance, bool ``(..., B, T)``."""
        return first_of(-covariance(batch), batch.mask, share(self.fraction, batch.mask))


@dataclass(frozen=True)
class KLEstimate(_Weighted):
    """KL(pi || reference) from the sampled action alone, nats (Schulman, 2020; GRPO eq. 4 is k3).

    With ``l = clamp(log pi_reference - log pi, -20, 20)``: k1 is ``-l``, k2 is ``l^2 / 2`` and k3
    is ``exp(l) - 1 - l``. k1 and k3 are unbiased as values at samples of ``pi``; as losses they
    differ: k1's gradient is zero in expectation and k2's is that of the KL.

    Args:
        coefficient: weight of the penalty.
        kind: ``k1``, ``k2`` or ``k3``.
        reference: ``ref``, a fixed policy, or ``old``, the one that made the rollout.

    Raises:
        InputError: a negative coefficient or an unknown word.
    """

    kind: Literal["k1", "k2", "k3"] = "k3"
    reference: Reference = "ref"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "kind", *_ESTIMATORS)
        require_choice(self, "reference", "ref", "old")

    @property
    def name(self) -> str:
        """Such as ``kl_k3_ref``."""
        return f"kl_{self.kind}_{self.reference}"

    def penalty(self, batch: TokenBatch) -> Tensor:
        """The estimate at each token."""
        reference = batch.require(f"{self.reference}_logp", by="KLEstimate")
        return _ESTIMATORS[self.kind](clamp_log_ratio(reference - batch.logp))


@dataclass(frozen=True)
class EntropyBonus(_Weighted):
    """``-H(pi)``: rewards entropy over the full vocabulary, nats (arXiv:1707.06347 eq. 9)."""

    @property
    def name(self) -> str:
        """``entropy_bonus``."""
        return "entropy_bonus"

    def penalty(self, batch: TokenBatch) -> Tensor:
        """Minus the entropy of each token."""
        return -batch.require("entropy", by="EntropyBonus")


@dataclass(frozen=True)
class PositiveNLL(_Weighted):
    """``-log pi`` on the tokens of responses with reward 1, aggregated over those responses alone.

    It is in ERC's release (``postive_loss_coeff`` = 0.1), and not in its paper.
    """

    coefficient: Hyper = 0.1

    @property
    def name(self) -> str:
        """``positive_nll``."""
        return "positive_nll"

    def penalty(self, batch: TokenBatch) -> Tensor:
        """Negative log-likelihood of each token."""
        return -batch.logp

    def mask(self, batch: TokenBatch) -> Tensor:
        """Unmasked tokens of responses whose reward is exactly 1."""
        rewarded = batch.require("reward", by="PositiveNLL") == 1
        return batch.mask & rewarded.unsqueeze(-1)


@dataclass(frozen=True)
class ProbabilityShift:
    """``|A| (pi - mu)^2 / (2 delta mu)``: DRPO's quadratic penalty (arXiv:2606.09821 eq. 8).

    ``mu`` is the policy that drew the tokens. On top of ``r A`` it multiplies a token's gradient by
    ``1 - sign(A) (pi - mu) / delta``: that fades towards the edge of :class:`SampledTV`'s region, is zero
    on it, and leads back outside, where a gate leaves nothing.

    Args:
        delta: the change of probability at which the gradient is zero; inf has no penalty. The default is
            DPPO's; the authors' release has 12.5, an edge that no change of probability reaches.

    Raises:
        InputError: not positive.
    """

    delta: Hyper = 0.15

    def __post_init__(self) -> None:
        require_parameter(self, "delta", above=0)

    @property
    def name(self) -> str:
        """``probability_shift``."""
        return "probability_shift"

    @property
    def coefficient(self) -> Hyper:
        """``1 / delta``."""
        return 1 / self.delta

    def mask(self, batch: TokenBatch) -> Tensor:
        """Every unmasked token."""
        return batch.mask

    def penalty(self, batch: TokenBatch) -> Tensor:
        """``|A| mu (r - 1)^2 / 2`` of each token, with ``r = pi/mu``."""
        mu, ratio = batch.behaviour_logp.exp(), batch.behaviour_log_ratio.exp()
        # In this order no factor but r is large, so that half precision does not overflow.
        return 0.5 * batch.advantage.abs() * (mu * ratio - mu) * (ratio - 1)


@dataclass(frozen=True)
class ProjectionKL(_Weighted):
    """``KL(pi || sg(projected))``: leads the network itself into TROLL's region (arXiv:2510.03817).

    ``projected`` is what :class:`~erc_bench.objectives.surrogates.projection.Projected` takes its ratio
    from; where it is ``pi`` itself, inside the region, value and gradient are zero.

    Args:
        coefficient: weight of the penalty.
        delta: the largest ``KL(projected || pi_old)``, nats.

    Raises:
        InputError: a negative coefficient, or a bound that is not positive.
    """

    coefficient: Hyper = 1.0
    delta: Hyper = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        require_parameter(self, "delta", above=0)

    @property
    def name(self) -> str:
        """``kl_projection``."""
        return "kl_projection"

    def penalty(self, batch: TokenBatch) -> Tensor:
        """KL of each token."""
        masked = ~batch.mask.unsqueeze(-1)
        new = batch.require("log_probs", by="ProjectionKL").masked_fill(masked, 0.0)
        old = batch.require("old_log_probs", by="ProjectionKL").masked_fill(masked, 0.0)
        with torch.no_grad():
            target, outside = kl_projection(new, old, self.delta)
        return torch.where(outside, kl(new, target), 0.0)
