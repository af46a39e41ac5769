"""TokenForks: mostly forced tokens, a few forks, and a verifiable reward at the end."""

# The contract of these methods is stated once, in Dynamics.
# ruff: noqa: D102

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from gymnasium import spaces

from erc_envs._checks import check_float, check_int
from erc_envs._render import BLUE, GREEN, GREY, ORANGE, SKY
from erc_envs._tokens import FixedLengthTask
from erc_envs.base import BoolArray, Episode, FloatArray, Frame, IntArray, states

_COLOURS = {"fixed": GREY, "fork": ORANGE, "branch": BLUE, "join": SKY}
_SLIP_LOW, _SLIP_HIGH = 0.01, 2.0  # range of the positions' slips, in units of `slip`
_SLIP_SPREAD = 1.5  # standard deviation of the log-weights that share out the slip mass


@dataclass(frozen=True)
class TokenForks(FixedLengthTask):
    r"""A grammar of mostly forced tokens with a few forks, and a 0/1 reward for the whole answer.

    What it isolates: the two kinds of token in the answers of a reasoning model, those that follow
    from what stands before them and those that decide where the answer goes. Every position has a
    role:

        fixed    before the first fork: one token
        fork     ``branching`` tokens, one of which leads to the right answer for this prompt
        branch   one token, which depends on the branch taken at the last fork
        join     the last position before the next fork or the end: one token

    All prompts share one grammar. They differ in how the corpus spreads over the branches of each
    fork, and in which of the branches is correct. A policy with shared features therefore moves
    the distributions of other prompts with every update, as a language model does.

    The reward is 1 after the last token if every forced token was right and every fork took the
    correct branch, else 0. A wrong token derails the episode without the policy seeing it. The
    episode goes on to full length as if nothing had happened, and earns 0. After a token off the
    grammar at a fork, it goes on as if the prior's likeliest branch had been taken.

    The prior puts 1 - s on the forced token. At a fork it shares 1 - s over the branches in the
    proportions ``fork_decay``^rank, in an order drawn for each prompt and fork. It shares the slip
    s unevenly over the other tokens. The slips are log-spaced over the positions from slip/100 to
    2 slip, so token entropies spread over orders of magnitude. The corpus is calibrated: the
    correct branch of each fork is drawn from those same proportions.

    The optimum is to take the right token everywhere; the observation determines which it is.

        optimal_return = 1,   prior_return = mean_x prod_t prior(right token | x, t).

    Who should win is open. PPO-clip bounds r = pi(a)/pi_old(a) of the sampled token. At a forced
    token with slip s it hardly ever binds, since r = (1 - s')/(1 - s) is near 1 whatever the new
    slip s' is. The entropy there is

        H = s (log(1/s) + 1 + H_slip) + O(s^2),   so   rho - 1 = dH/H ~ ds/s :

    the policy leaves ERC's band of 5 % when s changes by about 5 % of itself. ERC therefore drops
    gradients mostly at forced, low-entropy tokens, while the forks carry the learning. The question
    is whether that steadies training, or whether it withholds the gradient that makes the forced
    tokens certain.

    Observation: MultiDiscrete [prompt, position in 0..length, previous token + 1 (0: none),
    branch taken at the last fork + 1 (0: none)].
    State columns: the same four, then ``correct``, which is 1 while every token was right.

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
        check_int("num_prompts", self.num_prompts, 1)
        check_int("num_forks", self.num_forks, 1)
        check_int("branching", self.branching, 2)
        check_int("vocab_size", self.vocab_size, self.branching + 1)
        check_int("length", self.length, 1 + 3 * self.num_forks)
        check_int("instance_seed", self.instance_seed, 0)
        check_float("slip", self.slip, 0, 0.25, "(]")
        check_float("fork_decay", self.fork_decay, 0, 1, "(]")
        P, L, V, B = self.num_prompts, self.length, self.vocab_size, self.branching
        rng = np.random.default_rng(self.instance_seed)

        forks = tuple(1 + f * (L - 1) // self.num_forks for f in range(self.num_forks))
        special = {fork - 1: "join" for fork in (*forks[1:], L)} | dict.fromkeys(forks, "fork")
        roles = tuple("fixed" if t < forks[0] else special.get(t, "branch") for t in range(L))
        is_fork, is_branch = (np.array([role == r for role in roles]) for r in ("fork", "branch"))
        shared = ~(is_fork | is_branch)  # one token, whatever the branch

        # tokens[x, t, b] is the token of branch b at a fork, and the forced token on branch b
        # elsewhere. All prompts share them, so what is learnt on one prompt moves the others.
        tokens = rng.permuted(np.tile(np.arange(V), (1, L, 1)), axis=-1)[..., :B]
        tokens = np.repeat(tokens, P, axis=0)
        tokens[:, shared] = tokens[:, shared, :1]

        shares = self.fork_decay ** np.arange(B)
        ranks = rng.permuted(np.tile(np.arange(B), (P, L, 1)), axis=-1)
        share = (shares / shares.sum())[ranks]  # (P, L, B), read at forks only
        draw = rng.random((P, L, 1))
        correct_branch = np.minimum((share.cumsum(axis=-1) <= draw).sum(axis=-1), B - 1)

        # grammar[x, t, b] is the distribution without slips.
        grammar = np.zeros((P, L, B, V))
        np.put_along_axis(grammar, tokens[..., None], 1.0, axis=-1)
        at_fork = np.zeros((P, L, V))
        np.put_along_axis(at_fork, tokens, share, axis=-1)
        grammar[:, is_fork] = at_fork[:, is_fork, None]

        slips = self.slip * rng.permutation(np.geomspace(_SLIP_LOW, _SLIP_HIGH, L))
        stray = np.exp(_SLIP_SPREAD * rng.normal(size=(1, L, B, V))).repeat(P, axis=0)
        stray[:, ~is_branch] = stray[:, ~is_branch, :1]
        stray[grammar > 0] = 0.0
        stray /= stray.sum(axis=-1, keepdims=True)
        s = slips[:, None, None]
        prior = np.full((P, L + 1, B + 1, V), 1 / V)
        prior[:, :L, 1:] = (1 - s) * grammar + s * stray
        prior[:, :L, 0] = prior[:, :L, 1]  # up to the first fork no branch is taken

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
        return spaces.MultiDiscrete([*super().observation_space.nvec, self.branching + 1])

    def initial_state(self, prompt: IntArray) -> IntArray:
        return states(prompt, 0, 0, 0, 1)

    def observe(self, state: IntArray) -> IntArray:
        return state[:, :4].copy()

    def step(
        self, state: IntArray, action: IntArray, noise: FloatArray
    ) -> tuple[IntArray, FloatArray, BoolArray]:
        after, reward, terminated = super().step(state, action, noise)
        prompt, position, branch = state[:, 0], state[:, 1], state[:, 3]
        taken = self._branch_of[prompt, position, action]
        after[:, 3] = np.where(self._is_fork[position], taken, branch)
        return after, reward, terminated

    def _is_right(self, state: IntArray, action: IntArray) -> BoolArray:
        return np.asarray(action == self._right[state[:, 0], state[:, 1], state[:, 3]])

    def prior(self, state: IntArray) -> FloatArray:
        return np.asarray(self._prior[state[:, 0], state[:, 1], state[:, 3]])

    def optimal_action(self, state: IntArray) -> IntArray:
        right = self._right[state[:, 0], state[:, 1], state[:, 3]]
        return np.maximum(right, 0)  # it is -1 at the end, where no action matters

    @property
    def prior_return(self) -> float:
        state = self.initial_state(np.arange(self.num_prompts))
        success = np.ones(self.num_prompts)
        for _ in range(self.length):  # along the one rewarded path of each prompt
            action = self.optimal_action(state)
            success *= self.prior(state)[np.arange(self.num_prompts), action]
            state, _, _ = self.step(state, action, success)
        return float(success.mean())

    def render_text(self, episode: Episode) -> str:
        rows = {
            "position": range(self.length),
            "role": self.roles,
            "prior entropy": [f"{h:.2g}" for h in self._entropies(episode)],
            "token": episode.actions.tolist(),
            "": self._verdicts(episode),
        }
        return self._text(episode, rows)

    def render_frame(self, episode: Episode) -> Frame:
        strip = [_COLOURS[role] for role in self.roles]
        right = self._right_so_far(episode)
        forks = [ok and role == "fork" for ok, role in zip(right, self.roles, strict=True)]
        tiles = [GREEN if ok else colour for ok, colour in zip(forks, strip, strict=True)]
        return self._frame(episode, tiles, strip, most=self.branching)
