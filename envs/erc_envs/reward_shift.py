"""RewardShift: half-way through training, other answers become the right ones."""

# The contract of these methods is stated once, in Dynamics.
# ruff: noqa: D102

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from erc_envs._checks import check_float, check_int
from erc_envs._render import BLUE, GREEN, GREY, ORANGE
from erc_envs._tokens import FixedLengthTask
from erc_envs.base import BoolArray, Episode, FloatArray, Frame, IntArray

_SHIFT_AT = 0.5  # fraction of training at which phase 1 begins


@dataclass(frozen=True)
class RewardShift(FixedLengthTask):
    r"""Token task whose right answers change half-way through training, unannounced.

    What it isolates: recovery from a low-entropy policy. In phase 0 a policy learns one answer
    per prompt and grows certain of it. Phase 1 holds from half of training on (``at(progress)``
    with progress >= 1/2): at ``num_moved`` positions of every prompt another token is now right.
    To recover, tokens that have become unlikely must rise, and the entropy with them.

    At every position the prior puts (1 - ``slip``) / ``branching`` on each of the plausible
    tokens, which are the same for all prompts, and shares the slip evenly over the others. The
    answers of both phases are plausible tokens, drawn uniformly for each prompt and position; the
    positions that move are drawn uniformly too. Neither the observation nor the prior tells which
    phase holds. The reward is 1 after the last token if every token was right, else 0. The optimum
    of a phase is to write its right token everywhere:

        optimal_return = 1,   prior_return = ((1 - slip) / branching)^length   in both phases.

    A policy that gives the new answer of a prompt the probability q finds it in a group of G
    responses with probability 1 - (1 - q)^G, about G q. How fast it recovers depends on the q
    that phase 0 left, and on how fast q may rise. PPO-clip stops pushing a sampled token up at
    r = 1 + e: a q of 0.001 gains at most 0.0003 before the bound holds. ERC stops where the
    entropy leaves its band, and near determinism

        H = q log(1 / q) + q + O(q^2),   dH / H ~ (dq / q) (1 - 1 / (log(1 / q) + 1)),

    so a q that rises by about 6 % of itself ends its own gradient, and so does the loss of
    certainty that recovery needs. Clip-higher (DAPO) and kept gradients (GPPO) should recover
    sooner than PPO-clip. ERC should keep a larger q through phase 0, if it steadies the entropy,
    but should be slower from an equal q. The question is which of the two effects wins.

    Observation: MultiDiscrete [prompt, position in 0..length, previous token + 1 (0: none)].
    State columns: the same three, then ``correct``, which is 1 while every token was right.

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

    _prior: FloatArray = field(init=False, repr=False, compare=False)  # (L + 1, V)
    _right: IntArray = field(init=False, repr=False, compare=False)  # (P, L + 1), -1 at the end
    _moved: BoolArray = field(init=False, repr=False, compare=False)  # (P, L)

    def __post_init__(self) -> None:
        check_int("num_prompts", self.num_prompts, 1)
        check_int("branching", self.branching, 2)
        check_int("vocab_size", self.vocab_size, self.branching + 1)
        check_int("length", self.length, 1)
        check_int("num_moved", self.num_moved, 1, self.length)
        check_int("phase", self.phase, 0, 1)
        check_int("instance_seed", self.instance_seed, 0)
        check_float("slip", self.slip, 0, 0.25, "(]")
        P, L, V, B = self.num_prompts, self.length, self.vocab_size, self.branching
        rng = np.random.default_rng(self.instance_seed)

        tokens = rng.permuted(np.tile(np.arange(V), (L, 1)), axis=-1)[:, :B]
        prior = np.full((L + 1, V), 1 / V)
        prior[:L] = self.slip / (V - B)
        np.put_along_axis(prior[:L], tokens, (1 - self.slip) / B, axis=-1)

        # Both phases draw the same numbers, so that they differ only in what moves.
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

    def _is_right(self, state: IntArray, action: IntArray) -> BoolArray:
        return np.asarray(action == self._right[state[:, 0], state[:, 1]])

    def prior(self, state: IntArray) -> FloatArray:
        return np.asarray(self._prior[state[:, 1]])

    def optimal_action(self, state: IntArray) -> IntArray:
        right = self._right[state[:, 0], state[:, 1]]
        return np.maximum(right, 0)  # it is -1 at the end, where no action matters

    @property
    def prior_return(self) -> float:
        return float(((1 - self.slip) / self.branching) ** self.length)

    def render_text(self, episode: Episode) -> str:
        rows = {
            "position": range(self.length),
            "moves": ["yes" if moves else "no" for moves in self._moved[episode.prompt]],
            "answer": self._right[episode.prompt, : self.length].tolist(),
            "token": episode.actions.tolist(),
            "": self._verdicts(episode),
        }
        title = f"RewardShift  prompt {episode.prompt}  phase {self.phase}  {self._steps(episode)}"
        return self._text(episode, rows, title)

    def render_frame(self, episode: Episode) -> Frame:
        tiles = [GREEN if right else GREY for right in self._right_so_far(episode)]
        moving = ORANGE if self.phase else BLUE
        strip = [moving if moves else GREY for moves in self._moved[episode.prompt]]
        return self._frame(episode, tiles, strip)
