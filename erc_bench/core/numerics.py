"""Masked and log-space primitives; every function is pure and keeps dtype and device."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from erc_bench.core.errors import InputError

__all__ = [
    "ENTROPY_EPS",
    "LOG_RATIO_LIMIT",
    "Hyper",
    "binary_kl",
    "clamp_log_ratio",
    "entropy",
    "entropy_ratio",
    "entropy_slope",
    "k1",
    "k2",
    "k3",
    "kl",
    "masked_mean",
    "masked_sum",
    "over_tokens",
    "require_choice",
    "require_parameter",
]

#: A hyperparameter: one number, or one per run in a tensor of shape ``(R,)``.
Hyper: TypeAlias = float | Tensor

#: Log-ratios are clamped to plus or minus this before they are exponentiated.
LOG_RATIO_LIMIT = 20.0

#: Nats added to both entropies of an entropy ratio (as in the official ERC release).
ENTROPY_EPS = 1e-8


def over_tokens(value: Hyper, like: Tensor | None = None) -> Hyper:
    """Give a hyperparameter the shape that broadcasts over ``(R, B, T)``.

    A float or 0-d tensor stays as it is; ``(R,)`` becomes ``(R, 1, 1)``. With ``like``, a tensor
    also takes that tensor's dtype and device, so that a hyperparameter never promotes the loss.

    Raises:
        ValueError: more than one axis.

    >>> over_tokens(0.2)
    0.2
    >>> over_tokens(torch.tensor([0.1, 0.2])).shape
    torch.Size([2, 1, 1])
    """
    if not isinstance(value, Tensor):
        return value
    if value.ndim > 1:
        raise ValueError(f"hyperparameter: shape {tuple(value.shape)}, must be () or (R,)")
    if like is not None:
        value = value.to(like)
    return value[:, None, None] if value.ndim else value


def require_parameter(
    owner: object,
    name: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    finite: bool = False,
) -> None:
    """Check one hyperparameter of ``owner``, a float or a tensor ``(R,)``, elementwise.

    Raises:
        InputError: one line with owner, field, value and what is allowed; NaN is never allowed.
    """
    value: object = getattr(owner, name)
    field = f"{type(owner).__name__}.{name}"
    if isinstance(value, Tensor):
        if value.ndim > 1:
            raise InputError(f"{field}: shape {tuple(value.shape)}, must be () or (R,)")
        numbers = value.detach().flatten().tolist()
    else:
        numbers = [value]
    limits = []
    if above is not None:
        limits.append(f"> {above:g}")
    if at_least is not None:
        limits.append(f">= {at_least:g}")
    if finite:
        limits.append("finite")
    allowed = " and ".join(limits) or "a number"
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise InputError(f"{field}: {number!r}, must be a number or a tensor of numbers")
        ok = number == number  # noqa: PLR0124  # NaN alone differs from itself
        ok &= above is None or number > above
        ok &= at_least is None or number >= at_least
        ok &= not finite or abs(number) < float("inf")
        if not ok:
            raise InputError(f"{field}: {number:g}, must be {allowed}")


def require_choice(owner: object, name: str, *allowed: str) -> None:
    """Check a word among the fields of ``owner``.

    Raises:
        InputError: one line with owner, field, value and what is allowed.
    """
    value = getattr(owner, name)
    if value not in allowed:
        choices = " or ".join(map(repr, allowed))
        raise InputError(f"{type(owner).__name__}.{name}: {value!r}, must be {choices}")


def clamp_log_ratio(log_ratio: Tensor) -> Tensor:
    """``clamp(log r, -20, 20)``; beyond the limits value and gradient are constant and zero.

    In float16 the limit is 11, because ``exp(20)`` is infinite there, and where a clip makes its
    gradient zero the result would be NaN.
    """
    largest = math.log(torch.finfo(log_ratio.dtype).max)
    limit = min(LOG_RATIO_LIMIT, float(math.floor(largest)))
    return log_ratio.clamp(-limit, limit)


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum over the token axes where ``mask``: ``(..., B, T)`` to ``(...)``.

    Masked entries may hold anything, NaN included: they reach neither the sum nor its gradient.
    """
    return torch.where(mask, x, 0.0).sum((-2, -1))


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the token axes where ``mask``: ``(..., B, T)`` to ``(...)``; 0 without tokens.

    >>> masked_mean(torch.tensor([[1.0, 3.0, torch.nan]]), torch.tensor([[True, True, False]]))
    tensor(2.)
    """
    return masked_sum(x, mask) / mask.sum((-2, -1)).clamp(min=1)


def entropy(log_probs: Tensor) -> Tensor:
    """Shannon entropy ``H = -sum_a p_a log p_a``, nats: ``(..., V)`` to ``(...)``.

    An action of probability zero (log-probability -inf) adds zero to the value and has a finite
    gradient. The distribution must be normalised: where one action has more than half of it, its
    log-probability is taken from the others, ``log p = log1p(-s)`` with ``s`` their sum. It would
    otherwise be lost to rounding, and with it the entropy: in float32 half a percent of it at 1e-5
    nats, as much as decides on which side of a band of 5 percent a token falls.

    >>> entropy(torch.tensor([0.5, 0.5, 0.0]).log())
    tensor(0.6931)
    >>> logits = torch.tensor([16.0, 0.0, 0.0])
    >>> f"{entropy(logits.log_softmax(0)):.5e}, {entropy(logits.double().log_softmax(0)):.5e}"
    '3.82620e-06, 3.82620e-06'
    """
    finite = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)
    p = log_probs.exp()
    likeliest = p.argmax(-1, keepdim=True)
    first, log_first = (x.gather(-1, likeliest).squeeze(-1) for x in (p, finite))
    others = p.scatter(-1, likeliest, 0.0)
    s = others.sum(-1)
    low = s.clamp(max=0.5)
    of_first = torch.where(s < 0.5, (1 - low) * torch.log1p(-low), first * log_first)
    return -(others * finite).sum(-1) - of_first


def entropy_ratio(entropy: Tensor, old_entropy: Tensor, eps: Hyper = ENTROPY_EPS) -> Tensor:
    """``rho = (H + eps) / (H_old + eps)``, elementwise (ERC, arXiv:2512.05591).

    It is computed in float32 at least: in float16 ``eps`` is 0, and a deterministic state's ratio 0/0.

    >>> entropy_ratio(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 0.0]))
    tensor([0.5000, 1.0000])
    """
    new, old = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (entropy, old_entropy))
    ratio = (new + eps) / (old + eps)
    return ratio.to(torch.promote_types(entropy.dtype, old_entropy.dtype))


def entropy_slope(log_probs: Tensor, logp: Tensor, entropy: Tensor) -> Tensor:
    """First-order change of a state's entropy when its logits move along ``grad log pi(a)``.

    ``dH = -[p_a (log p_a + H) - sum_b p_b^2 (log p_b + H)]`` for the step ``e_a - pi`` (compare
    arXiv:2602.03392, Theorem 3.3): ``(..., V)`` to ``(...)``. A policy-gradient step on one token
    multiplies it by a positive number times its advantage. Actions of probability zero add zero.

    Args:
        log_probs: the state's distribution, ``(..., V)``.
        logp: log-probability of the action, ``(...)``.
        entropy: of the distribution, nats, ``(...)``.

    >>> p = torch.tensor([0.8, 0.1, 0.1]).log()  # the likely action made likelier, an unlikely one
    >>> [bool(entropy_slope(p, p[a], entropy(p)) > 0) for a in (0, 1)]
    [False, True]
    """
    lowest = torch.finfo(log_probs.dtype).min
    logp, log_probs = logp.clamp(min=lowest), log_probs.clamp(min=lowest)
    own = logp.exp() * (logp + entropy)
    every = (2 * log_probs).exp() * (log_probs + entropy.unsqueeze(-1))
    return every.sum(-1) - own


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``KL(p || q) = sum_a p_a (log p_a - log q_a)``, nats: ``(..., V)`` to ``(...)``.

    Actions with ``p_a = 0`` add nothing to value and gradient, whatever ``q_a`` is; the result is
    infinite where ``q`` lacks an action that ``p`` has.

    >>> kl(torch.tensor([0.5, 0.5, 0.0]).log(), torch.tensor([0.25, 0.75, 0.0]).log())
    tensor(0.1438)
    """
    gap = torch.where(log_p > -torch.inf, log_p - log_q, 0.0)
    # Where log_p is NaN the comparison is false, and exp(NaN) * 0 keeps the NaN visible.
    return (log_p.exp() * gap).sum(-1)


def binary_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``p log(p/q) + (1 - p) log((1 - p)/(1 - q))``, nats, elementwise.

    The KL where only two outcomes are told apart, the action and all others; it never exceeds that of
    the whole distributions. It is infinite where ``q`` is 0 or 1 and ``p`` is not.

    >>> binary_kl(torch.tensor([0.5, 1.0, 0.0]).log(), torch.tensor([0.25, 0.5, 0.5]).log())
    tensor([0.1438, 0.6931, 0.6931])
    """
    rest_p, rest_q = (-torch.expm1(x).clamp(max=0) for x in (log_p, log_q))
    # Where one of the two outcomes cannot happen, it adds nothing.
    gap = torch.where(log_p > -torch.inf, log_p - log_q, 0.0)
    rest_gap = torch.where(rest_p > 0, rest_p.log() - rest_q.log(), 0.0)
    return log_p.exp() * gap + rest_p * rest_gap


def k1(log_ratio: Tensor) -> Tensor:
    """``-log(q/p)`` at samples of ``p``: unbiased for KL(p || q), of either sign.

    ``k1``, ``k2`` and ``k3`` take ``log_ratio = log q - log p`` of the sampled action (Schulman,
    "Approximating KL divergence", 2020), in nats, and work elementwise.
    """
    return -log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """``(log(q/p))^2 / 2`` at samples of ``p``: biased, correct to second order, never negative."""
    return 0.5 * log_ratio.square()


def k3(log_ratio: Tensor) -> Tensor:
    """``q/p - 1 - log(q/p)`` at samples of ``p``: unbiased for KL(p || q) and never negative.

    >>> k3(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7183])
    """
    return torch.expm1(log_ratio) - log_ratio
