"""VariableLength: answers end at a token of their own, and length is free to drift."""

# The contract of these methods is stated once, in Dynamics.
# ruff: noqa: D102

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from gymnasium import spaces

from erc_envs._checks import check_float, check_int
from erc_envs._render import BLUE, GREEN, GREY, ORANGE, PALE
from erc_envs._tokens import TokenTask
from erc_envs.base import BoolArray, Episode, FloatArray, Frame, IntArray, states

_COLOURS = {"end": GREEN, "filler": ORANGE, "work": BLUE}
_MISTIMED = 0.01  # prior's chance to end early at a step, and to work on after the last
_SPREAD = 1.5  # standard deviation of the log-weights that share out the errors


@dataclass(frozen=True)
class VariableLength(TokenTask):
    r"""Answers of several lengths, ended by their own token; filler changes length, not reward.

    What it isolates: length bias, which is a property of the aggregation alone. An answer to
    prompt x is ``steps[x]`` work tokens, each the right one for its step, then the end token
    ``END``. The token ``FILLER`` may stand anywhere before the end and does nothing. The reward is
    1 for a finished answer with all its steps and no other work token, else 0: an answer that ends
    early, or is cut off at ``length`` tokens, earns 0. A wrong work token, or one too many, flaws
    the answer for good, and the policy sees that it did.

    Once an answer is flawed every continuation earns 0, so the advantage A of a flawed answer y
    does not depend on what follows. If the objective weighs its tokens by w(|y|), their gradient
    has mean

        E[w(|y|) A grad log pi(y)] = A grad E[w(|y|)],   on-policy,

    which is 0 for a constant w. A mean over each response's tokens has w = 1/|y|. With A < 0 it
    climbs -E[1/|y|], so flawed answers grow, because long ones are punished less per token. Right
    ones, with A > 0, are pulled the other way (arXiv:2503.20783, section 3.1). So GRPO should
    lengthen flawed answers, and GSPO too, whose ratio is also a mean over the response. Dr. GRPO's
    w is constant; DAPO's, one over the number of tokens in the whole batch, hardly
    depends on one answer. With these two, flawed answers should move only by what the policy shares
    between them and right ones.

    The prior sees neither flaws nor earlier tokens, so flawed and right answers are equally long at
    first. At any step it writes filler with probability ``ramble``, ends early with 0.01, and
    otherwise writes a work token. At step j that is the right one with probability 1 - s[x, j],
    where the s are uneven and

        prod_j (1 - s[x, j]) = accuracy   for every prompt, whatever its number of steps.

    After the last step it ends, unless it writes filler (``ramble``) or a work token (0.01). The
    optimum is to write the right tokens and end: optimal_return = 1. ``prior_return`` and
    ``prior_length`` are exact, by dynamic programming over positions and steps.

    Observation: MultiDiscrete [prompt, position in 0..length, steps done in 0..max_steps,
    0 without a flaw, 1 flawed, 2 ended].
    State columns: prompt, position, steps done, 1 once flawed, 1 once ended.

    Raises:
        ValueError: a field outside its range, named with its value.

    >>> lengths = VariableLength(num_prompts=5)
    >>> sorted(lengths.steps.tolist())
    [2, 3, 4, 5, 6]
    >>> lengths.optimal_return
    1.0
    >>> state = lengths.initial_state(np.array([0]))
    >>> after, reward, ended = lengths.step(state, np.array([lengths.END]), np.zeros(1))
    >>> reward, ended
    (array([0.]), array([ True]))
    """

    num_prompts: int = 16
    vocab_size: int = 16
    length: int = 12
    min_steps: int = 2
    max_steps: int = 6
    ramble: float = 0.2
    accuracy: float = 0.35
    instance_seed: int = 0

    END: ClassVar[int] = 0
    """The token that ends an answer."""
    FILLER: ClassVar[int] = 1
    """The token that does nothing; those from 2 on are work."""

    steps: IntArray = field(init=False, repr=False, compare=False)
    """Work tokens (num_prompts,) that the answer to each prompt takes, spread evenly."""
    # Tables by prompt and steps done.
    _right: IntArray = field(init=False, repr=False, compare=False)  # (P, S + 1)
    _prior: FloatArray = field(init=False, repr=False, compare=False)  # (P, S + 1, V)

    def __post_init__(self) -> None:
        check_int("num_prompts", self.num_prompts, 1)
        check_int("vocab_size", self.vocab_size, 4)
        check_int("length", self.length, 2)
        check_int("max_steps", self.max_steps, 1, self.length - 1)
        check_int("min_steps", self.min_steps, 1, self.max_steps)
        check_int("instance_seed", self.instance_seed, 0)
        check_float("ramble", self.ramble, 0, 0.9, "(]")
        check_float("accuracy", self.accuracy, 0.01, 0.99)
        P, S, V = self.num_prompts, self.max_steps, self.vocab_size
        rng = np.random.default_rng(self.instance_seed)

        steps = self.min_steps + rng.permutation(P) % (S - self.min_steps + 1)
        working = np.arange(S + 1) < steps[:, None]  # (P, S + 1)
        right = np.where(working, rng.integers(2, V, size=(P, S + 1)), self.END)

        share = np.where(working, np.exp(_SPREAD * rng.normal(size=(P, S + 1))), 0.0)
        share /= share.sum(axis=1, keepdims=True)
        error = -np.expm1(share * np.log(self.accuracy))  # 1 - accuracy^share

        stray = np.exp(_SPREAD * rng.normal(size=(P, S + 1, V)))
        stray[..., :2] = 0.0
        np.put_along_axis(stray, right[..., None], 0.0, axis=-1)
        stray /= stray.sum(axis=-1, keepdims=True)

        wrong = np.where(working, (1 - self.ramble - _MISTIMED) * error, _MISTIMED)[..., None]
        prior = wrong * stray
        prior[..., self.FILLER] = self.ramble
        prior[..., self.END] = _MISTIMED
        np.put_along_axis(prior, right[..., None], 0.0, axis=-1)
        np.put_along_axis(prior, right[..., None], 1 - prior.sum(-1, keepdims=True), axis=-1)
        self._set_tables(
            num_actions=V, horizon=self.length, steps=steps, _right=right, _prior=prior
        )

    @property
    def observation_space(self) -> spaces.MultiDiscrete:
        return spaces.MultiDiscrete([self.num_prompts, self.length + 1, self.max_steps + 1, 3])

    def initial_state(self, prompt: IntArray) -> IntArray:
        return states(prompt, 0, 0, 0, 0)

    def observe(self, state: IntArray) -> IntArray:
        seen = state[:, :4].copy()
        seen[state[:, 4] == 1, 3] = 2
        return seen

    def step(
        self, state: IntArray, action: IntArray, noise: FloatArray
    ) -> tuple[IntArray, FloatArray, BoolArray]:
        prompt, position, done, flawed, ended = state.T
        live = ended == 0
        finished = done == self.steps[prompt]
        works = live & (action > self.FILLER)
        ends = live & (action == self.END)
        after = state.copy()
        after[:, 1] = position + live
        after[:, 2] = done + (works & ~finished)
        after[:, 3] = flawed | (works & (action != self._right[prompt, done]))
        after[:, 4] = ended | ends | (after[:, 1] == self.length)
        won = ends & finished & (flawed == 0)
        return after, won.astype(np.float64), after[:, 4] == 1

    def prior(self, state: IntArray) -> FloatArray:
        rows = self._prior[state[:, 0], state[:, 2]]
        return np.where(state[:, 4:] == 1, 1 / self.vocab_size, rows)

    def optimal_action(self, state: IntArray) -> IntArray:
        return np.asarray(self._right[state[:, 0], state[:, 2]])

    @property
    def prior_return(self) -> float:
        return float(self._follow_prior()[0].mean())

    @property
    def prior_length(self) -> float:
        """Exact expected number of tokens, the end token included, of a policy that follows
        `prior`, over uniform prompts.
        """
        return float(self._follow_prior()[1].mean())

    def _follow_prior(self) -> tuple[FloatArray, FloatArray]:
        """Probability of reward 1 and expected length (P,), by recursion over the positions."""
        rows = np.arange(self.num_prompts)
        last = np.arange(self.max_steps + 1) == self.steps[:, None]
        right = np.take_along_axis(self._prior, self._right[..., None], axis=-1)[..., 0]
        filler, end = self._prior[..., self.FILLER], self._prior[..., self.END]
        work = 1 - filler - end
        # Chance to be running, without a flaw or at all, after each number of steps: (P, S + 1).
        sound = np.zeros_like(filler)
        sound[:, 0] = 1.0
        running = sound.copy()
        won, length = np.zeros(self.num_prompts), np.zeros(self.num_prompts)
        for _ in range(self.length):
            length += running.sum(axis=1)
            won += (sound * end)[rows, self.steps]
            onward, advance = sound * filler, running * work
            onward[:, 1:] += np.where(last, 0.0, sound * right)[:, :-1]
            running = running * filler + np.where(last, advance, 0.0)
            running[:, 1:] += np.where(last, 0.0, advance)[:, :-1]
            sound = onward
        return won, length

    def _kinds(self, episode: Episode) -> list[str]:
        names = {self.END: "end", self.FILLER: "filler"}
        return [names.get(action, "work") for action in episode.actions.tolist()]

    def _wrong(self, episode: Episode) -> list[bool]:
        """The token that flaws the answer is wrong, but not those after it."""
        wrong: list[bool] = (np.diff(episode.states[:, 3]) == 1).tolist()
        return wrong

    def render_text(self, episode: Episode) -> str:
        rows = {
            "position": range(self.length),
            "prior entropy": [f"{h:.2f}" for h in self._entropies(episode)],
            "token": episode.actions.tolist(),
            "kind": self._kinds(episode),
            "": ["flawed" if flawed else "ok" for flawed in episode.states[1:, 3]],
        }
        prompt, position, done, flawed, _ = episode.states[-1].tolist()
        work = f"{done}/{self.steps[prompt]}{' (flawed)' if flawed else ''}"
        title = f"VariableLength  prompt {prompt}  token {position}/{self.length}  work {work}"
        return self._text(episode, rows, title)

    def render_frame(self, episode: Episode) -> Frame:
        kinds = [_COLOURS[kind] for kind in self._kinds(episode)]
        ahead = self.length - len(kinds)
        return self._frame(episode, kinds + [GREY] * ahead, kinds + [PALE] * ahead)
