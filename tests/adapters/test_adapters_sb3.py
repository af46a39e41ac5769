"""ERCPPO beside SB3's own PPO, and its gate against closed forms."""

from __future__ import annotations

import math
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from extras import marked
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import erc_envs  # noqa: F401  # registers
from erc_bench.adapters.sb3 import ERCPPO
from erc_bench.core.errors import InputError
from erc_bench.objectives import EntropyRatio, make


class Guess(gymnasium.Env):
    """A few random steps in any spaces; the reward is the action's size."""

    def __init__(self, action_space, observation_space):
        self.action_space, self.observation_space = action_space, observation_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.left = 7
        return self.observation_space.sample(), {}

    def step(self, action):
        self.left -= 1
        reward = float(np.mean(action))
        return self.observation_space.sample(), reward, self.left == 0, False, {}


FLAT = spaces.Box(-1, 1, (3,))
SPACES = {
    "discrete": (spaces.Discrete(4), FLAT),
    "box": (spaces.Box(-1, 1, (2,)), FLAT),
    "multi-discrete": (spaces.MultiDiscrete([3, 4]), FLAT),
    "multi-binary": (spaces.MultiBinary(3), FLAT),
    "dict": (spaces.Discrete(4), spaces.Dict({"a": FLAT, "b": spaces.Discrete(3)})),
}
PLAIN = {"n_steps": 64, "batch_size": 32, "n_epochs": 3, "seed": 1, "device": "cpu"}
INFINITE = {"band_low": math.inf, "band_high": math.inf}


def make_model(kind, name, **settings):
    action, observation = SPACES[name]
    policy = "MultiInputPolicy" if name == "dict" else "MlpPolicy"
    return kind(policy, Guess(action, observation), **(PLAIN | settings))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ent_coef": 0.02, "clip_range_vf": 0.1, "max_grad_norm": 0.1},
        {"normalize_advantage": False, "clip_range": lambda left: 0.05 + 0.2 * left},
        {"target_kl": 1e-4, "learning_rate": 3e-3},
        {"learning_rate": lambda left: 2e-3 * left, "batch_size": 48},
    ],
    ids=["default", "entropy-vf", "schedule", "early-stop", "ragged"],
)
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_infinite_band_is_ppo_bit_for_bit(name, settings):
    """Several iterations, weights and the state of Adam."""
    found = []
    for kind, own in ((PPO, {}), (ERCPPO, INFINITE)):
        model = make_model(kind, name, **settings, **own)
        start = weights(model)
        model.learn(192)
        moments = [v for s in model.policy.optimizer.state.values() for v in s.values()]
        found.append((weights(model), [torch.as_tensor(m) for m in moments]))
    assert not torch.equal(found[0][0], start)
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_infinite_band_is_ppo_on_cartpole():
    found = []
    for kind, own in ((PPO, {}), (ERCPPO, INFINITE)):
        model = kind("MlpPolicy", "CartPole-v1", **PLAIN, **own)
        found.append(weights(model.learn(512)))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", SPACES)
def test_a_minibatch_has_the_objectives_gradient(name):
    """PPO-clip with the band, by hand from two distributions; some transitions dropped, some kept."""
    model = make_model(ERCPPO, name, learning_rate=1e-2, band_low=0.01, band_high=0.01)
    seen = []
    inner = model._loss

    def spy(samples, objective, clip, clip_vf):
        model.policy.zero_grad()
        loss, log_ratio, metrics = inner(samples, objective, clip, clip_vf)
        seen.append((samples, metrics, gradient(model, loss)))
        expected = by_hand(model, samples, clip)
        torch.testing.assert_close(seen[-1][2], gradient(model, expected), rtol=1e-5, atol=1e-7)
        return loss, log_ratio, metrics

    model._loss = spy
    model.learn(128)
    dropped = [float(m["gate/dropped_fraction"]) for _, m, _ in seen]
    assert dropped[0] == 0  # nothing has moved yet
    assert max(dropped) > 0
    assert name == "box" or any(0 < d < 1 for d in dropped)


def gradient(model, loss):
    grads = torch.autograd.grad(
        loss, list(model.policy.parameters()), retain_graph=True, allow_unused=True
    )
    parts = zip(model.policy.parameters(), grads, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in parts])


def by_hand(model, samples, clip):
    data = samples.data
    actions = data.actions
    if isinstance(model.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    values, logp, entropy = model.policy.evaluate_actions(data.observations, actions)
    advantage = (data.advantages - data.advantages.mean()) / (data.advantages.std() + 1e-8)
    box = isinstance(model.action_space, spaces.Box)
    now = entropy.detach().exp() if box else entropy.detach()
    rho = now / samples.entropy
    ratio = (logp - data.old_log_prob).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    each = -torch.min(ratio * advantage, clipped * advantage)
    kept = ((rho > 0.99) & (rho < 1.01)).float()
    return (each * kept).sum() / len(each) + 0.5 * (values.flatten() - data.returns).pow(2).mean()


def test_old_entropies_are_those_of_the_rollouts_policy():
    """Of the very transitions of each mini-batch, before the iteration's first step."""
    model = make_model(ERCPPO, "discrete")
    pairs = []
    inner = model._loss

    def spy(samples, *rest):
        if not pairs:
            distribution = model.policy.get_distribution(samples.data.observations)
            pairs.append((samples.entropy, distribution.entropy().detach()))
        return inner(samples, *rest)

    model._loss = spy
    model.learn(64)
    torch.testing.assert_close(*pairs[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["dapo", "gppo", "erc-gppo", "erc-directional-dapo", "tv-gate-dapo"]
)
def test_recipes_train(name):
    """By name; those that read whole distributions too, as Discrete actions have them."""
    model = make_model(ERCPPO, "discrete", objective=name, learning_rate=3e-3)
    start = weights(model)
    model.learn(128)
    assert not torch.equal(start, weights(model))
    log = model.logger.name_to_value
    assert log["drift/entropy_new"] > 0
    assert "gate/dropped_fraction" in log
    assert log["train/approx_kl"] > 0


def test_save_and_load_go_on_alike(tmp_path):
    """The same weights as without the interruption, band and old entropies included."""
    whole = make_model(ERCPPO, "discrete", band_low=0.01, band_high=0.02)
    whole.learn(64)
    whole.save(tmp_path / "model.zip")
    loaded = ERCPPO.load(tmp_path / "model.zip", env=Guess(*SPACES["discrete"]))
    assert (loaded.band_low, loaded.band_high) == (0.01, 0.02)
    assert torch.equal(weights(loaded), weights(whole))
    continued = []
    for model in (whole, loaded):
        model.set_env(Guess(*SPACES["discrete"]), force_reset=True)
        model.set_random_seed(5)
        model.env.seed(5)
        continued.append(weights(model.learn(64, reset_num_timesteps=False)))
    assert torch.equal(*continued)


def test_callbacks_see_our_metrics():
    class Keep(BaseCallback):
        found: ClassVar[dict[str, float]] = {}

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            self.found |= self.logger.name_to_value

    keep = Keep()
    make_model(ERCPPO, "discrete", learning_rate=3e-3).learn(128, callback=keep)
    for name in ("gate/dropped_fraction", "clip/ratio_bound_fraction", "train/clip_fraction"):
        assert 0 <= keep.found[name] <= 1


@pytest.mark.parametrize(
    "environment", marked(name for name in gymnasium.registry if name.startswith("erc/"))
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_environment_of_ours_runs(environment):
    model = ERCPPO(_policy(environment), environment, **PLAIN)
    model.learn(128)
    assert np.isfinite(weights(model).numpy()).all()


def _policy(environment):
    space = gymnasium.make(environment).observation_space
    return "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("discrete", {"band_low": 0.0}, "low"),
        ("discrete", {"band_high": -1.0}, "high"),
        ("discrete", {"objective": "gspo"}, "over whole responses"),
        ("discrete", {"objective": "grpo"}, "over whole responses"),
        ("box", {"objective": "tv-gate-dapo"}, "which SB3 does not keep"),
        ("box", {"objective": "ppo-entropy"}, "SB3's ent_coef"),
        ("discrete", {"objective": "dapo", "clip_range": 0.1}, "clip_range: 0.1 has no effect"),
        ("discrete", {"objective": "dapo", "band_low": 0.1}, "band_low: 0.1 has no effect"),
    ],
)
def test_what_cannot_be_done_is_refused(name, settings, message):
    with pytest.raises(InputError, match=message):
        make_model(ERCPPO, name, **settings)


def test_perplexity_ratio_for_a_gaussian():
    """One step on log_std by s scales the perplexity of d dimensions by exp(d s)."""
    model = make_model(ERCPPO, "box")
    model.learn(64)
    before = model.rollout_buffer.old.entropy
    with torch.no_grad():
        model.policy.log_std += 0.03
    model.rollout_buffer.generator_ready = False
    observation = torch.zeros(1, 3)
    after = model._comparable(model.policy.get_distribution(observation).entropy())
    model_before = np.exp(2 * 0.5 * np.log(2 * np.pi * np.e))
    assert before[0] == pytest.approx(model_before, rel=1e-4)
    trained = model.policy.log_std.detach().sum().item()
    assert after.item() == pytest.approx(model_before * math.exp(trained), rel=1e-4)


def test_objective_given_whole():
    """Composed by hand, it is what runs."""
    objective = make("gppo").gated(EntropyRatio(0.2, 0.1))
    model = make_model(ERCPPO, "discrete", objective=objective)
    model.learn(64)
    assert model._policy_objective(0.2) is objective
