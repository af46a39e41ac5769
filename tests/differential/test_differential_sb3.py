"""The ``ppo-clip`` and ``ppo-entropy`` recipes against one update of Stable-Baselines3's PPO."""

from __future__ import annotations

from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from erc_bench.core import advantages
from erc_bench.core.batch import TokenBatch
from erc_bench.objectives import make

STEPS = 48


class _Lottery(gym.Env):
    """Random observations, a reward for one action, episodes of seven steps."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        return self._observe(), float(action == 2), self.steps % 7 == 0, False, {}

    def _observe(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


class _Silent(BaseCallback):
    def _on_step(self) -> bool:
        return True


def collected(*, drift: float, entropy_bonus: float = 0.0, normalize: bool = False) -> PPO:
    """A PPO with a full rollout, whose policy has since moved by ``drift``."""
    model = PPO(
        "MlpPolicy",
        _Lottery(),
        n_steps=STEPS,
        batch_size=STEPS,
        n_epochs=1,
        gamma=0.9,
        gae_lambda=0.8,
        clip_range=0.2,
        ent_coef=entropy_bonus,
        vf_coef=0.0,
        normalize_advantage=normalize,
        max_grad_norm=1e9,
        policy_kwargs={"net_arch": [8]},
        seed=0,
        device="cpu",
    )
    _, callback = model._setup_learn(STEPS, _Silent())
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, STEPS)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(drift * torch.randn(parameter.shape, generator=noise))
    return model


def by_sb3(model: PPO, monkeypatch) -> tuple[float, torch.Tensor, dict[str, float]]:
    """Policy loss, and the actor's gradient of ``PPO.train`` with the optimiser's step left out."""
    monkeypatch.setattr(model.policy.optimizer, "step", lambda: None)
    model.train()
    logged = model.logger.name_to_value
    return logged["train/policy_gradient_loss"], flat(p.grad for p in actor(model)), logged


def actor(model: PPO) -> list[torch.nn.Parameter]:
    """What the policy loss moves; the value head's gradient is zero at ``vf_coef = 0``."""
    policy = model.policy
    return [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()]


def flat(tensors) -> torch.Tensor:
    return torch.cat([x.flatten() for x in tensors])


def batch_of(model: PPO, *, normalize: bool = False) -> TokenBatch:
    """The rollout as a batch of one-token responses, by the moved policy."""
    data = next(model.rollout_buffer.get())
    distribution = model.policy.get_distribution(data.observations).distribution
    advantage = data.advantages.unsqueeze(-1)
    mask = torch.ones_like(advantage, dtype=torch.bool)
    if normalize:
        # Stable-Baselines3 divides by the deviation of n - 1; whiten by that of n
        advantage = advantages.whiten(advantage, mask) * ((STEPS - 1) / STEPS) ** 0.5
    return TokenBatch(
        logp=distribution.log_prob(data.actions.flatten()).unsqueeze(-1),
        old_logp=data.old_log_prob.unsqueeze(-1),
        advantage=advantage,
        mask=mask,
        entropy=distribution.entropy().unsqueeze(-1),
    )


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("entropy_bonus", [0.0, 0.01])
@pytest.mark.parametrize("drift", [0.0, 0.05, 0.5])
def test_gradient_equals_one_update_of_ppo(drift, entropy_bonus, normalize, monkeypatch):
    """Of every parameter of the actor, on-policy and far off it, float32."""
    model = collected(drift=drift, entropy_bonus=entropy_bonus, normalize=normalize)
    loss, expected, logged = by_sb3(model, monkeypatch)
    name, parameters = "ppo-clip", {}
    if entropy_bonus:
        name, parameters = "ppo-entropy", {"bonus": entropy_bonus}
    total, metrics = make(name, **parameters)(batch_of(model, normalize=normalize))
    found = flat(torch.autograd.grad(total, actor(model)))
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert metrics["loss/surrogate"].item() == pytest.approx(loss, abs=1e-6)
    outside = metrics["clip/ratio_outside_fraction"].item()
    assert outside == pytest.approx(logged["train/clip_fraction"], abs=1e-6)
    assert (outside > 0.1) == (drift == 0.5)


def test_gae_equals_the_rollout_buffer():
    """Advantages and returns of unfinished rollouts of several episodes."""
    model = collected(drift=0.0)
    buffer = model.rollout_buffer
    starts = [i for i in range(STEPS) if buffer.episode_starts[i, 0]]
    rewards, values = (torch.tensor(x[:, 0]) for x in (buffer.rewards, buffer.values))
    for first, end in pairwise(starts):  # not the last episode, which is unfinished
        part = slice(first, end)
        mask = torch.ones(1, end - first, dtype=torch.bool)
        advantage, target = advantages.gae(rewards[None, part], values[None, part], mask, 0.9, 0.8)
        expected = (torch.tensor(x[part, 0])[None] for x in (buffer.advantages, buffer.returns))
        for found, wanted in zip((advantage, target), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert len(starts) > 5
