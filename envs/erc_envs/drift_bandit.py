"""DriftBandit: a contextual bandit in which every update moves its neighbours."""

# The contract of these methods is stated once, in Dynamics.
# ruff: noqa: D102

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from gymnasium import spaces

from erc_envs._bandits import Bandit
from erc_envs._checks import check_float, check_int
from erc_envs._render import bar_frame, text_table
from erc_envs._tables import entropy, softmax, solve_decreasing
from erc_envs.base import BoolArray, Episode, FloatArray, Frame, IntArray, Observation

_LOWEST, _BEST_LOW, _BEST_HIGH = 0.05, 0.75, 0.95  # ranges of the reward means
_PRIOR_ENTROPY = 0.78  # mean over prompts, as a fraction of log(num_actions)


@dataclass(frozen=True)
class DriftBandit(Bandit):
    r"""Contextual bandit, horizon 1, with overlapping features and Bernoulli rewards.

    What it isolates: collateral drift. A policy with logits W phi(x) that takes one gradient step
    of size eta on arm a of prompt x, with advantage A, also moves the logits of every other
    prompt y, by

        eta A (e_a - pi(. | x)) <phi(x), phi(y)>,   <phi(x), phi(y)> = c + (1 - c) <v_x, v_y>,

    where c is ``correlation`` and v_x are random unit vectors. About a fraction c of every update
    therefore lands on every other prompt.

    PPO-clip bounds pi(a | x) / pi_old(a | x) at the sampled arm, and stops the pull only of
    samples that left the range themselves. It does not see mass that moves among the arms that
    were not sampled, or mass that other prompts' updates move. ERC compares the entropies of the
    two whole distributions, so it can see such drift wherever it changes the entropy. At those
    prompts it stops the gradients, including those that would lead back. The question is which of
    the two effects wins.

    The optimum: every prompt has features of its own, so the best policy takes the best arm of
    every prompt, and

        optimal_return = mean_x max_a mu[x, a],   prior_return = mean_x sum_a prior[x, a] mu[x, a].

    The best arms are spread evenly over the prompts. The best mean lies in [0.75, 0.95], the
    others in [0.05, best - ``reward_gap``]. The prior's logits are linear in phi, independent of
    mu, and scaled so that its entropy is 0.78 log(num_actions) on average. So even a linear policy
    can start exactly at the prior, which is mediocre.

    Observation: Box(-1, 1, (num_features,), float32), the unit vector phi(prompt).
    State columns: prompt, position (0 before the action, 1 after it).

    Raises:
        ValueError: a field outside its range, named with its value.

    >>> bandit = DriftBandit(num_prompts=4, num_actions=3)
    >>> bandit.reward_means.shape, bandit.optimal_return > bandit.prior_return
    ((4, 3), True)
    """

    num_prompts: int = 16
    num_actions: int = 10
    num_features: int = 8
    correlation: float = 0.6
    reward_gap: float = 0.2
    instance_seed: int = 0

    reward_means: FloatArray = field(init=False, repr=False, compare=False)
    """Mean reward (num_prompts, num_actions) of each arm, in [0.05, 0.95]."""
    features: Observation = field(init=False, repr=False, compare=False)
    """Observation (num_prompts, num_features) of each prompt, unit vectors of float32."""
    _best_arm: IntArray = field(init=False, repr=False, compare=False)
    _prior: FloatArray = field(init=False, repr=False, compare=False)  # by prompt, position

    def __post_init__(self) -> None:
        check_int("num_prompts", self.num_prompts, 1)
        check_int("num_actions", self.num_actions, 2)
        check_int("num_features", self.num_features, 2)
        check_int("instance_seed", self.instance_seed, 0)
        check_float("correlation", self.correlation, 0, 1, "[)")
        check_float("reward_gap", self.reward_gap, 0, round(_BEST_LOW - _LOWEST, 6), "(]")
        P, K, F = self.num_prompts, self.num_actions, self.num_features
        rng = np.random.default_rng(self.instance_seed)

        common = _unit(rng.normal(size=F))
        own = rng.normal(size=(P, F))
        own = _unit(own - np.outer(own @ common, common))
        phi = np.sqrt(self.correlation) * common + np.sqrt(1 - self.correlation) * own

        best_arm = rng.permutation(P) % K
        best = rng.uniform(_BEST_LOW, _BEST_HIGH, size=(P, 1))
        means = _LOWEST + rng.random((P, K)) * (best - self.reward_gap - _LOWEST)
        np.put_along_axis(means, best_arm[:, None], best, axis=1)

        logits = phi @ rng.normal(size=(F, K))
        sharpness = solve_decreasing(
            lambda scale: entropy(softmax(scale * logits)).mean(),
            np.array(_PRIOR_ENTROPY * np.log(K)),
            low=0.0,
            high=50.0,
        )
        prior = np.full((P, 2, K), 1 / K)
        prior[:, 0] = softmax(sharpness * logits)
        features = np.clip(phi, -1, 1).astype(np.float32)
        self._set_tables(features=features, reward_means=means, _best_arm=best_arm, _prior=prior)

    @property
    def observation_space(self) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (self.num_features,), np.float32)

    def observe(self, state: IntArray) -> Observation:
        return np.asarray(self.features[state[:, 0]])

    def _pays(self, prompt: IntArray, action: IntArray, noise: FloatArray) -> BoolArray:
        return np.asarray(noise < self.reward_means[prompt, action])

    def prior(self, state: IntArray) -> FloatArray:
        return np.asarray(self._prior[state[:, 0], state[:, 1]])

    def optimal_action(self, state: IntArray) -> IntArray:
        return np.asarray(self._best_arm[state[:, 0]])

    @property
    def optimal_return(self) -> float:
        return float(self.reward_means.max(axis=1).mean())

    @property
    def prior_return(self) -> float:
        return float((self._prior[:, 0] * self.reward_means).sum(axis=1).mean())

    def render_text(self, episode: Episode) -> str:
        prompt, chosen, best = episode.prompt, self._chosen(episode), self._best_arm[episode.prompt]
        marks = {chosen: "chosen", int(best): "best, chosen" if chosen == best else "best"}
        arms = range(self.num_actions)
        return text_table(
            f"DriftBandit  prompt {prompt}  {self._outcome(episode)}",
            {
                "arm": arms,
                "mean reward": [f"{mean:.2f}" for mean in self.reward_means[prompt]],
                "prior": [f"{p:.2f}" for p in self._prior[prompt, 0]],
                "": [marks.get(arm, "") for arm in arms],
            },
        )

    def render_frame(self, episode: Episode) -> Frame:
        return bar_frame(
            means=self.reward_means[episode.prompt].tolist(),
            marks=self._prior[episode.prompt, 0].tolist(),
            best={int(self._best_arm[episode.prompt])},
            chosen=self._chosen(episode),
            reward=episode.final_reward,
        )


def _unit(vectors: FloatArray) -> FloatArray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
