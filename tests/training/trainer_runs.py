"""Small populations, and a dynamics whose episodes end at a stop token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from erc_bench.objectives import make, recipe
from erc_bench.training import Arm, TrainConfig, Trainer
from erc_bench.training.config import PER_RUN
from erc_envs.token_forks import TokenForks

TINY: dict[str, Any] = {
    "rollouts": 3,
    "prompts": 4,
    "group_size": 4,
    "minibatches": 2,
    "learning_rate": 5e-3,
    "warm_start_steps": 12,
    "warm_start_learning_rate": 0.05,
    "evaluation_episodes": 16,
    "hidden": 16,
    "dtype": "float64",
}


def forks(**fields: Any) -> TokenForks:
    """A four-token grammar with one fork."""
    small = {
        "num_prompts": 4,
        "vocab_size": 6,
        "length": 4,
        "num_forks": 1,
        "branching": 2,
        "slip": 0.2,
    }
    return TokenForks(**{**small, **fields})


@dataclass(frozen=True)
class StopToken:
    """Token 0 ends the episode; 1 is paid for stopping at an odd position, ``constant`` always.

    State columns: prompt, position, previous token + 1. The prior puts 0.4 on the stop token.
    """

    num_prompts: int = 3
    num_actions: int = 4
    horizon: int = 6
    constant: float = 0.0
    stopping: float = 1.0
    optimal_return: float = 1.0

    @property
    def observation_space(self) -> spaces.MultiDiscrete:
        return spaces.MultiDiscrete([self.num_prompts, self.horizon + 1, self.num_actions + 1])

    def at(self, progress):
        return self

    def held_out(self):
        return self

    def initial_state(self, prompt):
        state = np.zeros((len(prompt), 3), dtype=np.int64)
        state[:, 0] = prompt
        return state

    def observe(self, state):
        return state.copy()

    def step(self, state, action, noise):
        after = np.stack([state[:, 0], state[:, 1] + 1, action + 1], axis=1)
        ended = (action == 0) | (after[:, 1] == self.horizon)
        odd = (action == 0) & (state[:, 1] % 2 == 1)
        return after, np.where(ended, self.constant, 0.0) + self.stopping * odd, ended

    def prior(self, state):
        rest = 0.6 / (self.num_actions - 1)
        return np.tile([0.4, *[rest] * (self.num_actions - 1)], (len(state), 1))


@dataclass(frozen=True)
class Echo:
    """Say the prompt's token twice; a context of one prompt token and two of the response."""

    num_prompts: int = 4
    num_actions: int = 4
    horizon: int = 2
    right: float = 0.5
    optimal_return: float = 1.0
    observation_space = spaces.MultiDiscrete([5, 5, 5])

    def at(self, progress):
        return self

    def held_out(self):
        return self

    def initial_state(self, prompt):
        return np.stack([prompt + 1, 0 * prompt, 0 * prompt], axis=1)

    def observe(self, state):
        return state.copy()

    def step(self, state, action, noise):
        after = state.copy()
        at = (state[:, 1] > 0) + 1
        after[np.arange(len(state)), at] = action + 1
        ended = at == 2
        won = ended & (after[:, 1:] == after[:, :1]).all(axis=1)
        return after, won.astype(float), ended

    def prior(self, state):
        rest = (1 - self.right) / (self.num_actions - 1)
        rows = np.full((len(state), self.num_actions), rest)
        rows[np.arange(len(state)), state[:, 0] - 1] = self.right
        return rows


def arm(
    name: str, seeds: Sequence[int] = (0, 1), *, label: str | None = None, **kwargs: Any
) -> Arm:
    """An arm as its recipe says; keywords of ``Arm``, or of the recipe under ``overrides``.

    What each run has for itself is named on its own: ``learning_rate=torch.tensor(...)``.
    """
    found = recipe(name)
    overrides = kwargs.pop("overrides", {})
    own = {name: kwargs.pop(name) for name in PER_RUN if name in kwargs}
    fields: dict[str, Any] = {
        "advantage": found.advantage,
        "dynamic_sampling": found.dynamic_sampling,
        "overlong_penalty": found.overlong_penalty,
        "settings": own,
        **kwargs,
    }
    objective = fields.pop("objective", None) or make(name, **overrides)
    return Arm(label=label or name, objective=objective, seeds=list(seeds), **fields)


def trainer(
    arms: Sequence[Arm], dynamics: Any = None, *, seed: int = 7, **settings: Any
) -> Trainer:
    """A trainer with ``TINY`` settings on the small grammar, unless told otherwise."""
    dynamics = dynamics or forks()
    config = TrainConfig(**{**TINY, **settings})
    return Trainer(config, dynamics, dynamics.observation_space, arms, seed=seed)


def parameters(t: Trainer, run: int) -> list[torch.Tensor]:
    """One run's policy parameters."""
    return [p[run].clone() for p in t.state.policy.params.values()]


def assert_same_result(a, b, runs_a=slice(None), runs_b=slice(None), **tolerance: float) -> None:
    """Two results agree in every table, NaN included; exactly, unless a tolerance is given."""
    compare = (
        (lambda x, y, n: np.testing.assert_allclose(x, y, err_msg=n, **tolerance))
        if tolerance
        else (lambda x, y, n: np.testing.assert_array_equal(x, y, err_msg=n))
    )
    assert a.tokens.keys() == b.tokens.keys()
    for name in a.metrics.keys() & b.metrics.keys():
        compare(a.metrics[name][:, runs_a], b.metrics[name][:, runs_b], name)
    for name in a.tokens:
        compare(a.tokens[name][:, runs_a], b.tokens[name][:, runs_b], name)
    for name in a.runs.keys() | b.runs.keys():
        compare(a.runs[name][runs_a], b.runs[name][runs_b], name)
