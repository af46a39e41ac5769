"""What the bandits share: one action per episode, which earns 0 or 1."""

# The contract of these methods is stated once, in Dynamics.

from __future__ import annotations

import abc
from typing import ClassVar

import numpy as np

from erc_envs.base import BoolArray, Dynamics, Episode, FloatArray, IntArray, states


class Bandit(Dynamics):
    """A contextual bandit of horizon 1.

    State columns: prompt, position (0 before the action, 1 after it).
    """

    horizon: int = 1
    stochastic: ClassVar[bool] = True

    @abc.abstractmethod
    def _pays(self, prompt: IntArray, action: IntArray, noise: FloatArray) -> BoolArray:
        """Whether these arms (N,) of these prompts (N,) pay 1."""

    def initial_state(self, prompt: IntArray) -> IntArray:
        return states(prompt, 0)

    def step(
        self, state: IntArray, action: IntArray, noise: FloatArray
    ) -> tuple[IntArray, FloatArray, BoolArray]:
        prompt, position = state.T
        paid = self._pays(prompt, action, noise) & (position == 0)
        after = state.copy()
        after[:, 1] = 1
        return after, paid.astype(np.float64), np.ones(len(state), dtype=np.bool_)

    def _chosen(self, episode: Episode) -> int | None:
        return int(episode.actions[0]) if episode.terminated else None

    def _outcome(self, episode: Episode) -> str:
        if episode.final_reward is None:
            return "no arm chosen yet"
        return f"arm {self._chosen(episode)}  reward {episode.final_reward:g}"
