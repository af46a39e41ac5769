"""What separates the engine that samples from the policy that is trained: rounding and noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erc_bench.training.state import Setup
from erc_bench.training.streams import Purpose, normals

__all__ = ["Distortion", "distortion", "round_to_bits"]


def round_to_bits(x: Tensor, bits: Tensor) -> Tensor:
    """Nearest number with a significand of so many bits, ties to even; the exponent is not limited.

    ``x = m 2^e`` with ``1/2 <= |m| < 1`` gives ``round(m 2^bits) 2^(e - bits)``. With 8 bits it is
    bfloat16, with 11 float16, with 24 float32, for numbers within their ranges.

    Args:
        x: any shape.
        bits: integers that broadcast with it.

    >>> round_to_bits(torch.tensor([1.01, -3.3]), torch.tensor(8))
    tensor([ 1.0078, -3.2969])
    """
    significand, exponent = torch.frexp(x.double())
    bits = bits.double()
    return ((significand * 2.0**bits).round() * 2.0 ** (exponent - bits)).to(x.dtype)


@dataclass(frozen=True)
class Distortion:
    """The sampling engine's logits: ``round_to_bits(z + jitter * noise, bits)``.

    Attributes:
        bits: ``(R,)`` bits of significand.
        jitter: ``(R,)`` standard deviation of the noise.
        noise: standard normal, ``(R, N, T, V)``; None: no run has any.
        is_old: whether the objectives' old policy is this engine's, or the trained one.
    """

    bits: Tensor
    jitter: Tensor
    noise: Tensor | None
    is_old: bool

    def __call__(self, logits: Tensor, t: int) -> Tensor:
        """Logits ``(R, N, V)`` of step t as the engine has them."""
        if self.noise is not None:
            logits = logits + self.jitter.view(-1, 1, 1) * self.noise[:, :, t]
        return round_to_bits(logits, self.bits.view(-1, 1, 1))


def distortion(setup: Setup, number: int, round_: int, runs: Tensor | slice) -> Distortion | None:
    """What the engine does to the logits of a rollout's round; None: nothing, in any run."""
    if not setup.distorted:
        return None
    config, task = setup.config, setup.dynamics
    bits, jitter = (setup.per_run[name][runs] for name in ("rollout_bits", "rollout_jitter"))
    noise = None
    if bool(jitter.any()):
        shape = (config.prompts * config.group_size, task.horizon, task.num_actions)
        seeds = setup.seeds[runs].tolist()
        drawn = normals(setup.seed, seeds, Purpose.JITTER, number, round_, shape=shape)
        noise = torch.from_numpy(drawn).to(jitter.dtype)
    return Distortion(bits, jitter, noise, is_old=config.sampler.old_policy == "rollout")
