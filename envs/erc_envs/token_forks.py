"""TokenForks: mostly forced tokens, a few forks, and a verifiable reward at the end."""

# The contract of these methods is stated once, in Dynamics.
# ruff: noqa: D102

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from gymnasium import spaces

from erc_envs._render import BLUE, GREEN, GREY, ORANGE, SKY, text_table, token_frame
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

_COLOURS = {"fixed": GREY, "fork": ORANGE, "branch": BLUE, "join": SKY}
_SLIP_LOW, _SLIP_HIGH = 0.01, 2.0  # range of the positions' slips, in units of `slip`
_SLIP_SPREAD = 1.5  # standard deviation of the log-weights that share out the slip mass


@dataclass(frozen=True)
class TokenForks(Dynamics):
    r"""A grammar of mostly forced tokens with a few forks, and a 0/1 reward for the whole answer.

    What it isolates: the two kinds of token of a reasoning model. Every position has a role:

        fixed    before the first fork: one token
        fork     ``branching`` tokens, one of which leads to the right answer for this prompt
        branch   one token, given the branch taken at the last fork
        join     the last position before the next fork or the end: one token

    The grammar is one for all prompts; what differs between prompts is how the corpus spreads over
    the branches of each fork, and which of them is correct. So a policy with shared features moves
    other prompts' distributions with every update, as a language model does.

    The reward is 1 after the last token if every forced token was right and every fork took the
    correct branch, else 0. A wrong token derails the episode, unseen by the policy: it goes on
    to full length as if nothing had happened (off the grammar at a fork: as if the prior's
    likeliest branch had been taken), and earns 0.

    The prior puts 1 - s on the forced token, or shares it over the branches of a fork in the
    proportions ``fork_decay``^rank, in an order drawn for each prompt and fork; it shares the
    slip s unevenly over the other tokens. The s are log-spaced over the positions from slip/100
    to 2 slip, so token entropies spread over orders of magnitude. The corpus is calibrated: the
    instance draws the correct branch of each fork from those proportions.

    The optimum: take the right token everywhere, which the observation determines;

        optimal_return = 1,   prior_return = mean_x prod_t prior(right token | x, t).

    PPO-clip bounds r = pi(a)/pi_old(a) of the sampled token. At a forced token with slip s it
    hardly ever binds, since r = (1 - s')/(1 - s) is near 1 whatever s' is. The entropy there is

        H = s (log(1/s) + 1 + H_slip) + O(s^2),   so   rho - 1 = dH/H ~ ds/s :

    ERC's band of 5 % is left when s changes by about 5 % of itself. So ERC drops gradients mostly
    at forced, low-entropy tokens. Whether that steadies training or also withholds the gradient
    that makes them certain is the question; the forks carry the learning.

    Observation: MultiDiscrete [prompt, position in 0..length, previous token + 1 (0: none),
    branch taken at the last fork + 1 (0: none)].
    State columns: the same four, then ``correct``, 1 while every token so far was right.

    Raises:
        ValueError: a field outside its range, named with its value.

    >>> forks = TokenForks()
    >>> forks.fork_positions
    (1, 4, 8)
    >>> forks.roles[:5]
    ('fixed', 'fork', 'branch', 'join', 'fork')
    >>> forks.optimal_return
    1.0
    """

    num_prompts: int = 32
    vocab_size: int = 32
    length: int = 12
    num_forks: int = 3
    branching: int = 4
    slip: float = 0.03
    fork_decay: float = 0.4
    instance_seed: int = 0

    num_actions: int = field(init=False, repr=False, compare=False)
    horizon: int = field(init=False, repr=False, compare=False)
    stochastic: ClassVar[bool] = False

    fork_positions: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Positions of the forks, ascending."""
    roles: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Role of each position: fixed, fork, branch or join."""
    # Tables by prompt, position in 0..length and branch + 1; the last position is the end.
    _prior: FloatArray = field(init=False, repr=False, compare=False)  # (P, L + 1, B + 1, V)
    _right: IntArray = field(init=False, repr=False, compare=False)  # (P, L + 1, B + 1)
    _branch_of: IntArray = field(init=False, repr=False, compare=False)  # (P, L + 1, V), + 1
    _is_fork: BoolArray = field(init=False, repr=False, compare=False)  # (L + 1,)

    def __post_init__(self) -> None:
        check_int("num_prompts", self.num_prompts, low=1)
        check_int("num_forks", self.num_forks, low=1)
        check_int("branching", self.branching, low=2)
        check_int("vocab_size", self.vocab_size, low=self.branching + 1)
        check_int("length", self.length, low=1 + 3 * self.num_forks)
        check_int("instance_seed", self.instance_seed, low=0)
        check_float("slip", self.slip, "in (0, 0.25]", lambda s: 0 < s <= 0.25)
        check_float("fork_decay", self.fork_decay, "in (0, 1]", lambda d: 0 < d <= 1)
        P, L, V, B = self.num_prompts, self.length, self.vocab_size, self.branching
        rng = np.random.default_rng(self.instance_seed)

        forks = tuple(1 + f * (L - 1) // self.num_forks for f in range(self.num_forks))
        joins = {fork - 1 for fork in forks[1:]} | {L - 1}
        roles = tuple(
            "fixed"
            if t < forks[0]
            else "fork"
            if t in forks
            else "join"
            if t in joins
            else "branch"
            for t in range(L)
        )
        is_fork = np.array([role == "fork" for role in roles])
        shared = np.array([role in ("fixed", "join") for role in roles])

        # tokens[x, t, b]: the token of branch b at a fork, the forced token on branch b elsewhere;
        # one grammar for all prompts, so that what is learnt on one moves the others
        tokens = rng.permuted(np.tile(np.arange(V), (1, L, 1)), axis=-1)[..., :B]
        tokens = np.repeat(tokens, P, axis=0)
        tokens[:, shared] = tokens[:, shared, :1]

        shares = self.fork_decay ** np.arange(B)
        ranks = rng.permuted(np.tile(np.arange(B), (P, L, 1)), axis=-1)
        share = (shares / shares.sum())[ranks]  # (P, L, B), read at forks only
        draw = rng.random((P, L, 1))
        correct_branch = np.minimum((share.cumsum(axis=-1) <= draw).sum(axis=-1), B - 1)

        # grammar[x, t, b]: the distribution without slips
        grammar = np.zeros((P, L, B, V))
        np.put_along_axis(grammar, tokens[..., None], 1.0, axis=-1)
        at_fork = np.zeros((P, L, V))
        np.put_along_axis(at_fork, tokens, share, axis=-1)
        grammar[:, is_fork] = at_fork[:, is_fork, None]

        slips = self.slip * rng.permutation(np.geomspace(_SLIP_LOW, _SLIP_HIGH, L))
        stray = np.exp(_SLIP_SPREAD * rng.normal(size=(1, L, B, V))).repeat(P, axis=0)
        by_branch = np.array([role == "branch" for role in roles])
        stray[:, ~by_branch] = stray[:, ~by_branch, :1]
        stray[grammar > 0] = 0.0
        stray /= stray.sum(axis=-1, keepdims=True)
        s = slips[:, None, None]
        prior = np.full((P, L + 1, B + 1, V), 1 / V)
        prior[:, :L, 1:] = (1 - s) * grammar + s * stray
        prior[:, :L, 0] = prior[:, :L, 1]  # no branch yet: only fixed tokens and the first fork

        correct_token = np.take_along_axis(tokens, correct_branch[..., None], axis=-1)
        right = np.full((P, L + 1, B + 1), -1)
        right[:, :L, 1:] = np.where(is_fork[:, None], correct_token, tokens)
        right[:, :L, 0] = right[:, :L, 1]

        branch_of = np.repeat(1 + share.argmax(axis=-1, keepdims=True), V, axis=-1)
        np.put_along_axis(branch_of, tokens, np.arange(1, B + 1)[None, None], axis=-1)
        self._set_tables(
            num_actions=V,
            horizon=L,
            fork_positions=forks,
            roles=roles,
            _prior=prior,
            _right=right,
            _branch_of=np.concatenate([branch_of, np.zeros((P, 1, V), dtype=np.int64)], axis=1),
            _is_fork=np.append(is_fork, False),
        )

    @property
    def observation_space(self) -> spaces.MultiDiscrete:
        return spaces.MultiDiscrete(
            [self.num_prompts, self.length + 1, self.vocab_size + 1, self.branching + 1]
        )

    def initial_state(self, prompt: IntArray) -> IntArray:
        state = np.zeros((len(prompt), 5), dtype=np.int64)
        state[:, 0] = prompt
        state[:, 4] = 1
        return state

    def observe(self, state: IntArray) -> Observation:
        return state[:, :4].copy()

    def step(
        self, state: IntArray, action: IntArray, noise: FloatArray
    ) -> tuple[IntArray, FloatArray, BoolArray]:
        prompt, position, token, branch, correct = state.T
        live = position < self.length
        right = action == self._right[prompt, position, branch]
        taken = self._branch_of[prompt, position, action]
        after = np.empty_like(state)
        after[:, 0] = prompt
        after[:, 1] = position + live
        after[:, 2] = np.where(live, action + 1, token)
        after[:, 3] = np.where(self._is_fork[position], taken, branch)
        after[:, 4] = np.where(live, correct & right, correct)
        terminated = after[:, 1] == self.length
        won = terminated & live & (after[:, 4] == 1)
        return after, won.astype(np.float64), terminated

    def prior(self, state: IntArray) -> FloatArray:
        return np.asarray(self._prior[state[:, 0], state[:, 1], state[:, 3]])

    def optimal_action(self, state: IntArray) -> IntArray:
        right = self._right[state[:, 0], state[:, 1], state[:, 3]]
        return np.maximum(right, 0)  # -1 at the end, where no action matters

    @property
    def optimal_return(self) -> float:
        return 1.0

    @property
    def prior_return(self) -> float:
        state = self.initial_state(np.arange(self.num_prompts))
        success = np.ones(self.num_prompts)
        for _ in range(self.length):  # along the one rewarded path of each prompt
            action = self.optimal_action(state)
            success *= self.prior(state)[np.arange(self.num_prompts), action]
            state, _, _ = self.step(state, action, success)
        return float(success.mean())

    def _right_tokens(self, episode: Episode) -> list[bool]:
        before = episode.states[:-1]
        right = self._right[before[:, 0], before[:, 1], before[:, 3]]
        return [bool(ok) for ok in episode.actions == right]

    def _entropies(self, episode: Episode) -> FloatArray:
        return entropy(self.prior(episode.states[: self.length]))

    def render_text(self, episode: Episode) -> str:
        reward = f"reward {episode.rewards[-1]:g}" if episode.terminated else "reward pending"
        return text_table(
            f"TokenForks  prompt {episode.states[0, 0]}"
            f"  step {len(episode.actions)}/{self.length}  {reward}",
            {
                "position": list(range(self.length)),
                "role": self.roles,
                "prior entropy": [f"{h:.2g}" for h in self._entropies(episode)],
                "token": episode.actions.tolist(),
                "": ["ok" if right else "wrong" for right in self._right_tokens(episode)],
            },
        )

    def render_frame(self, episode: Episode) -> Frame:
        roles = [_COLOURS[role] for role in self.roles]
        right = self._right_tokens(episode)
        forks_taken = [
            GREEN if t < len(right) and right[t] and role == "fork" else _COLOURS[role]
            for t, role in enumerate(self.roles)
        ]
        return token_frame(
            length=self.length,
            tokens=episode.actions.tolist(),
            colours=forks_taken,
            wrong=[not ok for ok in right],
            levels=(self._entropies(episode) / np.log(self.branching)).tolist(),
            strip=roles,
            reward=float(episode.rewards[-1]) if episode.terminated else None,
        )
