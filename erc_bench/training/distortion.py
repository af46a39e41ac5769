"""Rounding and noise: how the engine that samples differs from the policy that is trained."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from erc_bench.training.config import EXACT_BITS
from erc_bench.training.engine import Distort
from erc_bench.training.population import Params, take
from erc_bench.training.rollout import as_observation
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
    setup: Setup, params: Params, number: int, round_: int, runs: Tensor | slice
) -> Distort | None:
    """What the sampler makes of a policy's logits ``(R, N, V)`` in a round of a rollout.

    ``round_to_bits(z + jitter * noise, bits)`` with standard normal noise, where ``z`` are the logits of
    the policy with its weights rounded to ``rollout_weight_bits``; None: nothing, in any run.
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

    weight_bits = setup.per_run["rollout_weight_bits"][runs]
    forward = None
    if bool((weight_bits < EXACT_BITS).any()):
        rounded = {
            name: round_to_bits(p, weight_bits.view(-1, *[1] * (p.ndim - 1)))
            for name, p in take(params, runs).items()
        }
        forward = setup.policy.decoder(rounded)

    def distort(logits: Tensor, observation: NDArray[Any], t: int) -> Tensor:
        if forward is not None:
            rough = forward(as_observation(observation, len(logits), setup.dtype))
            logits = torch.where(weight_bits.view(-1, 1, 1) < EXACT_BITS, rough, logits)
        if noise is not None:
            logits = logits + jitter * noise[:, :, t]
        return round_to_bits(logits, bits)

    return distort
