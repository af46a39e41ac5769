"""Episodes of a whole population, generated together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erc_bench.training.streams import Purpose, uniforms
from erc_envs.base import Dynamics

__all__ = ["Noise", "Place", "Rollout", "at", "concatenate", "log_probs", "play", "sample"]

Place = tuple[Purpose, *tuple[int, ...]]
"""Purpose and position of random numbers, see :mod:`erc_bench.training.streams`."""


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

    @classmethod
    def draw(
        cls, seed: int, indices: list[int], place: Place, prompts: int, group: int, horizon: int
    ) -> Noise:
        """For ``group`` responses to each of P prompts, by every run with one of these seed indices."""
        responses = prompts * group
        drawn = uniforms(seed, indices, *place, shape=(prompts + 2 * responses * horizon,))
        return cls.split(drawn, prompts, responses, horizon)


@dataclass(frozen=True)
class Rollout:
    """Responses of R runs to B = P * G prompts, a group's responses side by side.

    Attributes:
        action: ``(R, B, T)`` int64.
        mask: ``(R, B, T)`` bool; False after the episode's end.
        reward: ``(R, B, T)`` rewards as the environment paid them.
        old_logp: ``(R, B, T)`` log-probabilities of the actions under the old policy, which the
            objectives compare with.
        old_entropy: ``(R, B, T)`` its entropies, nats.
        acted_logp: ``(R, B, T)`` log-probabilities of the actions under the policy that acted: the
            old policy's, unless rollouts are distorted.
        seen: by name, ``(R, B, T, ...)``, what the engine that made the rollout keeps of every token's
            observation and distribution.
    """

    action: Tensor
    mask: Tensor
    reward: Tensor
    old_logp: Tensor
    old_entropy: Tensor
    acted_logp: Tensor
    seen: dict[str, Tensor]

    @property
    def returns(self) -> Tensor:
        """Undiscounted episode returns, ``(R, B)``."""
        return self.reward.sum(-1)

    @property
    def lengths(self) -> Tensor:
        """Tokens per episode, ``(R, B)``."""
        return self.mask.sum(-1)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything by name."""
        fields = {name: x for name, x in vars(self).items() if name != "seen"}
        return fields | {f"seen.{name}": x for name, x in self.seen.items()}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Rollout:
        """The rollout whose :attr:`tensors` these are."""
        seen = {k.removeprefix("seen."): x for k, x in tensors.items() if k.startswith("seen.")}
        return cls(**{k: x for k, x in tensors.items() if not k.startswith("seen.")}, seen=seen)

    def map(self, f: Callable[[Tensor], Tensor]) -> Rollout:
        """Apply ``f`` to every tensor."""
        return Rollout.of({name: f(x) for name, x in self.tensors.items()})


def concatenate(parts: list[Rollout]) -> Rollout:
    """Join rollouts of the same runs along the batch axis."""
    names = parts[0].tensors
    return Rollout.of({n: torch.cat([p.tensors[n] for p in parts], dim=1) for n in names})


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


@torch.no_grad()
def play(
    act: Callable[[NDArray[Any], int], Tensor],
    dynamics: Dynamics,
    noise: Noise,
    *,
    group_size: int,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Let every run answer its prompts, ``group_size`` times each.

    Args:
        act: observations ``(R * B, F)`` of step t, and t, to actions ``(R, B)``; called once per step,
            until all episodes have ended.
        dynamics: the environment.
        noise: for R runs, P prompts, B = P * group_size responses of at most T = horizon tokens.
        group_size: G.
        dtype: of rewards.

    Returns:
        Actions, mask and rewards, ``(R, B, T)`` each.
    """
    runs, prompts = noise.prompt.shape
    responses, horizon = prompts * group_size, dynamics.horizon
    prompt = (noise.prompt * dynamics.num_prompts).astype(np.int64)
    state = dynamics.initial_state(np.repeat(prompt.reshape(-1), group_size))

    steps = (horizon, runs * responses)
    actions, rewards = np.zeros(steps, dtype=np.int64), np.zeros(steps)
    mask = np.zeros(steps, dtype=np.bool_)
    noise_of = np.ascontiguousarray(noise.transition.reshape(-1, horizon).T)
    running, everyone = np.ones(runs * responses, dtype=np.bool_), True
    for t in range(horizon):
        actions[t] = act(dynamics.observe(state), t).reshape(-1).numpy()
        following, reward, terminated = dynamics.step(state, actions[t], noise_of[t])
        mask[t] = running
        rewards[t] = reward if everyone else np.where(running, reward, 0.0)
        # The state of a finished episode stays as it is: its remaining tokens are masked.
        state = following if everyone else np.where(running[:, None], following, state)
        running = running & ~terminated
        everyone = everyone and bool(running.all())
        if not running.any():
            break

    def by_response(x: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x.T)).view(runs, responses, horizon)

    return by_response(actions), by_response(mask), by_response(rewards).to(dtype)
