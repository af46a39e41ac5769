import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.func import functional_call
from trainer_runs import arm, assert_same_result, forks, parameters, trainer

from erc_bench.training import loop
from erc_bench.training.optimizer import Adam, Learner
from erc_bench.training.policies import MLP, Tabular
from erc_bench.training.population import Population, leaves, take

MIXED = ("ppo-clip", "grpo", "dapo", "gppo", "erc-dapo", "erc-gppo", "reinforce", "narrow")
#: 50 updates in float32, the default precision.
FIFTY = {
    "rollouts": 13,
    "minibatches": 4,
    "prompts": 8,
    "hidden": 32,
    "warm_start_steps": 12,
    "learning_rate": 3e-3,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def crowd():
    """Eight arms on eight seeds: 64 runs."""
    arms = [arm(name, range(8)) for name in MIXED[:-1]]
    narrow = {"band_low": 0.005, "band_high": 0.005}
    t = trainer([*arms, arm("erc-dapo", range(8), label="narrow", overrides=narrow)], **FIFTY)
    return t, t.run()


@pytest.mark.parametrize("name", ["ppo-clip", "grpo", "dapo", "erc-dapo", "erc-gppo"])
@pytest.mark.parametrize("seed", [0, 5])
def test_a_run_alone_equals_the_same_run_in_a_population_of_64(crowd, name, seed):
    """Parameters and every metric agree within 1e-5 after 52 updates in float32."""
    t, result = crowd
    alone = trainer([arm(name, [seed])], **FIFTY)
    lonely = alone.run()
    run = 8 * MIXED.index(name) + seed
    assert len(lonely.metrics["rollout"]) == 52
    for ours, theirs in zip(parameters(t, run), parameters(alone, 0), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    for metric, rows in lonely.metrics.items():
        np.testing.assert_allclose(
            rows[:, 0], result.metrics[metric][:, run], rtol=1e-5, atol=1e-5, err_msg=metric
        )
    assert_same_result(lonely, result, [0], [run], rtol=1e-5, atol=1e-5)


def test_the_arms_of_a_population_do_differ(crowd):
    """The agreement above is not that of runs that learn nothing or all the same."""
    t, result = crowd
    ends = [torch.cat([p.flatten() for p in parameters(t, run)]) for run in range(64)]
    for a in range(64):
        for b in range(a):
            assert (ends[a] - ends[b]).abs().max() > 1e-4, (a, b)
    assert not result.runs["diverged"].any()


def test_arms_with_the_same_seed_share_weights_prompts_and_random_numbers():
    """The first update of a rollout sees the same tokens in every arm, other seeds see others."""
    t = trainer([arm("grpo", [3, 4]), arm("erc-gppo", [4, 3])])
    for a, b in ((0, 3), (1, 2)):
        for x, y in zip(parameters(t, a), parameters(t, b), strict=True):
            assert torch.equal(x, y)
    assert not torch.equal(parameters(t, 0)[0], parameters(t, 1)[0])
    _, rollout, mean_return = loop.collect(t.setup, t.engine, t.state)
    for name, value in rollout.tensors.items():
        assert torch.equal(value[0], value[3]), name
        assert torch.equal(value[1], value[2]), name
    assert not torch.equal(rollout.action[0], rollout.action[1])
    assert torch.equal(mean_return[:2], mean_return[2:].flip(0))


def test_the_order_of_arms_changes_nothing():
    """A run's place in the population is not an input."""
    one = trainer([arm("ppo-clip", [0, 1]), arm("dapo", [0, 1])]).run()
    other = trainer([arm("dapo", [0, 1]), arm("ppo-clip", [0, 1])]).run()
    assert_same_result(one, other, [0, 1, 2, 3], [2, 3, 0, 1], rtol=1e-10, atol=1e-10)


class Foreign(nn.Module):
    """A policy that does not know how to evaluate copies of itself."""

    def __init__(self, space, outputs):
        super().__init__()
        self.inner = MLP(spaces.Box(0.0, 9.0, (len(space.nvec),)), outputs, 8)

    def forward(self, x):
        return self.inner(x.double())


@pytest.mark.parametrize("kind", [Tabular, MLP, Foreign])
def test_forward_is_each_module_on_its_own_observations(kind):
    """``forward(obs)[r]`` equals the r-th module alone; the run axis is only in front."""
    space = forks().observation_space
    population = Population(lambda: kind(space, 6), torch.float64)
    stacked = population.start([3, 1, 2])
    if kind is Tabular:  # starts at zero everywhere
        for p in stacked.values():
            p.normal_()
    rng = np.random.default_rng(0)
    obs = torch.as_tensor(rng.integers(space.nvec, size=(3, 5, 2, 4)))
    got = population.forward(stacked, obs)
    assert got.shape == (3, 5, 2, 6)
    module = kind(space, 6).double()
    for r in range(3):
        params = take(stacked, r)
        torch.testing.assert_close(got[r], functional_call(module, params, (obs[r],)))
    chosen = torch.tensor([2, 0])
    torch.testing.assert_close(population.forward(take(stacked, chosen), obs[chosen]), got[chosen])


def test_forward_gradients_are_each_modules_own():
    """The gradient of the summed losses is every module's own gradient, through the custom backward."""
    space = forks().observation_space
    population = Population(lambda: MLP(space, 6, 8), torch.float64)
    stacked = leaves(population.start([3, 1, 2]))
    obs = torch.as_tensor(np.random.default_rng(0).integers(space.nvec, size=(3, 5, 4)))
    together = torch.autograd.grad(
        population.forward(stacked, obs).square().sum(), list(stacked.values())
    )
    module = MLP(space, 6, 8).double()
    for r in range(3):
        params = {n: p[r].detach().requires_grad_() for n, p in stacked.items()}
        alone = torch.autograd.grad(
            functional_call(module, params, (obs[r],)).square().sum(), list(params.values())
        )
        for x, y in zip(together, alone, strict=True):
            torch.testing.assert_close(x[r], y)


def test_population_is_seeded_per_network_and_leaves_torchs_generator_alone():
    """Equal seeds, equal networks; building one draws nothing from the global generator."""
    state = torch.random.get_rng_state()
    population = Population(lambda: nn.Linear(3, 2))
    params = population.start([5, 9, 5])
    assert torch.equal(state, torch.random.get_rng_state())
    weight = params["weight"]
    assert torch.equal(weight[0], weight[2])
    assert not torch.equal(weight[0], weight[1])
    assert len(weight) == 3
    assert population.parameters_per_run == 8
    again = take(params, torch.tensor([1, 1, 0, 2]))
    assert torch.equal(again["weight"], weight[[1, 1, 0, 2]])


def _adam(rates, **options):
    g = torch.Generator().manual_seed(0)
    shapes = {"w": (4, 3), "b": (3,)}
    params = {
        n: torch.randn(len(rates), *s, generator=g, dtype=torch.float64) for n, s in shapes.items()
    }
    adam = Adam(torch.tensor(rates, dtype=torch.float64), **options)
    return Learner.start(params), adam, g


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("max_norm", [float("inf"), 0.5])
def test_population_adam_equals_adamw_run_by_run(decay, max_norm):
    """Weight decay, clipping of each run's own norm and per-run step sizes, as torch does them."""
    rates = [1e-3, 3e-2, 0.2]
    learner, adam, g = _adam(rates, weight_decay=decay, max_grad_norm=max_norm)
    alone = [[nn.Parameter(p[r].clone()) for p in learner.params.values()] for r in range(3)]
    torchs = [
        torch.optim.AdamW(ps, lr=lr, weight_decay=decay)
        for ps, lr in zip(alone, rates, strict=True)
    ]
    for step in range(20):
        scale = 10.0 ** (step % 4 - 2)
        grads = [
            torch.randn(p.shape, generator=g, dtype=torch.float64) * scale
            for p in learner.params.values()
        ]
        learner, norms = adam.step(learner, grads, torch.zeros(3))
        for r, (ps, adamw) in enumerate(zip(alone, torchs, strict=True)):
            for p, grad in zip(ps, grads, strict=True):
                p.grad = grad[r].clone()
            torch.testing.assert_close(nn.utils.clip_grad_norm_(ps, max_norm), norms[r])
            adamw.step()
    for r, ps in enumerate(alone):
        for ours, theirs in zip(learner.params.values(), ps, strict=True):
            torch.testing.assert_close(ours[r], theirs.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["gradient", "loss"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_non_finite_run_is_frozen_and_its_neighbours_do_not_notice(bad, where, decay):
    """One bad value freezes that run for good, at its parameters; the others are bitwise as without."""
    options = {"max_grad_norm": 0.5, "weight_decay": decay}
    learner, adam, g = _adam([1e-2] * 3, **options)
    calm, _, _ = _adam([1e-2] * 3, **options)
    for step in range(6):
        grads = [
            torch.randn(p.shape, generator=g, dtype=torch.float64) for p in learner.params.values()
        ]
        losses = torch.zeros(3)
        calm, _ = adam.step(calm, [x.clone() for x in grads], losses.clone())
        if step == 2:
            before = [p[1].clone() for p in learner.params.values()]
            if where == "loss":
                losses[1] = bad
            else:
                grads[0][1, 0, 0] = bad
        learner, norms = adam.step(learner, grads, losses)
        assert learner.alive.tolist() == [True, step < 2, True]
        assert torch.isnan(norms).tolist() == [False, step >= 2, False]
    for p, q, kept in zip(learner.params.values(), calm.params.values(), before, strict=True):
        assert torch.equal(p[1], kept)
        assert torch.equal(p[[0, 2]], q[[0, 2]])


def test_optimizer_state_restores_exactly():
    """``restored(tensors())`` of a fresh learner continues bit for bit, frozen runs included."""
    learner, adam, g = _adam([1e-2] * 2)

    def draw():
        return [
            torch.randn(p.shape, generator=g, dtype=torch.float64) for p in learner.params.values()
        ]

    learner, _ = adam.step(learner, draw(), torch.tensor([0.0, float("nan")]))
    fresh, _, _ = _adam([1e-2] * 2)
    again = fresh.restored({k: v.clone() for k, v in learner.tensors().items()})
    grads = draw()
    learner, _ = adam.step(learner, grads, torch.zeros(2))
    again, _ = adam.step(again, grads, torch.zeros(2))
    for name, x in learner.tensors().items():
        assert torch.equal(x, again.tensors()[name])


@pytest.mark.parametrize("name", ["grpo", "ppo-clip", "erc-dapo"])
def test_a_diverging_run_is_flagged_and_counted_and_disturbs_nobody(name):
    """One run overflows: it is frozen, the training ends, and the sane runs are bitwise as without."""
    settings = {"rollouts": 4, "max_grad_norm": float("inf"), "dtype": "float32"}
    calm = torch.tensor([5e-3, 5e-3, 5e-3])
    wild = torch.tensor([5e-3, 1e30, 5e-3])
    first = trainer([arm(name, [0, 1, 2], learning_rate=calm), arm("dapo", [0])], **settings)
    second = trainer([arm(name, [0, 1, 2], learning_rate=wild), arm("dapo", [0])], **settings)
    a, b = first.run(), second.run()
    sane = [0, 2, 3]
    assert b.runs["diverged"].tolist() == [False, True, False, False]
    assert not a.runs["diverged"].any()
    assert_same_result(a, b, sane, sane)
    for run in sane:
        for x, y in zip(parameters(first, run), parameters(second, run), strict=True):
            assert torch.equal(x, y)
    flagged = b.metrics["diverged"][:, 1].astype(bool)
    assert flagged[-1]
    assert (np.diff(flagged.astype(int)) >= 0).all()
    assert np.isnan(b.metrics["loss/total"][flagged, 1]).all()
    assert np.isnan(b.runs["reward/final"][1])


def test_a_huge_learning_rate_finishes_with_sane_neighbours():
    """At 1e6 a run may saturate instead of overflowing; either way the run ends and harms nobody."""
    rate = torch.tensor([5e-3, 1e6], dtype=torch.float64)
    wild = trainer([arm("grpo", [0, 1], learning_rate=rate)]).run()
    calm = trainer([arm("grpo", [0, 1])]).run()
    assert_same_result(calm, wild, [0], [0])
    assert np.isfinite(wild.runs["reward/final"][1]) != wild.runs["diverged"][1]
