"""Episodes of a whole population, generated together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erc_bench.training.population import Params, take
from erc_bench.training.state import Setup
from erc_bench.training.streams import Purpose, uniforms
from erc_envs.base import Dynamics

__all__ = ["Noise", "Rollout", "at", "concatenate", "generate", "log_probs", "respond", "sample"]

Distort = Callable[[Tensor, int], Tensor]
"""Logits ``(R, N, V)`` of step t as the engine that samples has them."""


@dataclass(frozen=True)
class Noise:
    """All randomness of one rollout, drawn in advance.

    Attributes:
        prompt: ``(R, P)`` uniforms that choose the prompts.
        action: ``(R, B, T)`` uniforms that choose the actions, by inverse CDF.
        transition: ``(R, B, T)`` uniforms handed to the environment.
    """

    prompt: NDArray[np.float32]
    action: Tensor
    transition: NDArray[Any]

    @classmethod
    def split(cls, drawn: NDArray[np.float32], prompts: int, responses: int, horizon: int) -> Noise:
        """Cut one block of uniforms ``(R, P + 2 B T)`` into the three."""
        runs, n = len(drawn), responses * horizon
        action = drawn[:, prompts : prompts + n].reshape(runs, responses, horizon)
        transition = drawn[:, prompts + n :].reshape(runs, responses, horizon)
        return cls(drawn[:, :prompts], torch.from_numpy(action), transition)

    @staticmethod
    def size(prompts: int, responses: int, horizon: int) -> int:
        """Uniforms needed per run."""
        return prompts + 2 * responses * horizon


@dataclass(frozen=True)
class Rollout:
    """Responses of R runs to B = P * G prompts, a group's responses side by side.

    Attributes:
        obs: ``(R, B, T, F)``.
        action: ``(R, B, T)`` int64.
        mask: ``(R, B, T)`` bool; False after the episode's end.
        reward: ``(R, B, T)`` rewards as the environment paid them.
        log_probs: ``(R, B, T, V)`` of the old policy, which the objectives compare with.
        acted_logp: ``(R, B, T)`` log-probabilities of the actions under the policy that acted: the
            old policy's, unless rollouts are distorted.
    """

    obs: Tensor
    action: Tensor
    mask: Tensor
    reward: Tensor
    log_probs: Tensor
    acted_logp: Tensor

    @property
    def returns(self) -> Tensor:
        """Undiscounted episode returns, ``(R, B)``."""
        return self.reward.sum(-1)

    @property
    def old_logp(self) -> Tensor:
        """Log-probabilities of the actions under the old policy, ``(R, B, T)``."""
        return at(self.log_probs, self.action)

    @property
    def lengths(self) -> Tensor:
        """Tokens per episode, ``(R, B)``."""
        return self.mask.sum(-1)

    def map(self, f: Callable[[Tensor], Tensor]) -> Rollout:
        """Apply ``f`` to every tensor."""
        return Rollout(*(f(getattr(self, field.name)) for field in fields(self)))


def concatenate(parts: list[Rollout]) -> Rollout:
    """Join rollouts of the same runs along the batch axis."""
    names = [field.name for field in fields(Rollout)]
    return Rollout(*(torch.cat([getattr(p, name) for p in parts], dim=1) for name in names))


def sample(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """Actions by inverse CDF: the first ``a`` with ``sum_{b <= a} pi(b) > u``; ``(..., V)`` to ``(...)``."""
    cdf = log_probs.exp().cumsum_(-1)
    target = uniform.unsqueeze(-1) * cdf[..., -1:]
    action = torch.searchsorted(cdf, target, right=True).squeeze(-1)
    return action.clamp_(max=log_probs.shape[-1] - 1)


def log_probs(logits: Tensor, temperature: Tensor | None) -> Tensor:
    """``log softmax(z / temperature)`` for logits ``(R, ..., V)``; None: every run's is 1."""
    if temperature is not None:
        logits = logits / temperature.view(-1, *[1] * (logits.ndim - 1))
    return torch.log_softmax(logits, dim=-1)


def at(log_probs: Tensor, action: Tensor) -> Tensor:
    """Log-probabilities ``(..., V)`` of the actions ``(...)``."""
    return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def as_observation(observation: NDArray[np.generic], runs: int, dtype: torch.dtype) -> Tensor:
    """``(R * N, F)`` from an environment to ``(R, N, F)`` for a policy."""
    tensor = torch.from_numpy(observation).view(runs, -1, observation.shape[-1])
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def respond(
    setup: Setup,
    params: Params,
    task: Dynamics,
    place: tuple[Purpose, *tuple[int, ...]],
    prompts: int,
    group: int,
    runs: Tensor | slice = slice(None),
    distort: Distort | None = None,
) -> Rollout:
    """Let some of the runs answer prompts, ``group`` times each.

    Args:
        setup: who is trained on what.
        params: of all runs.
        task: the environment as it is now.
        place: purpose and position of the random numbers, see :mod:`erc_bench.training.streams`.
        prompts: P.
        group: G.
        runs: which answer.
        distort: what the sampling engine makes of their logits; None: nothing.
    """
    size = Noise.size(prompts, prompts * group, task.horizon)
    drawn = uniforms(setup.seed, setup.seeds[runs].tolist(), *place, shape=(size,))
    return generate(
        setup.policy.decoder(take(params, runs)),
        task,
        Noise.split(drawn, prompts, prompts * group, task.horizon),
        group_size=group,
        temperature=None if setup.temperature is None else setup.temperature[runs],
        dtype=setup.dtype,
        distort=distort,
        old_is_distorted=setup.config.sampler.old_policy == "rollout",
    )


@torch.no_grad()
def generate(
    forward: Callable[[Tensor], Tensor],
    dynamics: Dynamics,
    noise: Noise,
    *,
    group_size: int,
    temperature: Tensor | None,
    dtype: torch.dtype,
    distort: Distort | None = None,
    old_is_distorted: bool = False,
) -> Rollout:
    """Let every run answer its prompts, ``group_size`` times each.

    Args:
        forward: observations ``(R, N, F)`` to logits ``(R, N, V)``, called once per step.
        dynamics: the environment.
        noise: for R runs, P prompts, B = P * group_size responses of at most T = horizon tokens.
        group_size: G.
        temperature: ``(R,)``; None: every run's is 1.
        dtype: of log-probabilities and rewards.
        distort: what the sampling engine makes of the logits; None: nothing.
        old_is_distorted: whether the objectives' old policy is the engine's, or the trained one.
    """
    runs, prompts = noise.prompt.shape
    responses, horizon = prompts * group_size, dynamics.horizon
    prompt = (noise.prompt * dynamics.num_prompts).astype(np.int64)
    state = dynamics.initial_state(np.repeat(prompt.reshape(-1), group_size))

    actions = torch.zeros((runs, responses, horizon), dtype=torch.int64)
    rewards = torch.zeros((runs, responses, horizon), dtype=dtype)
    mask = torch.zeros((runs, responses, horizon), dtype=torch.bool)
    old = torch.empty((runs, responses, horizon, dynamics.num_actions), dtype=dtype)
    acted_logp = torch.zeros((runs, responses, horizon), dtype=dtype)
    observations: list[Tensor] = []
    running = np.ones(runs * responses, dtype=np.bool_)
    for t in range(horizon):
        obs = as_observation(dynamics.observe(state), runs, dtype)
        observations.append(obs)
        logits = forward(obs)
        trained = acting = log_probs(logits, temperature)
        if distort is not None:
            acting = log_probs(distort(logits, t), temperature)
        action = sample(acting, noise.action[..., t])
        following, reward, terminated = dynamics.step(
            state, action.view(-1).numpy(), noise.transition[..., t].reshape(-1)
        )
        actions[..., t] = action
        old[..., t, :] = acting if old_is_distorted else trained
        acted_logp[..., t] = at(acting, action)
        mask[..., t] = torch.from_numpy(running).view(runs, responses)
        paid = reward if running.all() else np.where(running, reward, 0.0)
        rewards[..., t] = torch.from_numpy(paid).view(runs, responses)
        # The state of a finished episode stays as it is: its remaining tokens are masked.
        state = following if running.all() else np.where(running[:, None], following, state)
        running = running & ~terminated
        if not running.any():
            break
    old[:, :, len(observations) :] = 0.0
    observations += [observations[-1]] * (horizon - len(observations))
    return Rollout(torch.stack(observations, dim=2), actions, mask, rewards, old, acted_logp)
