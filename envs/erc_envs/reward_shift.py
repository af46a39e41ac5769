"""RewardShift: half-way through training, other answers become the right ones."""

# The contract of these methods is stated once, in Dynamics.
# ruff: noqa: D102

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from gymnasium import spaces

from erc_envs._render import BLUE, GREEN, GREY, ORANGE, text_table, token_frame
from erc_envs._tables import check_float, check_int, entropy
from erc_envs.base import (
    BoolArray,
    Dynamics,
    Episode,
    FloatArray,
    Frame,
    IntArray,
    Observation,
)

_SHIFT_AT = 0.5  # fraction of training at which phase 1 begins


@dataclass(frozen=True)
class RewardShift(Dynamics):
    r"""Token task whose right answers change half-way through training, unannounced.

    What it isolates: recovery from a low-entropy policy. In phase 0 a policy learns one answer
    per prompt and grows certain of it. From half of training on (``at(progress)`` with progress
    >= 1/2) phase 1 holds: at ``num_moved`` positions of every prompt another token is right. To
    recover, tokens that have become unlikely must rise, and with them the entropy.

    At every position the prior puts (1 - ``slip``) / ``branching`` on each of the plausible
    tokens, the same ones for all prompts, and shares the slip evenly over the others. The answers
    of both phases are plausible tokens, drawn uniformly for each prompt and position; so is the
    choice of the positions that move. Whatever differs between the phases, neither the
    observation nor the prior tells. The reward is 1 after the last token if every token was
    right, else 0. The optimum of a phase: its right token everywhere;

        optimal_return = 1,   prior_return = ((1 - slip) / branching)^length   in both phases.

    A policy that gives the new answer of a prompt the probability q finds it in a group of G
    responses with probability 1 - (1 - q)^G, about G q; how fast it recovers depends on the q
    that phase 0 left, and on how fast q may rise. PPO-clip stops pushing a sampled token up at
    r = 1 + e: a q of 0.001 gains at most 0.0003 before the bound holds. ERC stops where the
    entropy leaves its band, and near determinism

        H = q log(1 / q) + q + O(q^2),   dH / H ~ (dq / q) (1 - 1 / (log(1 / q) + 1)),

    so a q that rises by about 6 % of itself ends its own gradient, and so does the loss of
    certainty that recovery needs. Clip-higher (DAPO) and kept gradients (GPPO) should recover
    sooner than PPO-clip; ERC should keep a larger q through phase 0, if it steadies the entropy,
    and should be slower from equal q. Which effect wins is the question.

    Observation: MultiDiscrete [prompt, position in 0..length, previous token + 1 (0: none)].
    State columns: the same three, then ``correct``, 1 while every token so far was right.

    Raises:
        ValueError: a field outside its range, named with its value.

    >>> task = RewardShift()
    >>> task.at(0.49) == task, task.at(0.5) == RewardShift(phase=1)
    (True, True)
    >>> round(task.prior_return, 3), task.at(1.0).optimal_return
    (0.226, 1.0)
    """

    num_prompts: int = 16
    vocab_size: int = 16
    length: int = 2
    branching: int = 2
    num_moved: int = 1
    slip: float = 0.05
    phase: int = 0
    instance_seed: int = 0

    num_actions: int = field(init=False, repr=False, compare=False)
    horizon: int = field(init=False, repr=False, compare=False)
    stochastic: ClassVar[bool] = False

    _prior: FloatArray = field(init=False, repr=False, compare=False)  # (L + 1, V)
    _right: IntArray = field(init=False, repr=False, compare=False)  # (P, L + 1), -1 at the end
    _moved: BoolArray = field(init=False, repr=False, compare=False)  # (P, L)

    def __post_init__(self) -> None:
        check_int("num_prompts", self.num_prompts, low=1)
        check_int("branching", self.branching, low=2)
        check_int("vocab_size", self.vocab_size, low=self.branching + 1)
        check_int("length", self.length, low=1)
        check_int("num_moved", self.num_moved, low=1, high=self.length)
        check_int("phase", self.phase, low=0, high=1)
        check_int("instance_seed", self.instance_seed, low=0)
        check_float("slip", self.slip, "in (0, 0.25]", lambda s: 0 < s <= 0.25)
        P, L, V, B = self.num_prompts, self.length, self.vocab_size, self.branching
        rng = np.random.default_rng(self.instance_seed)

        tokens = rng.permuted(np.tile(np.arange(V), (L, 1)), axis=-1)[:, :B]
        prior = np.full((L + 1, V), 1 / V)
        prior[:L] = self.slip / (V - B)
        np.put_along_axis(prior[:L], tokens, (1 - self.slip) / B, axis=-1)

        # Both phases draw the same numbers: what does not move is the same in both.
        before = rng.integers(B, size=(P, L))
        after = (before + rng.integers(1, B, size=(P, L))) % B
        moved = rng.permuted(np.tile(np.arange(L) < self.num_moved, (P, 1)), axis=-1)
        answer = np.where(moved & (self.phase == 1), after, before)
        right = np.full((P, L + 1), -1)
        right[:, :L] = tokens[np.arange(L), answer]
        self._set_tables(num_actions=V, horizon=L, _prior=prior, _right=right, _moved=moved)

    def at(self, progress: float) -> RewardShift:
        """Phase 0 before half of training, phase 1 from there on."""
        super().at(progress)  # checks the progress
        phase = int(progress >= _SHIFT_AT)
        return self if phase == self.phase else dataclasses.replace(self, phase=phase)

    @property
    def observation_space(self) -> spaces.MultiDiscrete:
        return spaces.MultiDiscrete([self.num_prompts, self.length + 1, self.vocab_size + 1])

    def initial_state(self, prompt: IntArray) -> IntArray:
        state = np.zeros((len(prompt), 4), dtype=np.int64)
        state[:, 0] = prompt
        state[:, 3] = 1
        return state

    def observe(self, state: IntArray) -> Observation:
        return state[:, :3].copy()

    def step(
        self, state: IntArray, action: IntArray, noise: FloatArray
    ) -> tuple[IntArray, FloatArray, BoolArray]:
        prompt, position, token, correct = state.T
        live = position < self.length
        right = action == self._right[prompt, position]
        after = np.empty_like(state)
        after[:, 0] = prompt
        after[:, 1] = position + live
        after[:, 2] = np.where(live, action + 1, token)
        after[:, 3] = np.where(live, correct & right, correct)
        terminated = after[:, 1] == self.length
        won = terminated & live & (after[:, 3] == 1)
        return after, won.astype(np.float64), terminated

    def prior(self, state: IntArray) -> FloatArray:
        return np.asarray(self._prior[state[:, 1]])

    def optimal_action(self, state: IntArray) -> IntArray:
        right = self._right[state[:, 0], state[:, 1]]
        return np.maximum(right, 0)  # -1 at the end, where no action matters

    @property
    def optimal_return(self) -> float:
        return 1.0

    @property
    def prior_return(self) -> float:
        return float(((1 - self.slip) / self.branching) ** self.length)

    def _right_tokens(self, episode: Episode) -> list[bool]:
        before = episode.states[:-1]
        right = self._right[before[:, 0], before[:, 1]]
        return [bool(ok) for ok in episode.actions == right]

    def render_text(self, episode: Episode) -> str:
        prompt = int(episode.states[0, 0])
        reward = f"reward {episode.rewards[-1]:g}" if episode.terminated else "reward pending"
        return text_table(
            f"RewardShift  prompt {prompt}  phase {self.phase}"
            f"  step {len(episode.actions)}/{self.length}  {reward}",
            {
                "position": list(range(self.length)),
                "moves": ["yes" if moves else "no" for moves in self._moved[prompt]],
                "answer": self._right[prompt, : self.length].tolist(),
                "token": episode.actions.tolist(),
                "": ["ok" if right else "wrong" for right in self._right_tokens(episode)],
            },
        )

    def render_frame(self, episode: Episode) -> Frame:
        prompt = int(episode.states[0, 0])
        right = self._right_tokens(episode)
        moving = ORANGE if self.phase else BLUE
        return token_frame(
            length=self.length,
            tokens=episode.actions.tolist(),
            colours=[GREEN if t < len(right) and right[t] else GREY for t in range(self.length)],
            wrong=[not ok for ok in right],
            levels=(
                entropy(self.prior(episode.states[: self.length])) / np.log(self.vocab_size)
            ).tolist(),
            strip=[moving if moves else GREY for moves in self._moved[prompt]],
            reward=float(episode.rewards[-1]) if episode.terminated else None,
        )
