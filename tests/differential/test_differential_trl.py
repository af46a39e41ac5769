"""Recipes against TRL 1.16.0: ``GRPOTrainer._compute_loss`` on a tiny model, parameters' gradients."""

from __future__ import annotations

import inspect
import re
import sys

import pytest
import torch

from differential import trl_losses
from differential.trl_losses import CASES, WITHOUT_RECIPE, make_inputs, make_trainer, ours, theirs
from erc_bench.core import advantages
from erc_bench.objectives import make


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return make_trainer(tmp_path_factory.mktemp("trl"))


def size(gradient):
    return max(1.0, gradient.abs().max().item())


@pytest.mark.parametrize("drift", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_gradient_equal_trl(trainer, case, drift):
    """Value, and gradient of every parameter, through the model in float64."""
    objective = make(case.recipe, **case.parameters)
    for seed in range(3):
        inputs = make_inputs(trainer, seed, drift)
        loss, gradient = theirs(trainer, inputs, case.loss_type, case.settings)
        our_loss, our_gradient = ours(trainer, inputs, objective)
        assert our_gradient.abs().max() > 0
        error = (our_gradient - gradient).abs().max().item() / size(gradient)
        assert error < case.tolerance, f"gradient: {error:.3g}"
        if case.value:
            error = abs(our_loss - loss).item() / max(1.0, abs(loss).item())
            assert error < case.tolerance, f"loss: {error:.3g}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_equals_trl_with_its_own_log_probabilities(trainer, case):
    """The stock loss from end to end, float32 inside: to 1e-6 of the largest gradient."""
    objective = make(case.recipe, **case.parameters)
    inputs = make_inputs(trainer, 0)
    _, gradient = theirs(trainer, inputs, case.loss_type, case.settings, stock_forward=True)
    _, our_gradient = ours(trainer, inputs, objective)
    assert ((our_gradient - gradient).abs().max() / size(gradient)).item() < 1e-6


def test_every_loss_type_of_trl_is_compared_or_named():
    """A loss type that a later TRL adds is noticed here."""
    covered = {case.loss_type for case in CASES}
    source = inspect.getsource(trl_losses.require_trl().GRPOTrainer._compute_loss)
    known = set(re.findall(r"loss_type (?:==|in) (.*):", source))
    known = set(re.findall(r'"(\w+)"', " ".join(known)))
    assert covered | set(WITHOUT_RECIPE) == known
    assert not covered & set(WITHOUT_RECIPE)


@pytest.mark.parametrize("group", [2, 5])
def test_group_advantages_equal_trls_formula_but_for_its_epsilon(group):
    """TRL adds 1e-4 to the standard deviation where GRPO's code here and in verl adds 1e-6."""
    trl = trl_losses.require_trl()
    nanstd = sys.modules[trl.GRPOTrainer.__module__].nanstd
    rewards = torch.randn(4, group, dtype=torch.float64)
    deviation = nanstd(rewards, dim=1, keepdim=True)
    expected = (rewards - rewards.mean(1, keepdim=True)) / (deviation + 1e-4)
    found = advantages.group_zscore(rewards, eps=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
