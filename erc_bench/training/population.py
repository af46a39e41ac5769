"""R copies of one ``nn.Module``, evaluated together with a leading run axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

__all__ = ["Params", "Population", "leaves", "take"]

Params = dict[str, Tensor]
"""Parameters by name, each ``(R, *shape)``."""


class Population:
    """One forward pass for R independent networks whose parameters are handed in.

    ``forward(params, obs)[r] = module_r(obs[r])``: ``(R, ..., F)`` gives ``(R, ..., V)``; runs share
    nothing. A module that knows how to evaluate R copies of itself offers ``forward_runs(params,
    obs)``; any other goes through ``torch.vmap``, which costs a quarter more and as much again in a
    small update.

    Args:
        build: makes one network; torch's generator is seeded for it.
        dtype: of the parameters.
    """

    def __init__(self, build: Callable[[], nn.Module], dtype: torch.dtype = torch.float32) -> None:
        self._build, self._dtype = build, dtype
        with torch.random.fork_rng(devices=[]):
            #: its own parameters are not used
            self.skeleton = build().to(dtype).requires_grad_(False)
        buffers = dict(self.skeleton.named_buffers())

        def one(params: Params, obs: Tensor) -> Tensor:
            outputs: Tensor = functional_call(self.skeleton, (params, buffers), (obs,))
            return outputs

        #: parameters and observations ``(R, ..., F)`` to every run's outputs ``(R, ..., V)``
        self.forward: Callable[[Params, Tensor], Tensor] = getattr(
            self.skeleton, "forward_runs", torch.vmap(one)
        )

    def start(self, seeds: Sequence[int]) -> Params:
        """Parameters of new networks, one for each non-negative seed."""
        modules = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.manual_seed(seed)
                modules.append(self._build().to(self._dtype))
        stacked, _ = stack_module_state(modules)
        return {name: p.detach().clone() for name, p in stacked.items()}

    @property
    def parameters_per_run(self) -> int:
        """Number of scalars in one network."""
        return sum(p.numel() for p in self.skeleton.parameters())

    def decoder(self, params: Params) -> Callable[[Tensor], Tensor]:
        """The forward pass ``(R, N, F)`` to ``(R, N, V)`` of one rollout, called once per step.

        A module that can go on from its last step offers ``decoder(params)``.
        """
        begin = getattr(self.skeleton, "decoder", None)
        return (lambda obs: self.forward(params, obs)) if begin is None else begin(params)


def take(params: Params, runs: Tensor | slice | int) -> Params:
    """Parameters of some runs, in that order: copies by a tensor's index, views otherwise."""
    return {name: p[runs] for name, p in params.items()}


def leaves(params: Params) -> Params:
    """The same numbers, with gradients recorded from here on."""
    return {name: p.detach().requires_grad_() for name, p in params.items()}
