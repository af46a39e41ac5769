"""Named objectives: each a composition of a few lines with its equation (maximised) and its source.

``r`` is the sampled action's ratio, ``A`` the advantage, ``rho`` the entropy ratio, ``sg`` the
stop-gradient, ``|y|`` a response's tokens, ``mu`` the policy that drew them: the rollout's engine, or
``pi_old`` where that is the same. Parameters are the builder's keyword arguments. Where an equation has
no sum, every token weighs the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erc_bench.core.numerics import Hyper
from erc_bench.objectives.aggregates import (
    FixedHorizon,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
)
from erc_bench.objectives.base import Gate, Objective, Regularizer
from erc_bench.objectives.gates.divergence import (
    KLTrustRegion,
    SampledKL,
    SampledTV,
    SequenceTrustRegion,
    TVTrustRegion,
)
from erc_bench.objectives.gates.entropy import DirectionalEntropyRatio, EntropyRatio
from erc_bench.objectives.gates.rejection import RolloutRejection
from erc_bench.objectives.gates.selection import ClipCovariance, HighEntropy, SecondMoment
from erc_bench.objectives.registry import RECIPES, Recipe, gate, make, recipe, register
from erc_bench.objectives.regularizers import (
    AdaptiveKL,
    CovarianceKL,
    EntropyBonus,
    ExactKL,
    KLEstimate,
    PositiveNLL,
    ProbabilityShift,
    ProjectionKL,
)
from erc_bench.objectives.surrogates.projection import Projected
from erc_bench.objectives.surrogates.sequence import GMPO, GSPO, TOPR, VESPO
from erc_bench.objectives.surrogates.token import (
    CEGPPO,
    CISPO,
    GPPO,
    SAPO,
    BehaviourWeighted,
    ImportanceWeighted,
    PPOClip,
    Reinforce,
)
from erc_bench.objectives.surrogates.wrappers import DualClip, TruncatedImportance

__all__ = ["RECIPES", "Recipe", "make", "recipe"]


def _with(base: Objective, regularizer: Regularizer) -> Objective:
    """Add a regularizer, unless its weight is the number 0: then its fields need not be there."""
    weight = regularizer.coefficient
    absent = not isinstance(weight, Tensor) and weight == 0
    return base if absent else base.regularized(regularizer)


@register("reinforce", source="Williams, Machine Learning 8 (1992)", advantage="leave-one-out")
def reinforce() -> Objective:
    """The policy gradient, without regard to how far the policy has moved.

    A log pi
    """
    return Objective(Reinforce())


@register("ppo-clip", source="arXiv:1707.06347 eq. 7", advantage="gae")
def ppo_clip(clip_low: Hyper = 0.2, clip_high: Hyper = 0.2) -> Objective:
    """Stops where the sampled action's ratio has left the clip range.

    min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
    """
    return Objective(PPOClip(clip_low, clip_high))


@register("dual-clip", source="arXiv:1912.09729", advantage="gae")
def dual_clip(clip_low: Hyper = 0.2, clip_high: Hyper = 0.2, c: Hyper = 3.0) -> Objective:
    """PPO-clip that also bounds the punishment of actions that have become likelier.

    max(min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), c A) if A < 0, else as ppo-clip
    """
    return Objective(DualClip(PPOClip(clip_low, clip_high), c))


@register("ppo-kl", source="arXiv:1707.06347 eq. 8", advantage="gae")
def ppo_kl(beta: Hyper = 3.0) -> Objective:
    """No clip; a penalty on the divergence of the whole distribution.

    r A - beta KL(pi_old || pi)
    """
    return Objective(ImportanceWeighted()).regularized(ExactKL(beta, "old", "forward"))


@register("ppo-kl-adaptive", source="arXiv:1707.06347 eq. 8, sec. 4", advantage="gae")
def ppo_kl_adaptive(beta: Hyper = 1.0, target: Hyper = 0.01) -> Objective:
    """The same with a coefficient that is halved and doubled to keep the divergence near a target.

    r A - beta KL(pi_old || pi), after a rollout beta / 2 if KL < target / 1.5, 2 beta if KL > 1.5 target
    """
    return Objective(ImportanceWeighted()).regularized(AdaptiveKL(beta, target=target))


@register("ppo-entropy", source="arXiv:1707.06347 eq. 9", advantage="gae")
def ppo_entropy(bonus: Hyper = 0.01, clip_low: Hyper = 0.2, clip_high: Hyper = 0.2) -> Objective:
    """PPO-clip with an entropy bonus.

    min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + bonus H(pi)
    """
    return ppo_clip(clip_low, clip_high).regularized(EntropyBonus(bonus))


@register("grpo", source="arXiv:2402.03300 eq. 3")
def grpo(clip_low: Hyper = 0.2, clip_high: Hyper = 0.2, beta: Hyper = 0.0) -> Objective:
    """PPO-clip with advantages relative to a group; every response weighs the same.

    1/|y| sum_t min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) - beta k3(pi || ref)
    """
    base = Objective(PPOClip(clip_low, clip_high), aggregate=SequenceMeanTokenMean())
    return _with(base, KLEstimate(beta, "k3", "ref"))


@register("dr-grpo", source="arXiv:2503.20783", advantage="group-centred")
def dr_grpo(clip_low: Hyper = 0.2, clip_high: Hyper = 0.2, horizon: Hyper = 12) -> Objective:
    """GRPO without its length and difficulty biases: a constant length, advantages not standardised.

    1/horizon sum_t min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), horizon the longest response
    """
    return Objective(PPOClip(clip_low, clip_high), aggregate=FixedHorizon(horizon))


@register("dapo", source="arXiv:2503.14476 eq. 8", dynamic_sampling=True, overlong_penalty=True)
def dapo(clip_low: Hyper = 0.2, clip_high: Hyper = 0.28, positive_nll: Hyper = 0.0) -> Objective:
    """PPO-clip with a higher upper bound; every token weighs the same.

    min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + positive_nll log pi where the reward is 1
    """
    return _with(Objective(PPOClip(clip_low, clip_high)), PositiveNLL(positive_nll))


@register("gspo", source="arXiv:2507.18071")
def gspo(clip_low: Hyper = 3e-4, clip_high: Hyper = 4e-4) -> Objective:
    """PPO-clip of a response's length-normalised ratio.

    min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s = exp(1/|y| sum_t log r_t)
    """
    return Objective(GSPO(clip_low, clip_high), aggregate=SequenceMeanTokenMean())


@register("gmpo", source="arXiv:2507.20673")
def gmpo(clip_low: Hyper = 0.4, clip_high: Hyper = 0.4) -> Objective:
    """The geometric mean of a response's ratios, each clipped where that lowers the objective.

    exp(1/|y| sum_t c_t) A, c = min(log r, clip_high) if A > 0, else max(log r, -clip_low)
    """
    return Objective(GMPO(clip_low, clip_high), aggregate=SequenceMeanTokenMean())


@register("cispo", source="arXiv:2506.13585 eq. 4")
def cispo(clip_low: Hyper = 1.0, clip_high: Hyper = 4.0) -> Objective:
    """The policy gradient with a bounded importance weight: no token loses its gradient.

    sg(clip(r, 1 - clip_low, 1 + clip_high)) A log pi
    """
    return Objective(CISPO(clip_low, clip_high))


@register("gppo", source="arXiv:2508.07629")
def gppo(clip_low: Hyper = 0.2, clip_high: Hyper = 0.2) -> Objective:
    """PPO-clip in value; where it clips, a bounded gradient is kept.

    min(r A, clip(r, (1 - clip_low) r/sg(r), (1 + clip_high) r/sg(r)) A)
    """
    return Objective(GPPO(clip_low, clip_high))


@register("ce-gppo", source="arXiv:2509.20712")
def ce_gppo(
    b_low: Hyper = 0.5, b_high: Hyper = 1.0, clip_low: Hyper = 0.2, clip_high: Hyper = 0.2
) -> Objective:
    """GPPO with two weights on what it keeps: the lower one against, the upper one for exploration.

    gppo, times b_low if r < 1 - clip_low and A < 0, times b_high if r > 1 + clip_high and A > 0
    """
    return Objective(CEGPPO(clip_low, clip_high, b_low, b_high))


@register("sapo", source="arXiv:2511.20347")
def sapo(tau_positive: Hyper = 1.0, tau_negative: Hyper = 1.05) -> Objective:
    """A soft gate instead of a clip: the gradient fades with the distance of the ratio from 1.

    1/|y| sum_t (4/tau) sigmoid(tau (r - 1)) A, tau = tau_positive if A > 0, else tau_negative
    """
    return Objective(SAPO(tau_positive, tau_negative), aggregate=SequenceMeanTokenMean())


@register("clip-cov", source="arXiv:2505.22617")
def clip_cov(
    fraction: Hyper = 2e-4,
    cov_low: Hyper = 1.0,
    cov_high: Hyper = 5.0,
    clip_low: Hyper = 1.0,
    clip_high: Hyper = 1.0,
) -> Objective:
    """A wide clip that drops a few of the tokens whose update lowers the entropy most.

    min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), without a gradient at a few tokens with
    cov_low < (A - mean A) (log pi - mean log pi) < cov_high
    """
    clip = PPOClip(clip_low, clip_high)
    return Objective(clip).gated(ClipCovariance(fraction, cov_low, cov_high, besides=clip))


@register("kl-cov", source="arXiv:2505.22617")
def kl_cov(beta: Hyper = 1.0, fraction: Hyper = 2e-3) -> Objective:
    """No clip; a penalty on the divergence at the tokens whose update lowers the entropy most.

    r A - beta |log r| at the largest (A - mean A) (log pi - mean log pi), r A at the other tokens
    """
    return Objective(ImportanceWeighted()).regularized(CovarianceKL(beta, fraction))


@register("pg-is", source="arXiv:2602.04879; arXiv:1502.05477 eq. 14")
def pg_is() -> Objective:
    """The importance-weighted policy gradient, without any trust region.

    pi/mu A
    """
    return Objective(BehaviourWeighted())


@register("dppo-tv", source="arXiv:2602.04879 eq. 11 to 13")
def dppo_tv(delta_low: Hyper = 0.15, delta_high: Hyper = 0.15) -> Objective:
    """Drops a token whose probability, not its ratio, has moved too far the way of its gradient.

    pi/mu A, sg(pi/mu A) if A > 0 and pi - mu > delta_high, or A < 0 and mu - pi > delta_low
    """
    return pg_is().gated(SampledTV(delta_low, delta_high))


@register("dppo-kl", source="arXiv:2602.04879 eq. 11, 12, 14")
def dppo_kl(delta_low: Hyper = 0.05, delta_high: Hyper = 0.05) -> Objective:
    """The same by the divergence of two outcomes: the sampled action, and any other.

    pi/mu A, sg(pi/mu A) if A > 0, pi > mu and D > delta_high, or A < 0, pi < mu and D > delta_low, with
    D = mu log(mu/pi) + (1 - mu) log((1 - mu)/(1 - pi))
    """
    return pg_is().gated(SampledKL(delta_low, delta_high))


@register("m2po", source="arXiv:2510.01161 eq. 5, algorithm 1")
def m2po(tau: Hyper = 0.04) -> Objective:
    """Drops only outliers, as many as bring the batch's mean squared log-ratio below a bound.

    pi/mu A, sg(pi/mu A) at the largest (log pi/mu)^2 until the mean of the others is at most tau, among
    the tokens with A log(pi/mu) > 0
    """
    return pg_is().gated(SecondMoment(tau))


@register("trm", source="arXiv:2512.23075")
def trm(delta: Hyper = 0.05) -> Objective:
    """Drops a whole response if the exact divergence at any of its tokens exceeds a bound.

    pi/mu A if max_t KL(pi_old || pi) <= delta, else sg(pi/mu A)
    """
    return pg_is().gated(SequenceTrustRegion(delta))


@register("drpo", source="arXiv:2606.09821 eq. 8")
def drpo(delta: Hyper = 0.15) -> Objective:
    """DPPO's region as a penalty: the gradient fades towards its edge, and leads back outside.

    pi/mu A - 1/(2 delta) |A| mu (pi/mu - 1)^2
    """
    return pg_is().regularized(ProbabilityShift(delta))


@register("troll", source="arXiv:2510.03817")
def troll(delta: Hyper = 0.05, alpha: Hyper = 1.0) -> Objective:
    """Projects the policy into a trust region, exactly, instead of clipping or masking.

    1/|y| sum_t q/pi_old A - alpha KL(pi || sg(q)), q = argmin_q KL(q || pi) with KL(q || pi_old) <= delta
    """
    base = Objective(Projected(delta), aggregate=SequenceMeanTokenMean())
    return _with(base, ProjectionKL(alpha, delta))


@register("vespo", source="arXiv:2602.10693")
def vespo(
    k_positive: Hyper = 2.0,
    lambda_positive: Hyper = 3.0,
    k_negative: Hyper = 3.0,
    lambda_negative: Hyper = 2.0,
) -> Objective:
    """Weighs responses by a smooth function of their ratio that fades on both sides of 1.

    sg(w^k exp(lambda (1 - w))) A log pi, w = pi(y)/mu(y), k = k_positive, lambda = lambda_positive if A >= 0,
    else k_negative, lambda_negative
    """
    return Objective(VESPO(k_positive, lambda_positive, k_negative, lambda_negative))


@register("luspo", source="arXiv:2602.05261")
def luspo(clip_low: Hyper = 3e-4, clip_high: Hyper = 4e-4) -> Objective:
    """GSPO with every response weighed by its length.

    |y| min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s = exp(1/|y| sum_t log r_t)
    """
    return Objective(GSPO(clip_low, clip_high), aggregate=SequenceMeanTokenSum())


@register("topr", source="arXiv:2503.14286", advantage="group-centred")
def topr(cap: Hyper = 1.0) -> Objective:
    """Imitates good responses, and punishes bad ones only as far as they are still likely.

    A log pi(y) if A >= 0, else sg(min(pi(y)/mu(y), cap)) A log pi(y)
    """
    return Objective(TOPR(cap), aggregate=SequenceMeanTokenSum())


@register(
    "high-entropy-only",
    source="arXiv:2506.01939",
    dynamic_sampling=True,
    overlong_penalty=True,
)
def high_entropy_only(
    fraction: Hyper = 0.2, clip_low: Hyper = 0.2, clip_high: Hyper = 0.28
) -> Objective:
    """DAPO on the forking tokens alone.

    min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) if H is among the largest of the batch, else sg
    """
    return dapo(clip_low, clip_high).gated(HighEntropy(fraction))


@register(
    "dapo-kl",
    source="arXiv:1707.06347 eq. 8 on arXiv:2503.14476 eq. 8",
    dynamic_sampling=True,
    overlong_penalty=True,
)
def dapo_kl(beta: Hyper = 1.0, clip_low: Hyper = 0.2, clip_high: Hyper = 0.28) -> Objective:
    """DAPO with a penalty on the divergence of the whole distribution from the old policy's.

    min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) - beta KL(pi_old || pi)
    """
    return dapo(clip_low, clip_high).regularized(ExactKL(beta, "old", "forward"))


@register(
    "dapo-entropy",
    source="arXiv:1707.06347 eq. 9 on arXiv:2503.14476 eq. 8",
    dynamic_sampling=True,
    overlong_penalty=True,
)
def dapo_entropy(bonus: Hyper = 0.01, clip_low: Hyper = 0.2, clip_high: Hyper = 0.28) -> Objective:
    """DAPO with an entropy bonus.

    min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) + bonus H(pi)
    """
    return dapo(clip_low, clip_high).regularized(EntropyBonus(bonus))


@register(
    "dapo-tis",
    source="arXiv:1802.01561; Yao et al. (2025)",
    dynamic_sampling=True,
    overlong_penalty=True,
)
def dapo_tis(cap: Hyper = 2.0, clip_low: Hyper = 0.2, clip_high: Hyper = 0.28) -> Objective:
    """DAPO corrected for an engine whose probabilities differ from the trained policy's.

    sg(min(pi_old/pi_rollout, cap)) min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
    """
    return Objective(TruncatedImportance(PPOClip(clip_low, clip_high), cap))


@register(
    "dapo-is",
    source="arXiv:1802.01561, not truncated; Yao et al. (2025)",
    dynamic_sampling=True,
    overlong_penalty=True,
)
def dapo_is(clip_low: Hyper = 0.2, clip_high: Hyper = 0.28) -> Objective:
    """The same with the whole weight, without a truncation.

    sg(pi_old/pi_rollout) min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
    """
    return Objective(TruncatedImportance(PPOClip(clip_low, clip_high), torch.inf))


@register(
    "icepop",
    source="arXiv:2510.18855",
    dynamic_sampling=True,
    overlong_penalty=True,
)
def icepop(
    low: Hyper = 0.5, high: Hyper = 5.0, clip_low: Hyper = 0.2, clip_high: Hyper = 0.28
) -> Objective:
    """DAPO without the tokens on which the engine and the trained policy disagree.

    dapo-is if low <= pi_old/pi_rollout <= high, else sg(dapo-is)
    """
    return dapo_is(clip_low, clip_high).gated(RolloutRejection(low=low, high=high))


@register(
    "seq-tis",
    source="arXiv:2512.23075; Liu et al. (2025), richardli.xyz/rl-collapse",
    dynamic_sampling=True,
    overlong_penalty=True,
)
def seq_tis(cap: Hyper = 2.0, clip_low: Hyper = 0.2, clip_high: Hyper = 0.28) -> Objective:
    """DAPO with every response weighed by the truncated ratio of old policy and engine.

    sg(min(pi_old(y)/pi_rollout(y), cap)) min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
    """
    return Objective(TruncatedImportance(PPOClip(clip_low, clip_high), cap, "sequence"))


@register(
    "seq-mis",
    source="arXiv:2512.23075; Liu et al. (2025), richardli.xyz/rl-collapse",
    dynamic_sampling=True,
    overlong_penalty=True,
)
def seq_mis(
    low: Hyper = 0.5, high: Hyper = 2.0, clip_low: Hyper = 0.2, clip_high: Hyper = 0.28
) -> Objective:
    """The same without the responses whose ratio is too large or too small: masked, not truncated.

    seq-tis if low <= pi_old(y)/pi_rollout(y) <= high, else sg(seq-tis)
    """
    return seq_tis(high, clip_low, clip_high).gated(RolloutRejection("ratio", "sum", low, high))


@register(
    "seq-k3-rs",
    source="arXiv:2512.23075; verl, rollout_rs=seq_mean_k3",
    dynamic_sampling=True,
    overlong_penalty=True,
)
def seq_k3_rs(high: Hyper = 0.01, clip_low: Hyper = 0.2, clip_high: Hyper = 0.28) -> Objective:
    """DAPO without the responses over which the engine's mean divergence from the policy is too large.

    dapo if 1/|y| sum_t (x - 1 - log x) <= high with x = pi_old/pi_rollout, else sg(dapo)
    """
    return dapo(clip_low, clip_high).gated(RolloutRejection("k3", "mean", high=high))


@gate("erc", source="arXiv:2512.05591")
def erc(band_low: Hyper = 0.05, band_high: Hyper = 0.05) -> Gate:
    """Drops a token's gradient where the policy's entropy has left a band.

    1 - band_low < rho < 1 + band_high
    """
    return EntropyRatio(band_low, band_high)


@gate("erc-directional", source="this project; dH after arXiv:2602.03392")
def erc_directional(band_low: Hyper = 0.05, band_high: Hyper = 0.05) -> Gate:
    """Drops a gradient that leads further out of the entropy band, and keeps those that lead back.

    not (rho >= 1 + band_high and dH > 0, or rho <= 1 - band_low and dH < 0), with
    dH = -A (p_a (log p_a + H) - sum_b p_b^2 (log p_b + H))
    """
    return DirectionalEntropyRatio(band_low, band_high)


@gate("kl-gate", source="oracle of this project, after arXiv:1502.05477")
def kl_gate(delta: Hyper = 0.01) -> Gate:
    """Drops a token's gradient where the exact divergence exceeds a bound.

    KL(pi_old || pi) <= delta
    """
    return KLTrustRegion(delta)


@gate("tv-gate", source="oracle of this project, after arXiv:2602.04879")
def tv_gate(delta: Hyper = 0.07) -> Gate:
    """Drops a token's gradient where the exact total variation exceeds a bound.

    1/2 sum_a |pi_a - pi_old_a| <= delta
    """
    return TVTrustRegion(delta)


#: Recipes made of names that are listed, trained and checked beside those above; others are made on demand.
COMPOSED = (
    "erc-dapo",
    "erc-gppo",
    "erc-directional-dapo",
    "kl-gate-dapo",
    "tv-gate-dapo",
    "placebo-erc-dapo",
)
RECIPES.update({name: recipe(name) for name in COMPOSED})
