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
    "binary",
    "clip_kl",
    "entropy",
    "entropy_ratio",
    "inside_clip",
    "k1",
    "k2",
    "k3",
    "kl_exact",
    "measure",
    "tv",
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


def binary(log_probs: Tensor, action: Tensor) -> Tensor:
    """What one action's ratio shows of a distribution: that action, or any other.

    ``(log p_a, log sum_{b != a} p_b)``: ``(..., V)`` and ``(...)`` to ``(..., 2)``. Divergences of the
    pair are DPPO's binary KL and binary TV (arXiv:2602.04879). By the chain rule the rest is what the
    other actions hide, ``KL(p || q) - KL(binary) = (1 - p_a) KL(p(. | not a) || q(. | not a)) >= 0``;
    likewise ``TV - |p_a - q_a| >= 0``. With two actions nothing is hidden.

    >>> old, new = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.2, 0.7, 0.1]).log()
    >>> third = torch.tensor(2)
    >>> tv(old, new), tv(binary(old, third), binary(new, third))
    (tensor(0.5000), tensor(0.))
    """
    index = action.long().unsqueeze(-1)
    others = log_probs.scatter(-1, index, -torch.inf).logsumexp(-1)
    return torch.stack([log_probs.gather(-1, index).squeeze(-1), others], dim=-1)


def clip_kl(old_binary: Tensor, low: Hyper = CLIP[0], high: Hyper = CLIP[1]) -> Tensor:
    """The largest binary KL, nats, that a ratio inside the clip range can have: ``(..., 2)`` to ``(...)``.

    ``max d(p, q)`` over ``(1 - low) p <= q <= (1 + high) p`` with ``d(p, q) = p log(p / q) + (1 - p)
    log((1 - p) / (1 - q))``, which is reached at an edge. Where ``(1 + high) p >= 1`` no ratio can pass
    the upper edge: the clip bounds nothing, and the result is infinite.

    Args:
        old_binary: :func:`binary` of the old policy, ``(..., B, T, 2)``.
        low: lower clip range, a float or ``(R,)``.
        high: upper clip range.

    >>> clip_kl(torch.tensor([[0.01, 0.99], [0.5, 0.5], [0.9, 0.1]]).log())
    tensor([0.0002, 0.0204,    inf])
    """
    p, rest = old_binary.exp().unbind(-1)

    def edge(change: Hyper) -> Tensor:  # at q = p + p change
        step = torch.as_tensor(change).to(p)
        return -p * step.log1p() - rest * (-p * step / rest).log1p()

    low, high = over_tokens(low, p), over_tokens(high, p)
    return torch.where(p * high < rest, torch.maximum(edge(-low), edge(high)), torch.inf)


def inside_clip(log_ratio: Tensor, low: Hyper, high: Hyper) -> Tensor:
    """Ratios inside the clip range, ``1 - low <= r <= 1 + high``; bool."""
    ratio = log_ratio.exp()
    return (ratio >= over_tokens(1 - low, ratio)) & (ratio <= over_tokens(1 + high, ratio))


def _outside(rho: Tensor, low: Hyper, high: Hyper) -> Tensor:
    return ~((rho > over_tokens(1 - low, rho)) & (rho < over_tokens(1 + high, rho)))


def _rest(whole: Tensor, part: Tensor) -> Tensor:
    return torch.where(part < whole, whole - part, 0.0)  # rounding may make it negative


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
        - ``kl_binary``, ``kl_hidden``: the two parts of KL(old || new), see :func:`binary`, nats.
        - ``kl_k1``, ``kl_k2``, ``kl_k3``: the estimators of KL(old || new), nats.
        - ``tv``, ``tv_binary``, ``tv_hidden``: total variation and its two parts.
        - ``violation_fraction``: tokens with ``kl_exact > delta``.
        - ``hidden_violation_fraction``: those of them whose ratio is inside the clip range, as a
          share of all tokens.
        - ``clip_kl_violation_fraction``, ``hidden_clip_kl_violation_fraction``: the same two against
          :func:`clip_kl` at the token's own probability instead of ``delta``.
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

    old_binary, new_binary = binary(old, action), binary(new, action)
    kl_binary, tv_binary, total = kl(old_binary, new_binary), tv(old_binary, new_binary), total / 2
    log_ratio = batch.log_ratio
    inside = inside_clip(log_ratio, clip_low, clip_high)
    violates = forward > over_tokens(delta, forward)
    violates_clip = forward > clip_kl(old_binary, clip_low, clip_high)
    rho = entropy_ratio(new_entropy, old_entropy)
    per_token = {
        "kl_exact": forward,
        "kl_reverse": reverse,
        "kl_binary": kl_binary,
        "kl_hidden": _rest(forward, kl_binary),
        "kl_k1": k1(log_ratio),
        "kl_k2": k2(log_ratio),
        "kl_k3": k3(log_ratio),
        "tv": total,
        "tv_binary": tv_binary,
        "tv_hidden": _rest(total, tv_binary),
        "violation_fraction": violates,
        "hidden_violation_fraction": violates & inside,
        "clip_kl_violation_fraction": violates_clip,
        "hidden_clip_kl_violation_fraction": violates_clip & inside,
        "out_of_band_fraction": _outside(rho, band_low, band_high),
        "out_of_paper_band_fraction": _outside(rho, *BAND),
        "entropy_old": old_entropy,
        "entropy_new": new_entropy,
    }
    stacked = torch.stack([x.to(forward.dtype) for x in per_token.values()])
    means = masked_mean(stacked, batch.mask)
    return {f"drift/{name}": mean for name, mean in zip(per_token, means, strict=True)}
