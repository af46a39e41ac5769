"""Rounding and noise: how the engine that samples differs from the policy that is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from erc_bench.training.state import Setup
from erc_bench.training.streams import Purpose, normals

__all__ = ["distortion", "round_to_bits"]


def round_to_bits(x: Tensor, bits: Tensor) -> Tensor:
    """Round to the nearest number with this many bits of significand, ties to even, at any exponent.

    ``x = m 2^e`` with ``1/2 <= |m| < 1`` gives ``round(m 2^bits) 2^(e - bits)``. With 8 bits it is
    bfloat16, with 11 float16, with 24 float32, for numbers within their ranges.

    Args:
        x: any shape.
        bits: integers that broadcast with ``x``.

    >>> round_to_bits(torch.tensor([1.01, -3.3]), torch.tensor(8))
    tensor([ 1.0078, -3.2969])
    """
    significand, exponent = torch.frexp(x.double())
    bits = bits.double()
    return ((significand * 2.0**bits).round() * 2.0 ** (exponent - bits)).to(x.dtype)


def distortion(
    setup: Setup, number: int, round_: int, runs: Tensor | slice
) -> Callable[[Tensor, int], Tensor] | None:
    """What the engine does to the logits ``(R, N, V)`` of step t in a round of a rollout.

    ``round_to_bits(z + jitter * noise, bits)`` with standard normal noise; None: nothing, in any run.
    """
    if not setup.distorted:
        return None
    config, task = setup.config, setup.dynamics
    bits = setup.per_run["rollout_bits"][runs].view(-1, 1, 1)
    jitter = setup.per_run["rollout_jitter"][runs].view(-1, 1, 1)
    shape = (config.prompts * config.group_size, task.horizon, task.num_actions)
    noise = None
    if bool(jitter.any()):
        seeds = setup.seeds[runs].tolist()
        drawn = normals(setup.seed, seeds, Purpose.JITTER, number, round_, shape=shape)
        noise = torch.from_numpy(drawn).to(setup.dtype)

    def distort(logits: Tensor, t: int) -> Tensor:
        if noise is not None:
            logits = logits + jitter * noise[:, :, t]
        return round_to_bits(logits, bits)

    return distort
