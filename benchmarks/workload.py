"""The work that every contender does, and how it is counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import erc_envs

__all__ = ["WORKLOADS", "Corpus", "Outcome", "Workload", "corpus", "workload"]


@dataclass(frozen=True)
class Workload:
    """Training of ``seeds`` independent policies, each for ``rollouts`` rollouts.

    One rollout is ``prompts`` x ``group`` responses of the environment's full length; it is trained
    on once, in ``minibatches`` updates with Adam. The policy is an MLP with one hidden layer, or
    what comes nearest to it among a peer's models at an equal number of parameters.
    """

    name: str
    environment: str
    hidden: int
    rollouts: int
    seeds: int = 16
    prompts: int = 32
    group: int = 8
    minibatches: int = 8
    learning_rate: float = 1e-3
    max_grad_norm: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    warm_start_steps: int = 300
    warm_start_episodes: int = 64
    warm_start_learning_rate: float = 1e-2
    options: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def environment_instance(self) -> gym.Env[Any, Any]:
        """The Gymnasium environment."""
        assert erc_envs  # importing it registers the environments
        return gym.make(self.environment, **dict(self.options))

    @cached_property
    def dynamics(self) -> erc_envs.Dynamics:
        """Its batched transitions."""
        found: erc_envs.Dynamics = self.environment_instance.get_wrapper_attr("dynamics")
        return found

    @property
    def horizon(self) -> int:
        """Tokens in a response."""
        return self.dynamics.horizon

    @property
    def responses(self) -> int:
        """Responses in a rollout."""
        return self.prompts * self.group

    @property
    def tokens(self) -> int:
        """Tokens generated, and trained on once, by all seeds together."""
        return self.seeds * self.rollouts * self.responses * self.horizon

    @property
    def updates(self) -> int:
        """Optimiser steps of all seeds together."""
        return self.seeds * self.rollouts * self.minibatches

    def described(self) -> dict[str, Any]:
        """The workload as plain JSON values."""
        fields = {**asdict(self), "options": dict(self.options)}
        return {**fields, "tokens": self.tokens, "updates": self.updates}


@dataclass(frozen=True)
class Outcome:
    """What a contender counted itself while it worked: never copied from the workload.

    Attributes:
        tokens: generated and trained on, all seeds.
        updates: optimiser steps, all seeds.
        parameters: of one policy, with a value function where the method needs one.
        rewards: mean return of each rollout, over seeds.
    """

    tokens: int
    updates: int
    parameters: int
    rewards: tuple[float, ...]

    @classmethod
    def of_seeds(cls, outcomes: list[Outcome]) -> Outcome:
        """The sum over several seeds or processes; rewards are plain means and serve the curve only."""
        parameters = {o.parameters for o in outcomes}
        assert len(parameters) == 1, f"policies of different sizes: {parameters}"
        return cls(
            tokens=sum(o.tokens for o in outcomes),
            updates=sum(o.updates for o in outcomes),
            parameters=parameters.pop(),
            rewards=tuple(float(x) for x in np.mean([o.rewards for o in outcomes], axis=0)),
        )

    def check(self, work: Workload) -> None:
        """Demand that the whole workload was done, no more and no less.

        Raises:
            ValueError: another number of tokens, updates or rollouts.
        """
        done = {"tokens": self.tokens, "updates": self.updates, "rollouts": len(self.rewards)}
        for name, count in done.items():
            if count != getattr(work, name):
                raise ValueError(f"{name}: {count} done, the workload has {getattr(work, name)}")


#: 115 hidden + 32 parameters (token) and 19 hidden + 10 (bandit): 20,272 and 20,074.
WORKLOADS = {
    w.name: w
    for w in (
        Workload("token", "erc/TokenForks-v0", hidden=176, rollouts=20),
        Workload("bandit", "erc/DriftBandit-v0", hidden=1056, rollouts=100),
    )
}


def workload(name: str, **changes: Any) -> Workload:
    """A workload by name, with some fields changed; None leaves a field as it is."""
    return replace(WORKLOADS[name], **{k: v for k, v in changes.items() if v is not None})


@dataclass(frozen=True)
class Corpus:
    """Episodes that follow the environment's prior, for supervised warm starts.

    Attributes:
        prompt: ``(N,)``.
        observation: ``(N, T, F)``.
        action: ``(N, T)``, as the prior drew it.
        target: ``(N, T, V)``, the prior's distribution.
    """

    prompt: NDArray[np.int64]
    observation: NDArray[Any]
    action: NDArray[np.int64]
    target: NDArray[np.float32]


def corpus(dynamics: erc_envs.Dynamics, episodes: int, seed: int = 0) -> Corpus:
    """Draw episodes of full length from the prior."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(dynamics.num_prompts, size=episodes)
    state = dynamics.initial_state(prompt)
    observations, actions, targets = [], [], []
    for _ in range(dynamics.horizon):
        prior = dynamics.prior(state)
        cdf = prior.cumsum(-1)
        action = (cdf < rng.random((episodes, 1)) * cdf[:, -1:]).sum(-1)
        observations.append(dynamics.observe(state))
        actions.append(action)
        targets.append(prior.astype(np.float32))
        state, _, _ = dynamics.step(state, action, rng.random(episodes))
    return Corpus(
        prompt, np.stack(observations, 1), np.stack(actions, 1), np.stack(targets, axis=1)
    )
