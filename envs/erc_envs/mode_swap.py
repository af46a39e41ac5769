"""ModeSwap: learning trades one mode for another, and the entropy hardly notices."""

# The contract of these methods is stated once, in Dynamics.
# ruff: noqa: D102

from __future__ import annotations

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

_COLOURS = {"swap": ORANGE, "sharpen": GREY}


@dataclass(frozen=True)
class ModeSwap(Dynamics):
    r"""Token task in which learning swaps two modes, unseen by the entropy; others only sharpen.

    What it isolates: what each trust region cannot see. Every position has a role:

        swap     two modes of ``mode_size`` synonyms each. The prior puts the mass a on the
                 synonyms of one mode, b = ``favoured_mass`` < a on those of the other, evenly,
                 and c = ``tail_mass`` = 1 - a - b evenly on all other tokens. Any token of the
                 other, favoured mode is right.
        sharpen  one token is right; the prior gives it 1 - ``slip`` and shares the slip evenly.

    The modes are the same sets for all prompts. At each swap position one of the two is favoured
    by the share ``agreement`` of the prompts, drawn anew, and the other by the rest: at 1 what one
    prompt learns carries the others along, below 1 it pulls some the wrong way. The reward is 1
    after the last token if every token was right, else 0; a wrong token goes unnoticed until then.

    The optimum: a right token everywhere, which the observation determines;

        optimal_return = 1,   prior_return = b^swaps (1 - slip)^(length - swaps).

    The entropy ratio is blind at a swap. To exchange the masses of the modes is a permutation:

        H_new = H_old,  rho = 1,   while   KL(old || new) = (a - b) log(a / b),   TV = a - b;

    with (a, b, c) = (.7, .2, .1): KL = 0.63 nats and TV = 0.5. On the way there it sees little,
    the less the larger the modes: with m synonyms

        H = H(a, b, c) + (a + b) log m + c log(vocab_size - 2m),

    of which only the first term changes, by 0.15 of 2.26 nats at most by default. A step
    (a, b) -> (a - e, b + e) moves it by dH = e log(a / b) + O(e^2), which vanishes where the modes
    are level, and KL = e^2 (1/a + 1/b) / 2 does not. PPO-clip has a view of such a step, in the
    ratio of a token sampled from either mode: r = 1 + e / b or 1 - e / a.

    PPO's ratio is blind where it sharpens, or blunts: the token sampled there is almost always
    the right one, whose r = (1 - s') / (1 - s) stays below 1 / (1 - s), while

        H = s (log(1 / s) + 1 + log(vocab_size - 1)) + O(s^2)

    halves when the slip s does. So at sharpen positions PPO-clip should miss nearly every
    violation and ERC none; at swap positions ERC should miss many, of which a clip can see some
    and a gate on the exact KL or total variation all. Nothing is gained by stopping a swap that
    the reward asks for, so the blind spot may well cost ERC nothing.

    Observation: MultiDiscrete [prompt, position in 0..length, previous token + 1 (0: none)].
    State columns: the same three, then ``correct``, 1 while every token so far was right.

    Raises:
        ValueError: a field outside its range, named with its value.

    >>> swap = ModeSwap()
    >>> swap.roles
    ('sharpen', 'swap', 'sharpen', 'sharpen', 'swap', 'sharpen')
    >>> swap.optimal_return
    1.0
    """

    num_prompts: int = 16
    vocab_size: int = 16
    length: int = 6
    num_swaps: int = 2
    mode_size: int = 4
    favoured_mass: float = 0.2
    tail_mass: float = 0.1
    slip: float = 0.1
    agreement: float = 1.0
    instance_seed: int = 0

    num_actions: int = field(init=False, repr=False, compare=False)
    horizon: int = field(init=False, repr=False, compare=False)
    stochastic: ClassVar[bool] = False

    swap_positions: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Positions of the swaps, ascending and spread evenly."""
    roles: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Role of each position: swap or sharpen."""
    # Tables by prompt and position in 0..length, the last of which is the end.
    _prior: FloatArray = field(init=False, repr=False, compare=False)  # (P, L + 1, V)
    _is_right: BoolArray = field(init=False, repr=False, compare=False)  # (P, L + 1, V)

    def __post_init__(self) -> None:
        check_int("num_prompts", self.num_prompts, low=1)
        check_int("length", self.length, low=1)
        check_int("num_swaps", self.num_swaps, low=1, high=self.length)
        check_int("mode_size", self.mode_size, low=1)
        check_int("vocab_size", self.vocab_size, low=2 * self.mode_size + 1)
        check_int("instance_seed", self.instance_seed, low=0)
        check_float("tail_mass", self.tail_mass, "in (0, 0.5]", lambda c: 0 < c <= 0.5)
        half = (1 - self.tail_mass) / 2
        check_float(
            "favoured_mass",
            self.favoured_mass,
            f"in (0, {half:g}), less than the other mode's",
            lambda b: 0 < b < half,
        )
        check_float("slip", self.slip, "in (0, 0.5]", lambda s: 0 < s <= 0.5)
        check_float("agreement", self.agreement, "in [0.5, 1]", lambda a: 0.5 <= a <= 1)
        P, L, V, M = self.num_prompts, self.length, self.vocab_size, self.mode_size
        rng = np.random.default_rng(self.instance_seed)

        swaps = tuple((2 * i + 1) * L // (2 * self.num_swaps) for i in range(self.num_swaps))
        roles = tuple("swap" if t in swaps else "sharpen" for t in range(L))
        is_swap = np.array([role == "swap" for role in roles])

        # tokens[t]: the first mode's synonyms, the second's, the tail; the first is forced
        tokens = rng.permuted(np.tile(np.arange(V), (L, 1)), axis=-1)
        favoured = rng.permuted(
            np.tile(np.arange(P) >= round(self.agreement * P), (L, 1)), axis=-1
        ).T  # (P, L)

        right = np.zeros((P, L + 1, V), dtype=np.bool_)
        prior = np.full((P, L + 1, V), 1 / V)
        major = 1 - self.favoured_mass - self.tail_mass
        for t in range(L):
            if not is_swap[t]:
                right[:, t, tokens[t, 0]] = True
                prior[:, t] = self.slip / (V - 1)
                prior[:, t, tokens[t, 0]] = 1 - self.slip
                continue
            modes = tokens[t, : 2 * M].reshape(2, M)
            prior[:, t] = self.tail_mass / (V - 2 * M)
            for mode in (0, 1):
                wanted = favoured[:, t] == mode
                mass = np.where(wanted, self.favoured_mass, major)
                right[:, t, modes[mode]] = wanted[:, None]
                prior[:, t, modes[mode]] = mass[:, None] / M
        self._set_tables(
            num_actions=V,
            horizon=L,
            swap_positions=swaps,
            roles=roles,
            _prior=prior,
            _is_right=right,
        )

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
        right = self._is_right[prompt, position, action]
        after = np.empty_like(state)
        after[:, 0] = prompt
        after[:, 1] = position + live
        after[:, 2] = np.where(live, action + 1, token)
        after[:, 3] = np.where(live, correct & right, correct)
        terminated = after[:, 1] == self.length
        won = terminated & live & (after[:, 3] == 1)
        return after, won.astype(np.float64), terminated

    def prior(self, state: IntArray) -> FloatArray:
        return np.asarray(self._prior[state[:, 0], state[:, 1]])

    def optimal_action(self, state: IntArray) -> IntArray:
        right = self._is_right[state[:, 0], state[:, 1]]
        return np.asarray(right.argmax(axis=1))  # 0 at the end, where no action matters

    @property
    def optimal_return(self) -> float:
        return 1.0

    @property
    def prior_return(self) -> float:
        sharpen = (1 - self.slip) ** (self.length - self.num_swaps)
        return float(self.favoured_mass**self.num_swaps * sharpen)

    def _right_tokens(self, episode: Episode) -> list[bool]:
        before = episode.states[:-1]
        right = self._is_right[before[:, 0], before[:, 1], episode.actions]
        return [bool(ok) for ok in right]

    def _entropies(self, episode: Episode) -> FloatArray:
        return entropy(self.prior(episode.states[: self.length]))

    def render_text(self, episode: Episode) -> str:
        reward = f"reward {episode.rewards[-1]:g}" if episode.terminated else "reward pending"
        return text_table(
            f"ModeSwap  prompt {episode.states[0, 0]}"
            f"  step {len(episode.actions)}/{self.length}  {reward}",
            {
                "position": list(range(self.length)),
                "role": self.roles,
                "prior entropy": [f"{h:.2f}" for h in self._entropies(episode)],
                "token": episode.actions.tolist(),
                "": ["ok" if right else "wrong" for right in self._right_tokens(episode)],
            },
        )

    def render_frame(self, episode: Episode) -> Frame:
        roles = [_COLOURS[role] for role in self.roles]
        right = self._right_tokens(episode)
        return token_frame(
            length=self.length,
            tokens=episode.actions.tolist(),
            colours=[
                (GREEN if t < len(right) and right[t] else BLUE) if role == "swap" else GREY
                for t, role in enumerate(self.roles)
            ],
            wrong=[not ok for ok in right],
            levels=(self._entropies(episode) / np.log(self.vocab_size)).tolist(),
            strip=roles,
            reward=float(episode.rewards[-1]) if episode.terminated else None,
        )
