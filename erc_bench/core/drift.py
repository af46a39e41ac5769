"""How far one policy moved from another, measured exactly on whole distributions.

Per-token functions map log-probabilities ``(..., V)`` to ``(...)``; KL and entropy are in nats.
``old`` is the policy that drew the tokens. Beside the exact measures stand the estimators k1, k2
and k3, which see the sampled action only; at samples of the old policy their argument is ``log r``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.metrics import BAND, CLIP, DELTA
from erc_bench.core.numerics import (
    ENTROPY_EPS,
    Hyper,
    entropy,
    entropy_ratio,
    k1,
    k2,
    k3,
    kl,
    masked_mean,
    over_tokens,
)

__all__ = [
    "ENTROPY_EPS",
    "entropy",
    "entropy_ratio",
    "hidden_violation",
    "k1",
    "k2",
    "k3",
    "kl_exact",
    "measure",
    "tv",
    "tv_unsampled",
]


def kl_exact(old_log_probs: Tensor, log_probs: Tensor) -> Tensor:
    """``KL(old || new) = sum_a p_a (log p_a - log q_a)``, nats; swap the arguments for the reverse.

    Actions that the old policy cannot take add nothing; infinite where the new policy lost an
    action.

    >>> round(kl_exact(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log()).item(), 6)
    0.510826
    """
    return kl(old_log_probs, log_probs)


def tv(old_log_probs: Tensor, log_probs: Tensor) -> Tensor:
    """Total variation ``1/2 sum_a |p_a - q_a|``, in [0, 1].

    >>> tv(torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.2, 0.7, 0.1]).log())
    tensor(0.5000)
    """
    return 0.5 * (old_log_probs.exp() - log_probs.exp()).abs().sum(-1)


def tv_unsampled(old_log_probs: Tensor, log_probs: Tensor, action: Tensor) -> Tensor:
    """Total variation without the sampled action: ``1/2 sum_{b != a} |p_b - q_b|``.

    No function of the sampled ratio bounds it by less than ``1 - p_a``: at ``r = 1`` all of the
    other actions' mass may still have moved.

    >>> old, new = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.2, 0.7, 0.1]).log()
    >>> tv_unsampled(old, new, torch.tensor(2))
    tensor(0.5000)
    """
    change = (old_log_probs.exp() - log_probs.exp()).abs()
    return _unsampled(change, change.sum(-1), action)


def _unsampled(change: Tensor, total: Tensor, action: Tensor) -> Tensor:
    sampled = change.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)
    return 0.5 * (total - sampled).clamp(min=0.0)  # rounding may make it negative


def hidden_violation(
    kl: Tensor, log_ratio: Tensor, low: Hyper, high: Hyper, delta: Hyper = DELTA
) -> Tensor:
    """Violations that clipping cannot see: ``KL > delta`` while ``1 - low <= r <= 1 + high``; bool.

    Args:
        kl: exact KL(old || new), nats, ``(..., B, T)``.
        log_ratio: ``log r`` of the sampled action, same shape.
        low: lower clip range, a float or ``(R,)``.
        high: upper clip range.
        delta: nats above which a token has left the trust region.
    """
    ratio = log_ratio.exp()
    inside = (ratio >= over_tokens(1 - low, ratio)) & (ratio <= over_tokens(1 + high, ratio))
    return (kl > over_tokens(delta, kl)) & inside


def _outside(rho: Tensor, low: Hyper, high: Hyper) -> Tensor:
    return ~((rho > over_tokens(1 - low, rho)) & (rho < over_tokens(1 + high, rho)))


@torch.no_grad()
def measure(
    batch: TokenBatch,
    *,
    clip_low: Hyper = CLIP[0],
    clip_high: Hyper = CLIP[1],
    band_low: Hyper = BAND[0],
    band_high: Hyper = BAND[1],
    delta: Hyper = DELTA,
) -> dict[str, Tensor]:
    """Every drift measure of a batch: means over its unmasked tokens, one number per run.

    Args:
        batch: with whole distributions of both policies, and actions; entropies are computed if
            they are missing.
        clip_low: ``1 - clip_low`` is the least ratio inside the clip range.
        clip_high: ``1 + clip_high`` is the largest one, whether or not the objective clips there.
        band_low: entropy ratios inside the band are above ``1 - band_low``.
        band_high: and below ``1 + band_high``, whether or not the objective has a gate.
        delta: exact KL, nats, above which a token has left the trust region.

    Returns:
        ``drift/<name>`` to tensors of the leading shape; 0 for a run without tokens.

        - ``kl_exact``, ``kl_reverse``: KL(old || new) and KL(new || old), nats.
        - ``kl_k1``, ``kl_k2``, ``kl_k3``: the estimators of KL(old || new), nats.
        - ``tv``, ``tv_unsampled``: total variation, with and without the sampled action.
        - ``violation_fraction``: tokens with ``kl_exact > delta``.
        - ``hidden_violation_fraction``: those of them whose ratio is inside the clip range, as a
          share of all tokens.
        - ``out_of_band_fraction``: tokens whose entropy ratio is outside the band given.
        - ``out_of_paper_band_fraction``: the same for the paper's band, (0.95, 1.05).
        - ``entropy_old``, ``entropy_new``: nats.

    Raises:
        ValueError: a field it needs is missing.
    """
    old = batch.require("old_log_probs", by="drift.measure")
    new = batch.require("log_probs", by="drift.measure")
    action = batch.require("action", by="drift.measure")
    old_entropy = entropy(old) if batch.old_entropy is None else batch.old_entropy
    new_entropy = entropy(new) if batch.entropy is None else batch.entropy

    p, q = old.exp(), new.exp()
    gap = old - new
    product = p * gap
    forward = product.sum(-1)
    reverse = torch.mul(q, gap, out=product).sum(-1).neg_()
    change = p.sub_(q).abs_()
    total = change.sum(-1)
    if not bool(torch.isfinite(forward + reverse).all()):  # there is a 0 log 0, which must be 0
        forward, reverse = kl(old, new), kl(new, old)

    log_ratio = batch.log_ratio
    rho = entropy_ratio(new_entropy, old_entropy)
    per_token = {
        "kl_exact": forward,
        "kl_reverse": reverse,
        "kl_k1": k1(log_ratio),
        "kl_k2": k2(log_ratio),
        "kl_k3": k3(log_ratio),
        "tv": 0.5 * total,
        "tv_unsampled": _unsampled(change, total, action),
        "violation_fraction": forward > over_tokens(delta, forward),
        "hidden_violation_fraction": hidden_violation(
            forward, log_ratio, clip_low, clip_high, delta
        ),
        "out_of_band_fraction": _outside(rho, band_low, band_high),
        "out_of_paper_band_fraction": _outside(rho, *BAND),
        "entropy_old": old_entropy,
        "entropy_new": new_entropy,
    }
    stacked = torch.stack([x.to(forward.dtype) for x in per_token.values()])
    means = masked_mean(stacked, batch.mask)
    return {f"drift/{name}": mean for name, mean in zip(per_token, means, strict=True)}
