"""Episodes of a whole population, generated together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erc_bench.training.distortion import Distortion

__all__ = ["Dynamics", "Noise", "Rollout", "concatenate", "generate", "sample"]

Forward = Callable[[Tensor], Tensor]
"""Observations ``(R, N, F)`` to logits ``(R, N, V)``."""


class Dynamics(Protocol):
    """What the trainer asks of an environment: pure batched transitions (see ``erc_envs.base``)."""

    @property
    def num_prompts(self) -> int:
        """Prompts; an episode starts from one."""
        ...

    @property
    def num_actions(self) -> int:
        """V."""
        ...

    @property
    def horizon(self) -> int:
        """Most actions in an episode, T."""
        ...

    @property
    def optimal_return(self) -> float:
        """Expected return of the best policy."""
        ...

    def at(self, progress: float) -> Dynamics:
        """The task after this fraction of training."""
        ...

    def held_out(self) -> Dynamics:
        """The task that the policy is evaluated on."""
        ...

    def initial_state(self, prompt: NDArray[np.int64]) -> NDArray[np.int64]:
        """Prompts ``(N,)`` to states ``(N, K)``."""
        ...

    def observe(self, state: NDArray[np.int64]) -> NDArray[np.generic]:
        """States to observations ``(N, F)``."""
        ...

    def step(
        self,
        state: NDArray[np.int64],
        action: NDArray[np.int64],
        noise: NDArray[Any],
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
        """Next states, rewards ``(N,)``, terminations ``(N,)``; ``noise`` holds uniforms."""
        ...

    def prior(self, state: NDArray[np.int64]) -> NDArray[np.float64]:
        """The corpus's next-action distribution, ``(N, V)``."""
        ...


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
    transition: NDArray[np.float32]

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


def as_observation(observation: NDArray[np.generic], runs: int, dtype: torch.dtype) -> Tensor:
    """``(R * N, F)`` from an environment to ``(R, N, F)`` for a policy."""
    tensor = torch.from_numpy(observation).view(runs, -1, observation.shape[-1])
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


@torch.no_grad()
def generate(
    forward: Forward,
    dynamics: Dynamics,
    noise: Noise,
    *,
    group_size: int,
    temperature: Tensor,
    dtype: torch.dtype,
    distort: Distortion | None = None,
) -> Rollout:
    """Let every run answer its prompts, ``group_size`` times each.

    Args:
        forward: logits of every run.
        dynamics: the environment.
        noise: for R runs, P prompts, B = P * group_size responses of at most T = horizon tokens.
        group_size: G.
        temperature: ``(R,)``.
        dtype: of log-probabilities and rewards.
        distort: what the sampling engine makes of the logits; None: nothing.
    """
    runs, prompts = noise.prompt.shape
    responses, horizon = prompts * group_size, dynamics.horizon
    prompt = (noise.prompt * dynamics.num_prompts).astype(np.int64)
    state = dynamics.initial_state(np.repeat(prompt.reshape(-1), group_size))
    heat = None if bool((temperature == 1).all()) else temperature.view(-1, 1, 1)

    actions = torch.zeros((runs, responses, horizon), dtype=torch.int64)
    rewards = torch.zeros((runs, responses, horizon), dtype=dtype)
    mask = torch.zeros((runs, responses, horizon), dtype=torch.bool)
    log_probs = torch.empty((runs, responses, horizon, dynamics.num_actions), dtype=dtype)
    acted_logp = torch.zeros((runs, responses, horizon), dtype=dtype) if distort else None
    observations: list[Tensor] = []
    running = np.ones(runs * responses, dtype=np.bool_)
    for t in range(horizon):
        obs = as_observation(dynamics.observe(state), runs, dtype)
        observations.append(obs)
        logits = forward(obs)
        log_prob = torch.log_softmax(logits if heat is None else logits / heat, dim=-1)
        acting = log_prob
        if distort is not None and acted_logp is not None:
            logits = distort(logits, t)
            acting = torch.log_softmax(logits if heat is None else logits / heat, dim=-1)
        action = sample(acting, noise.action[..., t])
        following, reward, terminated = dynamics.step(
            state, action.view(-1).numpy(), noise.transition[..., t].reshape(-1)
        )
        actions[..., t] = action
        log_probs[..., t, :] = acting if distort is not None and distort.is_old else log_prob
        if acted_logp is not None:
            acted_logp[..., t] = acting.gather(-1, action.unsqueeze(-1)).squeeze(-1)
        mask[..., t] = torch.from_numpy(running).view(runs, responses)
        paid = reward if running.all() else np.where(running, reward, 0.0)
        rewards[..., t] = torch.from_numpy(paid).view(runs, responses)
        # A finished episode stays where it is: its remaining tokens are masked.
        state = following if running.all() else np.where(running[:, None], following, state)
        running = running & ~terminated
        if not running.any():
            break
    log_probs[:, :, len(observations) :] = 0.0
    observations += [observations[-1]] * (horizon - len(observations))
    if acted_logp is None:
        acted_logp = log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    return Rollout(torch.stack(observations, dim=2), actions, mask, rewards, log_probs, acted_logp)
