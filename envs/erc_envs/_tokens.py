"""What the token tasks share: states, the reward for a whole answer, and the renderings."""

# The contract of these methods is stated once, in Dynamics.

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from gymnasium import spaces

from erc_envs._render import BLUE, GREY, ORANGE, PALE, SKY, Colour, text_table, token_frame
from erc_envs._tables import entropy
from erc_envs.base import BoolArray, Dynamics, Episode, FloatArray, Frame, IntArray, states


class TokenTask(Dynamics):
    """A task whose actions are tokens, with a reward in [0, 1] at the end for the whole answer."""

    stochastic: ClassVar[bool] = False

    @property
    def optimal_return(self) -> float:
        return 1.0

    @abc.abstractmethod
    def _wrong(self, episode: Episode) -> list[bool]:
        """Which of the tokens so far the renderings mark as wrong."""

    def _verdicts(self, episode: Episode) -> list[str]:
        return ["wrong" if wrong else "ok" for wrong in self._wrong(episode)]

    def _steps(self, episode: Episode) -> str:
        return f"step {len(episode.actions)}/{self.horizon}"

    def _entropies(self, episode: Episode) -> FloatArray:
        """Entropies of the prior in all states but the terminal one."""
        return entropy(self.prior(episode.states[: len(episode.states) - episode.terminated]))

    def _text(
        self,
        episode: Episode,
        rows: Mapping[str, Sequence[object]],
        title: str = "",
        note: str = "",
    ) -> str:
        """A table with the reward after its title; by default the title tells prompt and step."""
        if not title:
            title = f"{type(self).__name__}  prompt {episode.prompt}  {self._steps(episode)}"
        reward = "pending" if episode.final_reward is None else f"{episode.final_reward:g}"
        return text_table(f"{title}  reward {reward}{note}", rows)

    def _frame(
        self,
        episode: Episode,
        colours: Sequence[Colour],
        strip: Sequence[Colour],
        most: int | None = None,
    ) -> Frame:
        """A row of tokens under bars of the prior's entropy.

        Args:
            episode: the episode so far.
            colours: colours of the tiles, one for every position.
            strip: colours of the strip below the tiles.
            most: number of equally likely tokens at which a bar reaches the top; by default all.
        """
        return token_frame(
            tokens=episode.actions.tolist(),
            colours=colours,
            wrong=self._wrong(episode),
            levels=(self._entropies(episode) / np.log(most or self.num_actions)).tolist(),
            strip=strip,
            reward=episode.final_reward,
        )


class TextTask(TokenTask):
    """A token task that is read as text: a question, and an answer that may end at any time.

    A response is over at its end token, or cut off at the horizon. The prior and the optimum look at
    the position alone: after a wrong token they go on as if nothing had happened.

    Observation: MultiDiscrete with ``prompt_tokens`` + horizon columns, the context so far: tokens
    + 1, or 0 where nothing is written yet.
    State columns: prompt, then the horizon columns of the response, as observed.
    """

    # The tables that a subclass sets, by prompt; those of the answer by position of the response.
    prompt_tokens: int  # columns of the observation that hold the prompt; the response follows
    _end: int  # the end token
    _symbols: tuple[str, ...]  # (V,)
    _context: IntArray  # (P, prompt_tokens), tokens + 1
    _answer: IntArray  # (P, T), tokens + 1, 0 after the end
    _row: IntArray  # (P, T + 1), row of _prior
    _prior: FloatArray  # (rows, V)

    @abc.abstractmethod
    def _reward(self, prompt: IntArray, response: IntArray) -> FloatArray:
        """Rewards (N,) of the responses (N, T), tokens + 1, which are over."""

    @property
    def observation_space(self) -> spaces.MultiDiscrete:
        return spaces.MultiDiscrete([self.num_actions + 1] * (self.prompt_tokens + self.horizon))

    def initial_state(self, prompt: IntArray) -> IntArray:
        return states(prompt, *[0] * self.horizon)

    def observe(self, state: IntArray) -> IntArray:
        return np.concatenate([self._context[state[:, 0]], state[:, 1:]], axis=1)

    def step(
        self, state: IntArray, action: IntArray, noise: FloatArray
    ) -> tuple[IntArray, FloatArray, BoolArray]:
        position, ended = self._progress(state)
        live = np.flatnonzero(~ended)
        after = state.copy()
        after[live, 1 + position[live]] = action[live] + 1
        terminated = self._progress(after)[1]
        over = np.flatnonzero(terminated & ~ended)
        reward = np.zeros(len(state))
        reward[over] = self._reward(after[over, 0], after[over, 1:])
        return after, reward, terminated

    def _progress(self, state: IntArray) -> tuple[IntArray, BoolArray]:
        """Tokens written (N,), and whether the response has ended or is full (N,)."""
        response = state[:, 1:]
        ended = (response == self._end + 1).any(axis=1) | (response[:, -1] > 0)
        return np.count_nonzero(response, axis=1), ended

    def prior(self, state: IntArray) -> FloatArray:
        position, ended = self._progress(state)
        rows = self._prior[self._row[state[:, 0], position]]
        return np.where(ended[:, None], 1 / self.num_actions, rows)

    def optimal_action(self, state: IntArray) -> IntArray:
        position = np.minimum(self._progress(state)[0], self.horizon - 1)
        right = self._answer[state[:, 0], position]
        return np.where(right > 0, right - 1, self._end)  # past the answer's length: end at once

    def _written(self, columns: IntArray) -> list[str]:
        return [self._symbols[token - 1] for token in columns[columns > 0].tolist()]

    def _wrong(self, episode: Episode) -> list[bool]:
        right = self._answer[episode.prompt, : len(episode.actions)] - 1
        wrong: list[bool] = (episode.actions != right).tolist()
        return wrong

    def render_text(self, episode: Episode) -> str:
        rows = {
            "answer": self._written(self._answer[episode.prompt]),
            "prior entropy": [f"{h:.2g}" for h in self._entropies(episode)],
            "token": episode.actions.tolist(),
            "symbol": self._written(episode.states[-1, 1:]),
            "": self._verdicts(episode),
        }
        question = "".join(self._written(self._context[episode.prompt])).strip()
        prompt = f"prompt {episode.prompt}: {question}"
        return self._text(episode, rows, f"{self._title()}  {prompt}  {self._steps(episode)}")

    @abc.abstractmethod
    def _title(self) -> str:
        """What the task is called in a rendering."""

    def render_frame(self, episode: Episode) -> Frame:
        asked = self._written(self._context[episode.prompt])
        levels = self._entropies(episode) / np.log(self.num_actions)
        return token_frame(
            tokens=asked + self._written(episode.states[-1, 1:]),
            colours=[SKY if symbol.isalnum() else GREY for symbol in asked] + [BLUE] * self.horizon,
            wrong=[False] * len(asked) + self._wrong(episode),
            levels=[0.0] * len(asked) + levels.tolist(),
            strip=[PALE] * len(asked) + [ORANGE] * self.horizon,
            reward=episode.final_reward,
        )


class FixedLengthTask(TokenTask):
    """A token task whose answers all have ``length`` tokens, each of which is right or wrong.

    The reward is 1 after the last token if every token was right, else 0. The policy does not see
    whether a token was wrong.

    Observation: MultiDiscrete [prompt, position in 0..length, previous token + 1 (0: none)].
    State columns: the same three, then ``correct``, which is 1 while every token was right. A
    subclass may put columns of its own before the last.
    """

    vocab_size: int
    length: int
    _prior: FloatArray  # (P, L + 1, V), by prompt and position; position L is the end

    @abc.abstractmethod
    def _is_right(self, state: IntArray, action: IntArray) -> BoolArray:
        """Whether the action is a right token for the state (N,); False at the end."""

    @property
    def observation_space(self) -> spaces.MultiDiscrete:
        return spaces.MultiDiscrete([self.num_prompts, self.length + 1, self.vocab_size + 1])

    def initial_state(self, prompt: IntArray) -> IntArray:
        return states(prompt, 0, 0, 1)

    def observe(self, state: IntArray) -> IntArray:
        return state[:, :3].copy()

    def step(
        self, state: IntArray, action: IntArray, noise: FloatArray
    ) -> tuple[IntArray, FloatArray, BoolArray]:
        after, live, terminated = self._write(state, action)
        after[:, -1] = np.where(live, state[:, -1] & self._is_right(state, action), state[:, -1])
        won = terminated & live & (after[:, -1] == 1)
        return after, won.astype(np.float64), terminated

    def _write(self, state: IntArray, action: IntArray) -> tuple[IntArray, BoolArray, BoolArray]:
        """States after one more token; which episodes were running before, and which are over."""
        live = state[:, 1] < self.length
        after = state.copy()
        after[:, 1] += live
        after[:, 2] = np.where(live, action + 1, state[:, 2])
        return after, live, after[:, 1] == self.length

    def prior(self, state: IntArray) -> FloatArray:
        return np.asarray(self._prior[state[:, 0], state[:, 1]])

    def _wrong(self, episode: Episode) -> list[bool]:
        wrong: list[bool] = (~self._is_right(episode.states[:-1], episode.actions)).tolist()
        return wrong

    def _right_so_far(self, episode: Episode) -> list[bool]:
        """For every position whether a right token stands there."""
        right = [not wrong for wrong in self._wrong(episode)]
        return right + [False] * (self.length - len(right))
