"""What the training loop asks of an engine: where networks are evaluated and optimiser steps made.

Every engine computes the same numbers, to 1e-5 over a few dozen updates; they differ in speed and in
what they can run. :mod:`erc_bench.training.torch_engine` runs everything,
:mod:`erc_bench.training.native` what can be compiled in advance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor

from erc_bench.objectives.base import Objective
from erc_bench.training.optimizer import Adam, Learner
from erc_bench.training.population import Params
from erc_bench.training.rollout import Place, Rollout
from erc_bench.training.state import Setup
from erc_envs.base import Dynamics

__all__ = ["Distort", "Engine", "Minibatch", "Row"]

Row = dict[str, Tensor]
"""Named measurements of one update, one for each run: ``(R,)``, or ``(R, S, ...)`` for S tokens."""

Distort = Callable[[Tensor, NDArray[Any], int], Tensor]
"""Logits ``(R, N, V)`` at observations ``(R * N, F)`` of step t as the program that samples has them."""


@dataclass(frozen=True)
class Minibatch:
    """What one update is made from; B responses of T tokens.

    Attributes:
        fixed: the fields of :class:`TokenBatch` that the trained parameters do not move; those with one
            value per token read 0 where masked.
        seen: what the engine knows of each token, as its rollout has it.
        value_target: what value heads are fitted to, ``(R, B, T)``.
        reference: parameters of the reference policy; None: no objective reads it.
        record: uniforms in [0, 1) that choose S tokens to be recorded whole, ``(R, S)``; None: none.
    """

    fixed: dict[str, Tensor]
    seen: dict[str, Tensor]
    value_target: Tensor
    reference: Params | None
    record: Tensor | None


class Engine(Protocol):
    """Evaluates and trains R networks at once; R, B, T and V as in :class:`Rollout`."""

    @property
    def name(self) -> str:
        """``torch``, or ``native`` with the instructions it was compiled for, as ``native-avx2``."""
        ...

    def respond(
        self,
        setup: Setup,
        params: Params,
        task: Dynamics,
        place: Place,
        prompts: int,
        group: int,
        runs: Tensor | slice = slice(None),
        *,
        distort: Distort | None = None,
        further: bool = False,
    ) -> Rollout:
        """Let some of the runs answer prompts, ``group`` times each.

        Args:
            setup: who is trained on what.
            params: of all runs.
            task: the environment as it is now.
            place: of the random numbers.
            prompts: P.
            group: G.
            runs: which answer.
            distort: what the program that samples makes of their logits; None: nothing.
            further: the rollout will be joined with the one made before it.
        """
        ...

    def update(
        self, setup: Setup, policy: Learner, minibatch: Minibatch, objectives: Sequence[Objective]
    ) -> tuple[Learner, Row, Row]:
        """One optimiser step of every run.

        Args:
            setup: who is trained, and with which step size, temperature and measures.
            policy: parameters and the optimiser's state before the step; its arrays are reused.
            minibatch: what the step is made from.
            objectives: of every arm; each reads the arm's slice of the runs.

        Returns:
            The learner after the step; what was measured before it, NaN where a metric means nothing
            for a run; and the columns of the tokens table, if the minibatch asks for them.
        """
        ...

    def moved(self, setup: Setup, params: Params, rollout: Rollout) -> Tensor:
        """Mean exact KL of every run from the rollout's old policy to these parameters', ``(R,)``."""
        ...

    def values(self, setup: Setup, critic: Params, rollout: Rollout, runs: slice) -> Tensor:
        """What value heads, those of some runs, say of every token: ``(len(runs), B, T)``."""
        ...

    def fit_values(
        self, setup: Setup, critic: Learner, minibatch: Minibatch, runs: slice
    ) -> Learner:
        """Value heads after one step on the mean squared error over unmasked tokens."""
        ...

    def imitate(
        self, setup: Setup, learner: Learner, obs: Tensor, wanted: Tensor, mask: Tensor, adam: Adam
    ) -> Learner:
        """Networks after one supervised step on ``E[-sum_a p(a) log pi(a)]`` over unmasked tokens.

        Args:
            setup: who is trained.
            learner: R networks, which may be others than the setup's runs.
            obs: ``(R, B, T, F)``.
            wanted: p, ``(R, B, T, V)``.
            mask: ``(R, B, T)`` bool.
            adam: with the step size.
        """
        ...
