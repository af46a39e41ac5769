"""PPO's adaptive KL coefficient: a pure function from one rollout's objective to the next one's."""

from __future__ import annotations

import math

import pytest
import torch
from objective_batches import B, R, T, gradient, leaves

from erc_bench.objectives import RECIPES, Adaptive, AdaptiveKL, ExactKL, make


def measured(*kl):
    return {"drift/kl_exact": torch.tensor(kl, dtype=torch.float64)}


def test_the_coefficient_follows_the_papers_rule():
    """d < target / 1.5 halves, d > 1.5 target doubles, in between and at NaN it stays; per run."""
    start = make("ppo-kl-adaptive", beta=1.0, target=0.03)
    edges = (0.0, 0.0199, 0.0201, 0.03, 0.0449, 0.0451, math.inf, math.nan)
    after = start.adapted(measured(*edges))
    assert after.regularizers[0].coefficient.tolist() == [0.5, 0.5, 1, 1, 1, 2, 2, 1]
    again = after.adapted(measured(*edges))
    assert again.regularizers[0].coefficient.tolist() == [0.25, 0.25, 1, 1, 1, 4, 4, 1]
    assert start.regularizers[0].coefficient == 1.0


def test_runs_have_their_own_coefficients_and_targets():
    """A coefficient and a target per run; the loss of run r is that of its own coefficient."""
    beta, target = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.01, 0.1, 1.0])
    objective = make("ppo-kl-adaptive", beta=beta, target=target).adapted(measured(0.1, 0.1, 0.1))
    assert objective.regularizers[0].coefficient.tolist() == [2, 2, 1.5]
    given = leaves((R, B, T))
    loss, grad, _ = gradient(objective, given)
    for run, weight in enumerate([2, 2, 1.5]):
        one = {k: v[run].detach() for k, v in given.items()}
        one["logits"].requires_grad_()
        expected = gradient(make("ppo-kl", beta=weight), one)
        torch.testing.assert_close(loss[run], expected[0])
        torch.testing.assert_close(grad[run], expected[1])


@pytest.mark.parametrize("name", RECIPES)
def test_objectives_without_adaptive_pieces_are_themselves(name):
    """adapted returns self, whatever was measured, unless a piece is adaptive."""
    objective = make(name)
    assert objective.adaptive == (name == "ppo-kl-adaptive")
    if not objective.adaptive:
        assert objective.adapted({}) is objective
    assert all(isinstance(r, Adaptive) for r in objective.regularizers) == (
        objective.adaptive or not objective.regularizers
    )


def test_other_pieces_stay():
    """Only the adaptive regularizer is replaced."""
    base = make("ppo-kl-adaptive").regularized(ExactKL(0.1, "ref", "reverse"))
    after = base.adapted({"drift/kl_exact": torch.tensor(1.0), "other": torch.tensor(0.0)})
    assert after.regularizers[1] is base.regularizers[1]
    assert after.surrogate is base.surrogate
    assert after.regularizers[0].coefficient == 2.0
    assert after.spec()["regularizers"][0]["coefficient"] == 2.0


def test_coefficients_stay_finite_and_positive():
    """A thousand doublings or halvings end at a bound that can be left again."""
    low = high = make("ppo-kl-adaptive")
    for _ in range(1000):
        low, high = low.adapted(measured(0.0)), high.adapted(measured(1.0))
    assert low.regularizers[0].coefficient.item() == 1e-20
    assert high.regularizers[0].coefficient.item() == 1e20
    assert low.adapted(measured(1.0)).regularizers[0].coefficient.item() == 2e-20


def test_a_missing_measurement_is_named():
    """One line with what is needed and what there is."""
    with pytest.raises(ValueError, match=r"needs the metric 'drift/kl_exact', got \['x'\]"):
        make("ppo-kl-adaptive").adapted({"x": torch.tensor(0.0)})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AdaptiveKL(0), r"^AdaptiveKL\.coefficient: 0, must be > 0 and finite$"),
        (lambda: AdaptiveKL(1.0, target=0), r"^AdaptiveKL\.target: 0, must be > 0 and finite$"),
        (lambda: AdaptiveKL(1.0, "ref"), r"^AdaptiveKL\.reference: 'ref', must be 'old'$"),
        (lambda: AdaptiveKL(1.0, "old", "reverse"), r"^AdaptiveKL\.direction: 'reverse', must be"),
    ],
)
def test_bad_settings_of_the_adaptive_coefficient(build, message):
    """Owner, field, value and what is allowed."""
    with pytest.raises(ValueError, match=message):
        build()
