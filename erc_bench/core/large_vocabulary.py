"""Log-probability and entropy for vocabularies of language-model size, a few tokens at a time.

``log_softmax`` makes a copy of all of a language model's logits in float32, its gradient makes another,
and an entropy makes several more. The functions here hold only ``chunk`` tokens in float32, forward and
backward, however many tokens there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["CHUNK_LOGITS", "logp", "logp_and_entropy"]

#: Logits worked on at a time where no chunk is given. Their 4 MiB of float32 stay in a processor's
#: cache, so that this was the fastest of 2^17 to 2^25 at vocabularies of 4, 33 and 152 thousand; on a
#: GPU more may be faster.
CHUNK_LOGITS = 2**20

#: Shifted logits below this have probability 0 in every precision. They are clamped to it, so that
#: probability times logit of an impossible token is 0 and not NaN.
_FLOOR = -1e4

_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def logp_and_entropy(
    logits: Tensor,
    action: Tensor,
    *,
    chunk: int | None = None,
    temperature: float = 1.0,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """``log p_a`` of the sampled tokens and ``H = log Z - sum_b p_b z_b``, nats, in one pass.

    ``z = logits / temperature - max``, ``Z = sum_b exp(z_b)``, ``p = exp(z) / Z``. Gradients:
    ``d log p_a / d logits = (onehot(a) - p) / temperature`` and
    ``d H / d logits = -p (log p + H) / temperature``.

    Tokens that cannot be sampled (logit -inf) add nothing to value or gradient. ``H`` is a sum of
    positive terms, and the weights of all but the likeliest tokens are added up on their own. So it
    keeps its relative precision where a token is almost certain, which matters because an entropy
    ratio divides by it. (Added to a weight of 1 in float32, a long tail of small weights is lost.)

    Memory beside ``logits``, ``action`` and results: ``2 chunk V`` floats of float32 (float64 for
    float64 logits), freed at the end of each pass; between the passes three numbers per token; and
    the gradient, of the logits' dtype. No probability is kept: backward computes them again.

    Args:
        logits: ``(..., V)``, bfloat16, float16, float32 or float64; need not be contiguous.
        action: ``(...)``, integers from 0 to V - 1 (give masked tokens any of them).
        chunk: tokens worked on at a time, at least 1; None: ``CHUNK_LOGITS / V``. Changes memory and
            speed only.
        temperature: logits are divided by it.
        entropy_gradient: whether gradients flow through the entropy. An entropy that is only
            compared, as in a gate, needs none, and backward skips that work.

    Returns:
        ``log p_a`` and ``H``, each ``(...)``, float32 (float64 for float64 logits).

    Raises:
        ValueError: an argument that does not fit; one line.

    >>> logits = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, 0.0, 0.0]], dtype=torch.bfloat16)
    >>> logp_and_entropy(logits, torch.tensor([0, 2]))
    (tensor([-0.6931, -1.0986]), tensor([0.6931, 1.0986]))
    """
    chunk = _check(logits, action, chunk, temperature)
    log_p, entropy = _Chunked.apply(  # type: ignore[no-untyped-call]
        logits, action, chunk, temperature, True, entropy_gradient
    )
    return log_p, entropy


def logp(
    logits: Tensor, action: Tensor, *, chunk: int | None = None, temperature: float = 1.0
) -> Tensor:
    """The same log-probabilities as :func:`logp_and_entropy`, without the entropy's work.

    Args:
        logits: ``(..., V)``.
        action: ``(...)``, integers from 0 to V - 1.
        chunk: tokens worked on at a time, at least 1; None: ``CHUNK_LOGITS / V``.
        temperature: logits are divided by it.

    Raises:
        ValueError: an argument that does not fit; one line.

    >>> logp(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor([-1.3863, -1.3863])
    """
    chunk = _check(logits, action, chunk, temperature)
    log_p: Tensor = _Chunked.apply(logits, action, chunk, temperature, False, False)[0]  # type: ignore[no-untyped-call]
    return log_p


class _Chunked(torch.autograd.Function):
    """Computes both results of ``N`` tokens in row-major order, ``n <= chunk`` of them at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        action: Tensor,
        chunk: int,
        temperature: float,
        with_entropy: bool,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor | None]:
        actions = action.long().reshape(-1)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        log_p, highest, log_z, entropy = (
            torch.empty(len(actions), dtype=dtype, device=logits.device) for _ in range(4)
        )
        buffers = _buffers(logits, chunk, dtype, 1 + with_entropy)
        for part, block in _blocks(logits, chunk):
            z, *spare = (buffer[: len(block)] for buffer in buffers)
            highest[part] = block.amax(-1)
            _shift(block, highest[part], temperature, out=z)
            chosen = z.gather(-1, actions[part].unsqueeze(-1)).squeeze(-1)
            weight = torch.exp(z, out=spare[0] if spare else z)
            total = weight.sum(-1)
            torch.log(total, out=log_z[part])
            torch.sub(chosen, log_z[part], out=log_p[part])
            if with_entropy:
                product = z.clamp_(min=_FLOOR).mul_(weight).sum(-1)
                # Z - 1 without cancellation: no weight exceeds 1, and ``frac`` turns those that are 1
                # into 0, which changes the sum by a whole number.
                below = weight.frac_().sum(-1)
                rest = (total - below).round_().sub_(1).add_(below)
                torch.sub(rest.log1p_(), product.div_(total), out=entropy[part])
        log_p, entropy = log_p.view(action.shape), entropy.view(action.shape)
        kept = (entropy,) if entropy_gradient else ()
        ctx.save_for_backward(logits, actions, highest, log_z, *kept)
        ctx.chunk, ctx.temperature = chunk, temperature
        ctx.set_materialize_grads(False)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return log_p, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, logp_gradient: Tensor | None, entropy_gradient: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        logits, actions, highest, log_z, *kept = ctx.saved_tensors
        per_z = torch.exp(-log_z).div_(ctx.temperature)
        if logp_gradient is None:
            logp_gradient = torch.zeros_like(log_z)
        g = logp_gradient.reshape(-1)
        h = None
        if kept and entropy_gradient is not None:
            h, entropy = entropy_gradient.reshape(-1), kept[0].reshape(-1)
        gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        rows = gradient.view(-1, logits.shape[-1])
        narrow = gradient.dtype != log_z.dtype
        buffers = _buffers(logits, ctx.chunk, log_z.dtype, narrow + (h is not None))
        for part, block in _blocks(logits, ctx.chunk):
            ours = [buffer[: len(block)] for buffer in buffers]
            z = ours.pop() if narrow else rows[part]
            _shift(block, highest[part], ctx.temperature, out=z)
            constant = -g[part] * per_z[part]
            if h is None:
                z.exp_().mul_(constant.unsqueeze(-1))
            else:
                # -p (g + h (log p + H)), with log p = z - log Z
                weight = torch.exp(z, out=ours.pop())
                slope = -h[part] * per_z[part]
                constant += slope * (entropy[part] - log_z[part])
                z.clamp_(min=_FLOOR).mul_(slope.unsqueeze(-1)).add_(constant.unsqueeze(-1))
                z.mul_(weight)
            one = (g[part] / ctx.temperature).unsqueeze(-1)
            z.scatter_add_(-1, actions[part].unsqueeze(-1), one)
            if narrow:
                rows[part] = z
        return gradient, None, None, None, None, None


def _shift(block: Tensor, highest: Tensor, temperature: float, *, out: Tensor) -> None:
    """``out = (block - highest) / temperature``, without a copy of the block beside ``out``."""
    if block.dtype == out.dtype:
        torch.sub(block, highest.unsqueeze(-1), out=out)
    else:
        out.copy_(block).sub_(highest.unsqueeze(-1))
    if temperature != 1:
        out.div_(temperature)


def _buffers(logits: Tensor, chunk: int, dtype: torch.dtype, count: int) -> list[Tensor]:
    """``count`` buffers, each with room for the largest block."""
    vocabulary = logits.shape[-1]
    rows = min(chunk, logits.numel() // vocabulary)
    return [torch.empty(rows, vocabulary, dtype=dtype, device=logits.device) for _ in range(count)]


def _blocks(logits: Tensor, chunk: int, first: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """``(n, V)`` views of at most ``chunk`` tokens, with their places in row-major order.

    Logits whose leading axes cannot be viewed as one, such as ``x[:, :-1]``, are cut along the first
    axis, since flattening would copy them all.
    """
    try:
        flat = logits.view(-1, logits.shape[-1])
    except RuntimeError:
        for index, inner in enumerate(logits):
            each = inner.numel() // inner.shape[-1]
            yield from _blocks(inner, chunk, first + index * each)
        return
    for start in range(0, len(flat), chunk):
        block = flat[start : start + chunk]
        yield slice(first + start, first + start + len(block)), block


def _check(logits: Tensor, action: Tensor, chunk: int | None, temperature: float) -> int:
    """Return the chunk; raise an error of one line for the first argument that does not fit."""
    if logits.dtype not in _FLOATS:
        raise ValueError(f"logits: {logits.dtype}, must be one of {', '.join(map(str, _FLOATS))}")
    if logits.ndim < 1 or logits.shape[-1] < 1:
        raise ValueError(f"logits: shape {tuple(logits.shape)}, must be (..., V) with V >= 1")
    if action.is_floating_point() or action.is_complex() or action.dtype is torch.bool:
        raise ValueError(f"action: {action.dtype}, must be integers")
    if action.shape != logits.shape[:-1]:
        raise ValueError(
            f"action: shape {tuple(action.shape)}, must be {tuple(logits.shape[:-1])} like logits"
        )
    if action.device != logits.device:
        raise ValueError(f"action: on {action.device}, must be on {logits.device} like logits")
    if chunk is None:
        chunk = max(1, CHUNK_LOGITS // logits.shape[-1])
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk: {chunk!r}, must be an integer >= 1")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: {temperature!r}, must be > 0 and finite")
    vocabulary = logits.shape[-1]
    if action.numel():
        low, high = (int(x) for x in action.aminmax())
        if low < 0 or high >= vocabulary:
            wrong = low if low < 0 else high
            raise ValueError(f"action: {wrong}, must be from 0 to {vocabulary - 1}")
    return chunk
