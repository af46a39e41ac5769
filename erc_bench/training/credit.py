"""From episode rewards to per-token advantages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erc_bench.core.advantages import GROUP_ADVANTAGES, gae, overlong_penalty, whiten
from erc_bench.training.engine import Engine
from erc_bench.training.rollout import Rollout
from erc_bench.training.state import Setup, State

__all__ = ["Credit", "assign_credit"]


@dataclass(frozen=True)
class Credit:
    """Advantages and value targets, ``(R, B, T)`` each (targets are zero without a value head)."""

    advantage: Tensor
    value_target: Tensor


@torch.no_grad()
def assign_credit(setup: Setup, engine: Engine, state: State, rollout: Rollout) -> Credit:
    """Advantages of every arm by its own estimator.

    Group estimators see the episode's return, with the soft overlong penalty where the arm asks for
    it, and give every token of a response the same advantage. The penalty needs episodes that can
    end early: where all have full length it is the same for all and cancels. An arm with a value
    head has whitened GAE advantages.
    """
    config = setup.config
    advantage = torch.zeros_like(rollout.reward)
    target = torch.zeros_like(rollout.reward)
    horizon = rollout.mask.shape[-1]
    for number, (arm, runs) in enumerate(zip(setup.arms, setup.slices, strict=True)):
        reward, mask = rollout.reward[runs], rollout.mask[runs]
        lengths = mask.sum(-1)
        penalty = torch.zeros_like(reward[..., 0])
        if arm.overlong_penalty and horizon > config.overlong_cache:
            penalty = overlong_penalty(lengths, horizon, config.overlong_cache).to(reward.dtype)
        if number in state.critics:
            last = (lengths - 1).clamp(min=0).unsqueeze(-1)
            reward = reward.scatter_add(-1, last, penalty.unsqueeze(-1))
            values = engine.values(setup, state.critics[number].params, rollout, runs)
            raw, target[runs] = gae(reward, values, mask, gamma=1.0, lam=config.gae_lambda)
            advantage[runs] = whiten(raw, mask)
        else:
            total = reward.sum(-1) + penalty
            grouped = total.view(len(total), -1, config.group_size)
            estimate = GROUP_ADVANTAGES[arm.advantage](grouped).flatten(-2)
            advantage[runs] = estimate.unsqueeze(-1).expand_as(mask)
    return Credit(advantage, target)
