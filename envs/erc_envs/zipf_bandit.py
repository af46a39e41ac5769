"""ZipfBandit: thousands of arms, a heavy-tailed prior, and good arms that are rare."""

# The contract of these methods is stated once, in Dynamics.
# ruff: noqa: D102

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from gymnasium import spaces

from erc_envs._bandits import Bandit
from erc_envs._checks import check_float, check_int
from erc_envs._render import bar_frame, text_table
from erc_envs.base import BoolArray, Episode, FloatArray, Frame, IntArray

_SHOWN_COMMON = 4  # likeliest arms in renderings
_SHOWN_GOOD = 8  # good arms in renderings, at most
_LOG_RANGE = 5  # decades of the logarithmic probability scale in frames


@dataclass(frozen=True)
class ZipfBandit(Bandit):
    r"""Contextual bandit with many arms, a Zipf prior, and a few good arms that are rare.

    What it isolates: whether an objective lets unlikely arms rise. For every prompt the prior is
    Zipf's law over an order of the V = ``num_actions`` arms,

        p(arm of rank k) = k^-b / sum_j j^-b,   b = ``exponent``,   k = 1..V.

    Each prompt has ``num_good`` good arms, which always pay 1. They hold the consecutive ranks
    whose probabilities centre on ``good_probability``. No two prompts share a good arm if there are
    enough arms. The ``num_common`` likeliest arms, which are the same for all prompts, pay 1 with
    probability ``common_reward``: they are a mediocre answer that is easily found. All other arms
    earn 0.

    The order of the arms is the same for all prompts, except that each prompt's good arms change
    places with the arms that hold their ranks otherwise.

    The optimum is any good arm. With g and h the prior's masses on good and on common arms,

        optimal_return = 1,   prior_return = g + h common_reward.

    PPO-clip stops pushing a sampled arm up once r = pi / pi_old > 1 + e. An arm of probability
    0.01 may reach 0.012, while one of 0.9 may reach anything, which is the reason for DAPO's
    clip-higher (arXiv:2503.14476, section 3.1). What the sampled arms gain, the softmax takes from
    all others, sampled or not. ERC sees the rise itself: mass e that moves from the tail to one arm
    lowers the entropy by about e log(p_arm / p_tail). Objectives that keep the gradient of clipped
    tokens (GPPO) or clip higher (DAPO) should raise rare arms sooner. An objective that is slow to
    raise them settles for the common arms.

    Observation: MultiDiscrete [prompt].
    State columns: prompt, position (0 before the action, 1 after it).

    Memory: the tables hold V and num_prompts * num_good numbers. `prior` allocates its (N, V)
    result, and nothing else of that size.

    Raises:
        ValueError: a field outside its range, named with its value.

    >>> bandit = ZipfBandit(num_actions=32_768)
    >>> bandit.optimal_return, bandit.good_arms.shape
    (1.0, (16, 4))
    """

    num_prompts: int = 16
    num_actions: int = 1024
    num_good: int = 4
    num_common: int = 4
    good_probability: float = 0.01
    common_reward: float = 0.2
    exponent: float = 1.0
    instance_seed: int = 0

    good_arms: IntArray = field(init=False, repr=False, compare=False)
    """The good arms (num_prompts, num_good) of each prompt, likeliest first."""
    common_arms: IntArray = field(init=False, repr=False, compare=False)
    """The likeliest arms (num_common,), likeliest first, the same for all prompts."""
    _shared: FloatArray = field(init=False, repr=False, compare=False)  # (V,)
    _holders: IntArray = field(init=False, repr=False, compare=False)  # (G,) of the good ranks
    _good_prior: FloatArray = field(init=False, repr=False, compare=False)  # (G,)

    def __post_init__(self) -> None:
        check_int("num_prompts", self.num_prompts, 1)
        check_int("num_good", self.num_good, 1)
        check_int("num_common", self.num_common, 1)
        check_int("num_actions", self.num_actions, self.num_common + 2 * self.num_good)
        check_int("instance_seed", self.instance_seed, 0)
        check_float("good_probability", self.good_probability, 0, 1, "()")
        check_float("common_reward", self.common_reward, 0, 1, "[)")
        check_float("exponent", self.exponent, 0, 3, "(]")
        P, V, G = self.num_prompts, self.num_actions, self.num_good
        rng = np.random.default_rng(self.instance_seed)

        zipf = np.arange(1, V + 1) ** -float(self.exponent)
        zipf /= zipf.sum()
        arms = rng.permutation(V)  # by rank
        shared = np.empty(V)
        shared[arms] = zipf

        # The good ranks lie below the common ones, and centre where p crosses good_probability.
        crossing = int((zipf > self.good_probability).sum())
        first = min(max(crossing - G // 2, self.num_common), V - G)
        holders = arms[first : first + G]
        candidates = np.concatenate([arms[self.num_common : first], arms[first + G :]])
        # Each prompt gets G consecutive arms of one random order, so that its arms are distinct.
        per_order = len(candidates) // G
        orders = [
            rng.permutation(candidates)[: per_order * G].reshape(per_order, G)
            for _ in range(-(-P // per_order))
        ]
        self._set_tables(
            good_arms=np.concatenate(orders)[:P],
            common_arms=arms[: self.num_common],
            _shared=shared,
            _holders=holders,
            _good_prior=zipf[first : first + G],
        )

    @property
    def observation_space(self) -> spaces.MultiDiscrete:
        return spaces.MultiDiscrete([self.num_prompts])

    def observe(self, state: IntArray) -> IntArray:
        return state[:, :1].copy()

    def _pays(self, prompt: IntArray, action: IntArray, noise: FloatArray) -> BoolArray:
        good = (self.good_arms[prompt] == action[:, None]).any(axis=1)
        common = np.isin(action, self.common_arms)
        return np.asarray(good | (common & (noise < self.common_reward)))

    def prior(self, state: IntArray) -> FloatArray:
        prompt, position = state.T
        rows = np.arange(len(state))[:, None]
        good = self.good_arms[prompt]
        probs = np.tile(self._shared, (len(state), 1))
        probs[rows, self._holders] = self._shared[good]  # they change places
        probs[rows, good] = self._good_prior
        probs[position > 0] = 1 / self.num_actions
        return probs

    def optimal_action(self, state: IntArray) -> IntArray:
        return np.asarray(self.good_arms[state[:, 0], 0])

    @property
    def optimal_return(self) -> float:
        return 1.0

    @property
    def prior_return(self) -> float:
        common = self._shared[self.common_arms].sum()
        return float(self._good_prior.sum() + common * self.common_reward)

    def _shown(self, prompt: int, chosen: int | None) -> list[int]:
        """The likeliest arms, the good ones, and the chosen arm if it is none of these."""
        arms = [*self.common_arms[:_SHOWN_COMMON], *self.good_arms[prompt, :_SHOWN_GOOD]]
        shown = [int(arm) for arm in arms]
        return shown if chosen is None or chosen in shown else [*shown, chosen]

    def _mean_reward(self, prompt: int, arms: list[int]) -> list[float]:
        common = np.where(np.isin(arms, self.common_arms), self.common_reward, 0.0)
        return [float(m) for m in np.where(np.isin(arms, self.good_arms[prompt]), 1.0, common)]

    def render_text(self, episode: Episode) -> str:
        prompt, chosen = episode.prompt, self._chosen(episode)
        arms = self._shown(prompt, chosen)
        prior = self.prior(episode.states[:1])[0]
        shown = f"{len(arms)} of {self.num_actions} arms"
        return text_table(
            f"ZipfBandit  prompt {prompt}  {shown}  {self._outcome(episode)}",
            {
                "arm": arms,
                "mean reward": [f"{mean:g}" for mean in self._mean_reward(prompt, arms)],
                "prior": [f"{prior[arm]:.1g}" for arm in arms],
                "": ["chosen" if arm == chosen else "" for arm in arms],
            },
        )

    def render_frame(self, episode: Episode) -> Frame:
        prompt, chosen = episode.prompt, self._chosen(episode)
        arms = self._shown(prompt, chosen)
        marks = 1 + np.log10(self.prior(episode.states[:1])[0, arms]) / _LOG_RANGE
        return bar_frame(
            means=self._mean_reward(prompt, arms),
            marks=np.clip(marks, 0, 1).tolist(),
            best=set(self.good_arms[prompt].tolist()),
            chosen=chosen,
            reward=episode.final_reward,
            arms=arms,
            slots=1 + min(self.num_common, _SHOWN_COMMON) + min(self.num_good, _SHOWN_GOOD),
        )
