"""From episode rewards to per-token advantages, and the value head for arms that use GAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erc_bench.core.advantages import GROUP_ADVANTAGES, gae, overlong_penalty, whiten
from erc_bench.training.config import Arm, TrainConfig
from erc_bench.training.optimizer import PopulationAdam
from erc_bench.training.population import Population
from erc_bench.training.rollout import Rollout

__all__ = ["Credit", "Critic", "assign_credit"]


@dataclass(frozen=True)
class Credit:
    """Advantages and value targets, ``(R, B, T)`` each (targets are zero without a value head)."""

    advantage: Tensor
    value_target: Tensor


class Critic:
    """Value head of one arm: a network of its own, so that it never moves the policy's features."""

    def __init__(self, population: Population, learning_rate: Tensor, gae_lambda: float) -> None:
        self.population = population
        self.gae_lambda = gae_lambda
        self.optimizer = PopulationAdam(population.params, learning_rate, max_grad_norm=1.0)

    @torch.no_grad()
    def advantages(self, obs: Tensor, reward: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened GAE advantages and value targets, ``(R, B, T)``."""
        values = self.population.forward(obs).squeeze(-1)
        advantage, target = gae(reward, values, mask, gamma=1.0, lam=self.gae_lambda)
        return whiten(advantage, mask), target

    def update(self, obs: Tensor, target: Tensor, mask: Tensor) -> None:
        """One step on the mean squared error over unmasked tokens."""
        params = self.population.params
        for p in params.values():
            p.requires_grad_()
        error = (self.population.forward(obs).squeeze(-1) - target).square()
        loss = (error * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
        gradients = torch.autograd.grad(loss.sum(), list(params.values()))
        for p in params.values():
            p.requires_grad_(False)
        self.optimizer.step(gradients, loss.detach())


def assign_credit(
    rollout: Rollout,
    arms: Sequence[Arm],
    slices: Sequence[slice],
    critics: Mapping[int, Critic],
    config: TrainConfig,
) -> Credit:
    """Advantages of every arm by its own estimator.

    Group estimators see the episode's return, with the soft overlong penalty where the arm asks for
    it, and give every token of a response the same advantage. The penalty needs episodes that can
    end early: where all have full length it is the same for all and cancels.
    """
    advantage = torch.zeros_like(rollout.reward)
    target = torch.zeros_like(rollout.reward)
    horizon = rollout.mask.shape[-1]
    for number, (arm, runs) in enumerate(zip(arms, slices, strict=True)):
        reward, mask = rollout.reward[runs], rollout.mask[runs]
        lengths = mask.sum(-1)
        penalty = torch.zeros_like(reward[..., 0])
        if arm.overlong_penalty and horizon > config.overlong_cache:
            penalty = overlong_penalty(lengths, horizon, config.overlong_cache).to(reward.dtype)
        if number in critics:
            last = (lengths - 1).clamp(min=0).unsqueeze(-1)
            reward = reward.scatter_add(-1, last, penalty.unsqueeze(-1))
            advantage[runs], target[runs] = critics[number].advantages(
                rollout.obs[runs], reward, mask
            )
        else:
            total = reward.sum(-1) + penalty
            grouped = total.view(len(total), -1, config.group_size)
            estimate = GROUP_ADVANTAGES[arm.advantage](grouped).flatten(-2)
            advantage[runs] = estimate.unsqueeze(-1).expand_as(mask)
    return Credit(advantage, target)
