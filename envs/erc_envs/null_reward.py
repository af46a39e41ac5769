"""NullReward: the reward is a coin flip, so any drift is the objective's own doing."""

# The contract of these methods is stated once, in Dynamics.
# ruff: noqa: D102

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from erc_envs._checks import check_float, check_int
from erc_envs._render import BLUE, PALE
from erc_envs._tables import entropy, softmax, solve_decreasing
from erc_envs._tokens import FixedLengthTask
from erc_envs.base import BoolArray, Episode, FloatArray, Frame, IntArray, states

_ENTROPY_LOW, _ENTROPY_HIGH = 0.1, 0.98  # nats, and fraction of log(vocab_size)


@dataclass(frozen=True)
class NullReward(FixedLengthTask):
    r"""Token environment whose final 0/1 reward is independent of everything the policy does.

    What it isolates: the objective's own bias. The reward is Bernoulli(``success_probability``),
    so every policy is optimal:

        optimal_return = prior_return = success_probability.

    For a state s and an advantage A independent of the action, the plain policy gradient has mean

        E[A] E[grad log pi(a | s)] = E[A] 0 = 0:

    to first order nothing moves. Two things are left. One is of second order, the random walk of
    the logits z,

        E[dH] = 1/2 tr(Hessian_z H  Cov(dz)) + O(|dz|^3),

    which is negative near the uniform distribution. The other is the bias of the objective:
    clipping is asymmetric in the sign of A, and several updates per rollout reuse the same noise.
    PPO-clip bounds that reuse only at the sampled tokens; ERC bounds it at all tokens of a state,
    through H. The ideal objective leaves the entropy where the prior put it: less drift is better,
    whatever its sign.

    The prior is Zipf's law over an order of the tokens drawn for each prompt and position,
    p(token of rank r) ~ r^-b, with b solved so that the entropies are log-spaced from 0.1 nats
    to 0.98 log(vocab_size).

    Observation: MultiDiscrete [prompt, position in 0..length, previous token + 1 (0: none)].
    State columns: the same three. An episode always has ``length`` tokens.

    Raises:
        ValueError: a field outside its range, named with its value.

    >>> null = NullReward(success_probability=0.25)
    >>> null.optimal_return, null.prior_return
    (0.25, 0.25)
    """

    num_prompts: int = 16
    vocab_size: int = 16
    length: int = 6
    success_probability: float = 0.5
    instance_seed: int = 0

    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_int("num_prompts", self.num_prompts, 1)
        check_int("vocab_size", self.vocab_size, 2)
        check_int("length", self.length, 1)
        check_int("instance_seed", self.instance_seed, 0)
        check_float("success_probability", self.success_probability, 0, 1)
        P, L, V = self.num_prompts, self.length, self.vocab_size
        rng = np.random.default_rng(self.instance_seed)

        highest = _ENTROPY_HIGH * np.log(V)
        targets = rng.permutation(np.geomspace(_ENTROPY_LOW, highest, P * L))
        ranks = rng.permuted(np.tile(np.arange(1, V + 1), (P * L, 1)), axis=1)
        logits = -np.log(ranks)
        exponents = solve_decreasing(
            lambda b: entropy(softmax(b[:, None] * logits)), targets, low=0.0, high=20.0
        )
        prior = np.full((P, L + 1, V), 1 / V)
        prior[:, :L] = softmax(exponents[:, None] * logits).reshape(P, L, V)
        self._set_tables(num_actions=V, horizon=L, _prior=prior)

    def initial_state(self, prompt: IntArray) -> IntArray:
        return states(prompt, 0, 0)

    def step(
        self, state: IntArray, action: IntArray, noise: FloatArray
    ) -> tuple[IntArray, FloatArray, BoolArray]:
        after, live, terminated = self._write(state, action)
        won = terminated & live & (noise < self.success_probability)
        return after, won.astype(np.float64), terminated

    def _is_right(self, state: IntArray, action: IntArray) -> BoolArray:
        return np.ones(len(state), dtype=np.bool_)  # no token is wrong

    def optimal_action(self, state: IntArray) -> IntArray:
        return np.zeros(len(state), dtype=np.int64)  # any action is optimal

    @property
    def optimal_return(self) -> float:
        return float(self.success_probability)

    @property
    def prior_return(self) -> float:
        return float(self.success_probability)

    def render_text(self, episode: Episode) -> str:
        rows = {
            "position": range(self.length),
            "prior entropy": [f"{h:.2f}" for h in self._entropies(episode)],
            "token": episode.actions.tolist(),
        }
        return self._text(episode, rows, note=" (a coin flip)")

    def render_frame(self, episode: Episode) -> Frame:
        return self._frame(episode, [BLUE] * self.length, [PALE] * self.length)
