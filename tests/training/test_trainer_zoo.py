"""Every recipe trains, and its runs do not notice who is beside them."""

from __future__ import annotations

import numpy as np
import pytest
from trainer_runs import arm, assert_same_result, trainer

from erc_bench.objectives import RECIPES


@pytest.fixture(scope="module")
def together():
    return trainer([arm(name) for name in RECIPES]).run()


def test_every_recipe_trains(together):
    """Finite losses and gradients in every update of every run, and none diverged."""
    assert not together.runs["diverged"].any()
    for name in ("loss/total", "loss/surrogate", "grad/norm", "gate/dropped_fraction"):
        assert np.isfinite(together.metrics[name]).all(), name
    assert (together.metrics["grad/norm"] > 0).any(axis=0).all()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_alone_as_beside_all_others(name, together):
    """Gates that choose among a batch's tokens choose the same ones in a population."""
    alone = trainer([arm(name)]).run()
    first = 2 * list(RECIPES).index(name)
    runs = slice(first, first + 2)
    assert_same_result(together, alone, runs_a=runs, rtol=1e-7, atol=1e-9)
