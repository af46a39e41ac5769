"""R copies of one ``nn.Module``, evaluated together with a leading run axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

__all__ = ["Params", "Population"]

Params = dict[str, Tensor]
"""Parameters by name, each ``(R, *shape)``."""


class Population:
    """The parameters of R independent networks and one forward pass for all of them.

    ``forward(obs)[r] = module_r(obs[r])``: ``(R, ..., F)`` gives ``(R, ..., V)``; runs share nothing.
    A module that knows how to evaluate R copies of itself offers ``forward_runs(params, obs)``; any
    other goes through ``torch.vmap``, which costs a quarter more and as much again in a small update.

    Args:
        build: makes one network; called once per seed with torch's generator seeded by it.
        seeds: one non-negative integer per run.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        seeds: Sequence[int],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        modules = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.manual_seed(seed)
                modules.append(build().to(dtype))
        stacked, buffers = stack_module_state(modules)
        self.params: Params = {name: p.detach().clone() for name, p in stacked.items()}
        shared = {name: b[0] for name, b in buffers.items()}
        skeleton = modules[0].requires_grad_(False)  # its own parameters are not used

        self._skeleton = skeleton

        def one(params: Params, obs: Tensor) -> Tensor:
            outputs: Tensor = functional_call(skeleton, (params, shared), (obs,))
            return outputs

        self._forward: Callable[[Params, Tensor], Tensor] = getattr(
            skeleton, "forward_runs", torch.vmap(one)
        )

    def __len__(self) -> int:
        return next(iter(self.params.values())).shape[0]

    @property
    def parameters_per_run(self) -> int:
        """Number of scalars in one network."""
        return sum(p[0].numel() for p in self.params.values())

    def forward(self, obs: Tensor, params: Params | None = None) -> Tensor:
        """Outputs of every run on its own observations, ``(R, ..., F)`` to ``(R, ..., V)``."""
        return self._forward(self.params if params is None else params, obs)

    def decoder(self, params: Params | None = None) -> Callable[[Tensor], Tensor]:
        """The forward pass ``(R, N, F)`` to ``(R, N, V)`` of one rollout, called once per step.

        A module that can go on from its last step offers ``decoder(params)``.
        """
        params = self.params if params is None else params
        begin = getattr(self._skeleton, "decoder", None)
        return (lambda obs: self._forward(params, obs)) if begin is None else begin(params)

    def select(self, runs: Tensor) -> Params:
        """Parameters of some runs, by index (copies)."""
        return {name: p[runs] for name, p in self.params.items()}

    def only(self, run: int) -> Population:
        """A population of one of the runs (a copy)."""
        alone = copy(self)
        alone.params = {name: p[run : run + 1].clone() for name, p in self.params.items()}
        return alone

    def repeat(self, index: Tensor) -> None:
        """Replace the population by the runs ``index`` names, in that order."""
        self.params = {name: p[index].clone() for name, p in self.params.items()}
