"""Tests of every registered experiment, its tiers and its grid, and of what the claims need of them."""

import dataclasses
import json

import gymnasium as gym
import pytest
from extras import REASONING_GYM, needs_tasks

from erc_bench.analysis.claims import load
from erc_bench.objectives import make
from erc_bench.studies import EXPERIMENTS, TIERS, plan
from erc_bench.studies.arms import stored_arm

every = pytest.mark.parametrize(
    "entry",
    [
        pytest.param(e, id=e.name, marks=[needs_tasks] if e.environment == REASONING_GYM else [])
        for e in EXPERIMENTS.values()
    ],
)


@every
@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_can_be_planned(entry, tier):
    """Settings, arms and grid are valid, and the configuration is strict JSON.

    The smoke tier takes the ends of each axis of the grid.
    """
    work = plan([entry.name], tier=tier)
    json.dumps(work.config(), allow_nan=False)
    (planned,) = work.experiments
    assert planned.experiment is entry
    assert len(planned.arms) >= 2
    assert planned.seeds == entry.seeds[tier]
    for axis, values in planned.grid.items():
        whole = entry.grid[axis]
        assert set(values) == ({whole[0], whole[-1]} if tier == "smoke" else set(whole))
    assert all(make(arm.recipe.name) == arm.recipe.objective for arm in planned.arms)


@every
def test_every_experiment_says_what_it_asks_and_expects(entry):
    """It has a question, an expectation and the meaning of its score, and its environment exists."""
    assert len(entry.question) > 10
    assert entry.question.rstrip().endswith(("?", "."))
    assert len(entry.expectation) > 40
    assert len(entry.score_meaning) > 10
    assert entry.environment in gym.registry
    assert (entry.regime in ("sweep", "breaking")) == bool(entry.grid)


@every
def test_the_full_tier_has_twenty_seeds(entry):
    """This is the smallest number of seeds that the claims accept."""
    assert entry.seeds["full"] >= load().rules.seeds


def test_every_experiment_and_arm_of_the_claims_is_registered_in_its_regime():
    """A claim that no run could decide would never be noticed."""
    for claim in load().claims:
        for part in claim.parts:
            for regime, names in part.experiments.items():
                for name in names:
                    entry = EXPERIMENTS[name]
                    assert entry.regime == regime, (claim.id, name)
                    recipes = {text.partition(":")[0] for text in entry.objectives}
                    assert {arm for arms in part.arms for arm in arms} <= recipes, (claim.id, name)
                    for axis in part.at:
                        assert axis in entry.grid, (claim.id, name, axis)


def test_a_grid_on_the_command_line_takes_the_place_of_the_experiments_own():
    """The two grids are not multiplied."""
    (own,) = plan(["beta_sweep"]).experiments
    (other,) = plan(["beta_sweep"], grid={"learning_rate": [1e-3]}).experiments
    assert set(own.grid) == {"band"}
    assert {arm.label for arm in other.arms} == {
        f"{name}:learning_rate=0.001" for name in EXPERIMENTS["beta_sweep"].objectives
    }
    assert dataclasses.replace(EXPERIMENTS["beta_sweep"]).grid == EXPERIMENTS["beta_sweep"].grid


@pytest.mark.parametrize("label", ["placebo-dapo", "kl-gate-tv-gate-dapo", "placebo-mine", "erc-"])
def test_a_strangers_label_is_read_whatever_names_it_looks_like(label):
    """As of imported logs: parts that cannot be combined are an error on the command line alone."""
    arm = stored_arm(label)
    assert (arm.label, arm.recipe, arm.gates) == (label, label, ())
