"""ModeSwap: learning trades one mode for another, and the entropy hardly notices."""

# The contract of these methods is stated once, in Dynamics.
# ruff: noqa: D102

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from erc_envs._checks import check_float, check_int
from erc_envs._render import BLUE, GREEN, GREY, ORANGE
from erc_envs._tokens import FixedLengthTask
from erc_envs.base import BoolArray, Episode, Frame, IntArray

_COLOURS = {"swap": ORANGE, "sharpen": GREY}


@dataclass(frozen=True)
class ModeSwap(FixedLengthTask):
    r"""Token task in which learning swaps two modes, unseen by the entropy; others only sharpen.

    What it isolates: what each trust region cannot see. Every position has a role:

        swap     two modes of ``mode_size`` synonyms each. The prior puts the mass a on the
                 synonyms of one mode, b = ``favoured_mass`` < a on those of the other, evenly,
                 and c = ``tail_mass`` = 1 - a - b evenly on all other tokens. Any token of the
                 other, favoured mode is right.
        sharpen  one token is right; the prior gives it 1 - ``slip`` and shares the slip evenly.

    The modes are the same sets of tokens for all prompts. At each swap position a newly drawn share
    ``agreement`` of the prompts favours one of the two modes, and the rest favour the other. At 1,
    what one prompt learns carries the others along; below 1, it pulls some of them the wrong way.
    The reward is 1 after the last token if every token was right, else 0. The policy does not see
    that a token was wrong.

    The optimum is a right token everywhere; the observation determines which tokens are right.

        optimal_return = 1,   prior_return = b^swaps (1 - slip)^(length - swaps).

    The entropy ratio is blind at a swap, because exchanging the masses of the modes is a
    permutation:

        H_new = H_old,  rho = 1,   while   KL(old || new) = (a - b) log(a / b),   TV = a - b;

    with (a, b, c) = (.7, .2, .1), KL = 0.63 nats and TV = 0.5. On the way there the entropy ratio
    sees little, and the less the larger the modes are: with m synonyms

        H = H(a, b, c) + (a + b) log m + c log(vocab_size - 2m),

    of which only the first term changes, by 0.15 of 2.26 nats at most by default. A step
    (a, b) -> (a - e, b + e) changes it by dH = e log(a / b) + O(e^2). That vanishes where the modes
    are level, but KL = e^2 (1/a + 1/b) / 2 does not. PPO-clip does see such a step, in the ratio of
    a token sampled from either mode: r = 1 + e / b or 1 - e / a.

    PPO's ratio is blind at positions that sharpen. The token sampled there is almost always the
    right one, and its r = (1 - s') / (1 - s) stays below 1 / (1 - s), while

        H = s (log(1 / s) + 1 + log(vocab_size - 1)) + O(s^2)

    halves when the slip s does. So at sharpen positions PPO-clip should miss nearly every
    violation and ERC none. At swap positions ERC should miss many, some of which a clip can see; a
    gate on the exact KL or total variation should see all of them. Nothing is gained by stopping a
    swap that the reward asks for, so the blind spot may well cost ERC nothing.

    Observation: MultiDiscrete [prompt, position in 0..length, previous token + 1 (0: none)].
    State columns: the same three, then ``correct``, which is 1 while every token was right.

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

    swap_positions: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Positions of the swaps, ascending and spread evenly."""
    roles: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Role of each position: swap or sharpen."""
    _right: BoolArray = field(init=False, repr=False, compare=False)  # (P, L + 1, V)

    def __post_init__(self) -> None:
        check_int("num_prompts", self.num_prompts, 1)
        check_int("length", self.length, 1)
        check_int("num_swaps", self.num_swaps, 1, self.length)
        check_int("mode_size", self.mode_size, 1)
        check_int("vocab_size", self.vocab_size, 2 * self.mode_size + 1)
        check_int("instance_seed", self.instance_seed, 0)
        check_float("tail_mass", self.tail_mass, 0, 0.5, "(]")
        half = (1 - self.tail_mass) / 2
        note = ", less than the other mode's"
        check_float("favoured_mass", self.favoured_mass, 0, half, "()", note)
        check_float("slip", self.slip, 0, 0.5, "(]")
        check_float("agreement", self.agreement, 0.5, 1)
        P, L, V, M = self.num_prompts, self.length, self.vocab_size, self.mode_size
        rng = np.random.default_rng(self.instance_seed)

        swaps = tuple((2 * i + 1) * L // (2 * self.num_swaps) for i in range(self.num_swaps))
        # tokens[t] holds the first mode's synonyms, then the second's, then the tail. Where the
        # position sharpens, the first token is the right one.
        tokens = rng.permuted(np.tile(np.arange(V), (L, 1)), axis=-1)
        minority = np.tile(np.arange(P) >= round(self.agreement * P), (L, 1))
        favoured = rng.permuted(minority, axis=-1).T  # (P, L): mode 0 or 1

        right = np.zeros((P, L + 1, V), dtype=np.bool_)
        prior = np.full((P, L + 1, V), 1 / V)
        major = 1 - self.favoured_mass - self.tail_mass
        for t in range(L):
            if t not in swaps:
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
        roles = tuple("swap" if t in swaps else "sharpen" for t in range(L))
        self._set_tables(
            num_actions=V, horizon=L, swap_positions=swaps, roles=roles, _prior=prior, _right=right
        )

    def _is_right(self, state: IntArray, action: IntArray) -> BoolArray:
        return np.asarray(self._right[state[:, 0], state[:, 1], action])

    def optimal_action(self, state: IntArray) -> IntArray:
        right = self._right[state[:, 0], state[:, 1]]
        return np.asarray(right.argmax(axis=1))  # 0 at the end, where no action matters

    @property
    def prior_return(self) -> float:
        sharpen = (1 - self.slip) ** (self.length - self.num_swaps)
        return float(self.favoured_mass**self.num_swaps * sharpen)

    def render_text(self, episode: Episode) -> str:
        rows = {
            "position": range(self.length),
            "role": self.roles,
            "prior entropy": [f"{h:.2f}" for h in self._entropies(episode)],
            "token": episode.actions.tolist(),
            "": self._verdicts(episode),
        }
        return self._text(episode, rows)

    def render_frame(self, episode: Episode) -> Frame:
        right = self._right_so_far(episode)
        swaps = [GREEN if ok else BLUE for ok in right]
        tiles = [
            colour if role == "swap" else GREY
            for colour, role in zip(swaps, self.roles, strict=True)
        ]
        return self._frame(episode, tiles, [_COLOURS[role] for role in self.roles])
