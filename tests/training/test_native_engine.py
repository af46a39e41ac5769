"""The native engine does what torch does: at every step, for every recipe, environment and setting."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from extras import marked
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from lockstep import Lockstep, assert_close_results, copied
from trainer_runs import TINY, StopToken, arm, forks

import erc_envs
from erc_bench.core.numerics import entropy
from erc_bench.objectives import RECIPES, Objective, PPOClip
from erc_bench.training import Arm, TrainConfig, Trainer, loop
from erc_bench.training.engine import Minibatch
from erc_bench.training.native import library
from erc_bench.training.native.engine import NativeEngine
from erc_bench.training.native.library import kernel
from erc_bench.training.torch_engine import TorchEngine

assert erc_envs  # importing it registers the environments
ENVIRONMENTS = sorted(name for name in gym.registry if name.startswith("erc/"))
FLOAT32 = {**TINY, "dtype": "float32"}

pytestmark = pytest.mark.skipif(kernel() is None, reason="the native engine was not compiled here")


def population(dynamics, arms, by=None, seed=1, **changes):
    config = TrainConfig(**{**FLOAT32, "warm_start_steps": 40, **changes})
    return Trainer(config, dynamics, dynamics.observation_space, arms, seed=seed, engine=by)


@pytest.mark.parametrize("environment", marked(ENVIRONMENTS))
def test_every_recipe_agrees_with_torch_at_each_of_24_updates(environment):
    """Rollouts, metrics, gradients, value heads, warm start and recorded tokens, from equal states."""
    made = gym.make(environment)
    engine = Lockstep()
    config = TrainConfig(
        rollouts=3,
        prompts=8,
        minibatches=8,
        learning_rate=5e-3,
        warm_start_steps=40,
        evaluation_episodes=8,
        hidden=24,
    )
    arms = [arm(name, [0, 1]) for name in RECIPES]
    dynamics = made.get_wrapper_attr("dynamics")
    Trainer(config, dynamics, made.observation_space, arms, seed=1, engine=engine).run()
    assert engine.updates == 24
    assert engine.flips < 24


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 1.7},
        {"weight_decay": 0.1},
        {"policy": "tabular"},
        {"epochs": 3},
        {"max_grad_norm": float("inf")},
        {"hidden": 13},
        {"rollout_jitter": 0.1},
        {"rollout_jitter": 0.1, "old_policy": "rollout"},
        {"rollout_bits": 20, "old_policy": "rollout"},
        {"token_samples": 0},
        {"group_size": 2, "generation_rounds": 4},
        {"rollout_lag": 2},
        {"false_positives": 0.3, "false_negatives": 0.3},
        {"minibatches_of": "responses"},
        {"rollout_weight_bits": 4},
        {"warmup_updates": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("dynamics", [forks(), StopToken(constant=0.1)], ids=["forks", "stop"])
def test_every_setting_agrees_with_torch(dynamics, changes):
    """One arm of every kind: value head, reference, whole distributions, dynamic sampling, own settings."""
    names = ("ppo-clip", "dapo", "erc-dapo", "dapo-kl", "kl-gate-dapo", "dapo-tis")
    arms = [arm(name) for name in names]
    arms.append(arm("grpo", temperature=torch.tensor([0.5, 2.0]), label="hot"))
    arms.append(arm("erc-gppo", learning_rate=torch.tensor([1e-3, 1e-2]), label="fast"))
    arms.append(arm("dapo", overrides={"clip_high": torch.tensor([0.1, 0.4])}, label="wide"))
    engine = Lockstep()
    population(dynamics, arms, engine, **changes).run()
    assert engine.updates > 0


def test_on_their_own_the_engines_stay_together():
    """24 updates: where a gradient is zero but for rounding, Adam makes a step of it, so not to 1e-5."""
    names = ("ppo-clip", "grpo", "dapo", "erc-dapo", "erc-gppo", "gspo", "cispo")
    arms = [arm(n) for n in names]

    def trained(engine):
        return population(forks(), arms, engine, rollouts=12, learning_rate=2e-3).run()

    ours, theirs = trained(NativeEngine(kernel())), trained(TorchEngine())
    assert (ours.metrics["drift/kl_exact"] > 1e-4).any()
    for name in ("drift/kl_exact", "drift/entropy_new", "loss/total", "reward/mean"):
        np.testing.assert_allclose(ours.metrics[name], theirs.metrics[name], atol=2e-4)


@pytest.mark.parametrize("name", ["ppo-clip", "dapo", "erc-dapo", "dapo-kl", "clip-cov"])
def test_a_run_alone_equals_the_same_run_among_64_bit_by_bit(name):
    seeds = list(range(32))
    together = population(StopToken(), [arm("grpo", seeds), arm(name, seeds)]).run()
    for seed in (0, 17, 31):
        alone = population(StopToken(), [arm(name, [seed])]).run()
        for table in ("metrics", "tokens", "runs"):
            axis = 0 if table == "runs" else 1
            for column, x in getattr(alone, table).items():
                among = np.take(getattr(together, table)[column], [32 + seed], axis)
                np.testing.assert_array_equal(x, among, err_msg=column)


# -- shapes and gradients ------------------------------------------------------------------------


@dataclass(frozen=True)
class Random:
    """Observations of any kind that follow from prompt, time and action by arithmetic."""

    num_prompts: int
    num_actions: int
    horizon: int
    features: int
    dense: bool
    optimal_return: float = 1.0

    @property
    def observation_space(self):
        if self.dense:
            return spaces.Box(-1, 1, (self.features,), dtype=np.float32)
        return spaces.MultiDiscrete([2 + f for f in range(self.features)])

    def at(self, progress):
        return self

    def held_out(self):
        return self

    def initial_state(self, prompt):
        return np.stack([prompt, np.zeros_like(prompt)], axis=1)

    def observe(self, state):
        mixed = state[:, :1] * 7 + state[:, 1:] * 3
        if self.dense:
            return np.cos(mixed * (1 + np.arange(self.features))).astype(np.float32)
        return mixed // (1 + np.arange(self.features)) % self.observation_space.nvec

    def step(self, state, action, noise):
        after = np.stack([state[:, 0], state[:, 1] + 1 + action % 2], axis=1)
        return after, noise.astype(float), after[:, 1] > self.horizon + 1

    def prior(self, state):
        return np.full((len(state), self.num_actions), 1 / self.num_actions)


@dataclass(frozen=True)
class Linear:
    """``sum a log pi(a) + b H + c . log pi`` over unmasked tokens, with fixed arbitrary weights."""

    reads_whole: bool
    adaptive: bool = False

    def weights(self, like, salt):
        place = torch.arange(like[0].numel(), dtype=torch.float64).view(like[0].shape)
        return torch.sin(place * 12.9898 + salt).to(like.dtype).expand_as(like)

    def __call__(self, batch):
        value = (
            self.weights(batch.logp, 1) * batch.logp + self.weights(batch.logp, 2) * batch.entropy
        )
        if self.reads_whole:
            value = value + (self.weights(batch.log_probs, 3) * batch.log_probs).sum(-1)
        loss = (value * batch.mask).sum((1, 2))
        return loss, {}

    def keep(self, batch):
        return torch.ones_like(batch.mask)

    def bound(self, batch):
        return torch.zeros_like(batch.mask)


@given(
    runs=st.integers(1, 3),
    prompts=st.integers(1, 5),
    group=st.integers(1, 4),
    actions=st.integers(2, 19),
    horizon=st.integers(1, 5),
    features=st.integers(1, 5),
    hidden=st.integers(1, 35),
    policy=st.sampled_from(["mlp", "tabular", "dense"]),
    whole=st.booleans(),
    merge=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_gradients_are_those_of_float64_autograd(
    runs, prompts, group, actions, horizon, features, hidden, policy, whole, merge
):
    """By log-probabilities, entropies and whole distributions, for networks of every kind and shape."""
    dynamics = Random(4, actions, horizon, features, policy == "dense")
    kind = {} if policy == "dense" else {"policy": policy}
    config = {"prompts": prompts, "group_size": group, "minibatches": 1, "rollouts": 1}
    one = Arm("linear", Linear(whole), "group-centred", list(range(runs)))
    engine = NativeEngine(kernel(), merge=merge)
    shape = {**config, **kind, "hidden": hidden, "warm_start_steps": 2, "token_samples": 0}
    t = population(dynamics, [one], engine, **shape, max_grad_norm=float("inf"))
    _, rollout, _ = loop.collect(t.setup, t.engine, t.state)
    fixed = {n: rollout.tensors[n] for n in ("old_logp", "old_entropy", "action", "mask")}
    fixed |= {"advantage": rollout.reward, "reward": rollout.returns}
    batch = Minibatch(fixed, rollout.seen, rollout.reward, None, None)
    start = copied(t.state.policy)
    after, row, _ = engine.update(t.setup, t.state.policy, batch, t.state.objectives)

    theirs = TorchEngine().respond(t.setup, start.params, dynamics, (2, 0, 0), prompts, group)
    assert torch.equal(theirs.action, rollout.action)
    params = {n: p.double().requires_grad_() for n, p in start.params.items()}
    obs = theirs.seen["obs"].double() if policy == "dense" else theirs.seen["obs"]
    log_probs = torch.log_softmax(t.setup.policy.forward(params, obs), -1)
    logp = log_probs.gather(-1, rollout.action.unsqueeze(-1)).squeeze(-1)
    given_batch = type("B", (), {"logp": logp, "log_probs": log_probs, "mask": rollout.mask})
    given_batch.entropy = -(log_probs.exp() * log_probs).sum(-1)
    loss, _ = Linear(whole)(given_batch)
    wanted = torch.autograd.grad(loss.sum(), list(params.values()))
    flat = torch.cat([g.flatten(1) for g in wanted], 1)
    found = after.mean[:, : flat.shape[1]] / 0.1
    # of a sum over tokens, whose terms may cancel, and where whole distributions are read, actions
    rounding = 1e-6 * rollout.mask[0].numel() * (actions if whole else 1)
    torch.testing.assert_close(found.double(), flat, rtol=1e-4, atol=rounding)
    torch.testing.assert_close(row["loss/total"].double(), loss, rtol=1e-5, atol=rounding)


def test_entropies_keep_their_relative_precision_down_to_a_millionth_of_a_nat():
    """Both engines to 1e-5 of float64's, since which side of a band a token is on depends on it."""
    dynamics = Random(8, 6, 1, 3, dense=False)
    engine = NativeEngine(kernel())
    one = [arm("dapo", [0])]
    t = population(dynamics, one, engine, policy="tabular", prompts=64, group_size=1, minibatches=1)
    table = t.state.policy.params["table.weight"]
    table.copy_(torch.linspace(0, 1, table.numel()).view_as(table))
    table[..., 2] += torch.linspace(3, 18, table.shape[1])
    seen = t.engine.respond(t.setup, t.state.policy.params, dynamics, (2, 0, 0), 64, 1)
    exact = TorchEngine().respond(t.setup, t.state.policy.params, dynamics, (2, 0, 0), 64, 1)
    logits = t.setup.policy.forward(t.state.policy.params, exact.seen["obs"])
    wanted = entropy(logits.double().log_softmax(-1))
    assert wanted.min() < 2e-6
    assert wanted.max() > 0.1
    for found in (seen.old_entropy, exact.old_entropy):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)


# -- interruptions, divergence, errors -------------------------------------------------------------


def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    path = tmp_path / "checkpoint.safetensors"
    arms = [arm("ppo-clip"), arm("dapo-kl"), arm("ppo-kl-adaptive")]

    def interrupt(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        population(StopToken(), arms).run(on_rollout=interrupt, checkpoint_path=path)
    resumed = population(StopToken(), arms).run(checkpoint_path=path)
    assert_close_results(resumed, population(StopToken(), arms).run(), rtol=0, atol=0)


def test_a_diverging_run_is_frozen_and_its_neighbours_do_not_notice():
    """A step size of 1e30 ends a run at its first update that is not finite; others go on as alone."""
    rates = torch.tensor([1e30, 5e-3])
    both = population(StopToken(), [arm("grpo", learning_rate=rates)], rollouts=6)
    result = both.run()
    assert result.runs["diverged"].tolist() == [True, False]
    assert np.isnan(result.metrics["loss/total"][-1, 0])
    assert all(bool(torch.isfinite(p).all()) for p in both.state.policy.params.values())
    alone = population(StopToken(), [arm("grpo", [1], learning_rate=rates[1:])], rollouts=6).run()
    for name, x in alone.metrics.items():
        np.testing.assert_array_equal(result.metrics[name][:, 1:], x, err_msg=name)


def test_an_observation_outside_its_space_is_an_error_and_no_wild_read():
    @dataclass(frozen=True)
    class Outside(StopToken):
        def observe(self, state):
            return state + 100

    with pytest.raises(ValueError, match="an observation lies outside the space Multi"):
        population(Outside(), [arm("dapo")], warm_start_steps=0).run()


# -- which engine --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "native-"),
        ({"policy": "tabular"}, "native-"),
        ({"engine": "torch"}, "torch"),
        ({"dtype": "float64"}, "torch"),
    ],
    ids=str,
)
def test_the_engine_is_the_one_that_is_asked_for_where_it_can_serve(changes, name):
    assert population(StopToken(), [arm("dapo")], **changes).engine.name.startswith(name)


def test_without_a_compiled_kernel_torch_trains(monkeypatch):
    monkeypatch.setattr(loop, "kernel", lambda: None)
    t = population(StopToken(), [arm("dapo")])
    assert t.engine.name == "torch"
    t.run()


def test_the_variant_is_the_best_that_the_processor_runs(monkeypatch):
    """As torch tells of it, which a user can lower; each variant computes what torch does."""
    for capability, wanted in (("AVX512", "avx2"), ("AVX2", "avx2"), ("DEFAULT", "baseline")):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        found = library.kernel.__wrapped__()
        if found is None or (wanted == "avx2" and found.variant == "baseline"):
            pytest.skip(f"{wanted} was not compiled on this architecture")
        assert found.variant == wanted
        engine = Lockstep()
        engine.native = NativeEngine(found)
        population(forks(), [arm("erc-dapo"), arm("ppo-clip")], engine).run()


def test_a_kernel_of_another_version_is_refused(tmp_path):
    source = "long layout(long w){return 8;} long scratch_floats(long w){return 8;}"
    names = set(library.SIGNATURES) - {"layout", "scratch_floats"}
    (tmp_path / "k.c").write_text(source + "".join(f"long {n}(void){{return 0;}}" for n in names))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "k.so", "k.c"], cwd=tmp_path, check=True)
    with pytest.raises(OSError, match="compiled from another kernel"):
        library.Kernel(tmp_path / "k.so", "old")


# -- objectives that are repeated ------------------------------------------------------------------


def repeated(objective, **changes):
    """Whether the kernel repeats an objective, after a run in lockstep with torch."""
    engine = Lockstep()
    one = Arm("one", objective, "group-zscore", [0, 1])
    population(forks(), [one], engine, **changes).run()
    return engine.native._arms[0]._tape is not None


@pytest.mark.parametrize("name", ["reinforce", "dapo", "grpo", "gspo", "gmpo", "sapo", "erc-dapo"])
def test_recipes_of_elementwise_operations_are_repeated(name):
    assert repeated(arm(name).objective)


@pytest.mark.parametrize("name", ["dapo-kl", "kl-gate-dapo", "clip-cov", "high-entropy-only"])
def test_recipes_that_sort_or_read_whole_distributions_go_by_torch(name):
    assert not repeated(arm(name).objective, rollouts=1)


@dataclass(frozen=True)
class Peculiar(Objective):
    """A DAPO loss with something that cannot be repeated."""

    how: str = "random"

    def __call__(self, batch, denominators=None):
        loss, metrics = super().__call__(batch, denominators)
        if self.how == "random":
            loss = loss * (1 + 0 * torch.rand(()))
        elif self.how == "reads a number" and float(batch.logp.detach().min()) < -1:
            loss = loss * 1.5
        elif self.how == "over runs":
            loss = loss - loss.mean() + loss.mean().detach()
        elif self.how == "half of the responses":
            half = batch.rows(slice(0, batch.logp.shape[1] // 2))
            loss, metrics = super().__call__(half, denominators)
        elif self.how == "double":
            loss = loss + (batch.logp.double() * batch.mask).sum((1, 2)).float()
        return loss, metrics


@pytest.mark.parametrize(
    "how", ["random", "reads a number", "over runs", "half of the responses", "double"]
)
def test_what_cannot_be_repeated_goes_by_torch(how):
    assert not repeated(Peculiar(PPOClip(0.2, 0.28), how=how), rollouts=1)


@pytest.mark.parametrize("where", ["loss", "metrics"])
def test_an_objective_with_a_memory_is_found_out(where):
    """Recorded at its first call, it differs from torch when it is checked, and goes by torch then."""
    calls = []

    class Counting(Objective):
        def __call__(self, batch, denominators=None):
            calls.append(1)
            loss, metrics = super().__call__(batch, denominators)
            later = 1.0 if len(calls) > 3 else 0.0
            if where == "loss":
                return loss * (1 + later), metrics
            return loss, {**metrics, "gate/dropped_fraction": 0 * loss.detach() + later}

    engine = NativeEngine(kernel())
    one = Arm("one", Counting(PPOClip(0.2, 0.28)), "group-zscore", [0])
    population(forks(), [one], engine, rollouts=8).run()
    assert len(calls) > 3
    assert engine._arms[0]._tape is None


def test_repeating_changes_nothing_but_rounding():
    arms = [arm("erc-dapo"), arm("gspo"), arm("ppo-entropy")]
    once = population(forks(), arms, NativeEngine(kernel())).run()
    never = population(forks(), arms, NativeEngine(kernel(), repeat=False)).run()
    assert_close_results(once, never, rtol=1e-5, atol=1e-5)


# -- memory --------------------------------------------------------------------------------------

SANITIZED = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
import torch
from erc_bench.training.native import library
from erc_bench.training.native.engine import NativeEngine
from test_native_engine import *
found = library.Kernel(Path({library!r}), "sanitized")
names = ("ppo-clip", "dapo", "erc-dapo", "dapo-kl", "kl-gate-dapo", "gspo")
for dynamics in (StopToken(), Random(5, 7, 3, 4, True), Random(5, 9, 3, 2, False)):
    for changes in ({{}}, {{"hidden": 13, "temperature": 0.7}}, {{"rollout_jitter": 0.1}}):
        arms = [arm(name) for name in names]
        population(dynamics, arms, NativeEngine(found), rollouts=2, warm_start_steps=2, **changes).run()
tabular = population(StopToken(), [arm("dapo")], NativeEngine(found), policy="tabular")
tabular.run()
print("clean")
"""


@pytest.mark.slow
def test_the_address_and_undefined_behaviour_sanitizers_find_nothing(tmp_path):
    """Every function of the kernel, on odd sizes, in a process that ends at the first finding."""
    source = Path(library.__file__).with_name("kernel.c")
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-std=c11"]
    made = ["gcc", *flags, "-Wno-psabi", "-shared", "-fPIC", "-o", "k.so", str(source), "-lm"]
    try:
        subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
        # beside the sanitizer its C++ library, since torch throws exceptions
        preloaded = " ".join(
            subprocess.run(
                ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
            ).stdout.strip()
            for name in ("libasan.so", "libstdc++.so")
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no gcc with sanitizers here: {error}")
    script = SANITIZED.format(
        path=[str(Path(__file__).parent), *sys.path], library=str(tmp_path / "k.so")
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": preloaded,
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "clean", done.stderr[:3000]
