"""The settings of ``baselines``: an equal budget, other seeds, and the choice that the numbers say."""

import json
from importlib import resources

import pandas as pd

from erc_bench.studies import EXPERIMENTS, plan
from erc_bench.studies.selection import (
    CANDIDATES,
    ROOT_SEED,
    SEEDS,
    candidates,
    choose,
    selected,
)

RECORD = json.loads(resources.files("erc_bench.studies").joinpath("selected.json").read_text())


def test_every_arm_has_the_same_number_of_candidates_and_they_can_be_built():
    """Twelve each, all different, every one a valid specification."""
    budgets = {arm: candidates(arm) for arm in CANDIDATES}
    assert {len(set(specs)) for specs in budgets.values()} == {12}
    plan(["baselines"], objectives=[s for specs in budgets.values() for s in specs])


def test_the_best_mean_score_is_chosen():
    """Of equal ones the first tried."""
    scores = {
        "dapo:a": [0.1, 0.3],
        "dapo:b": [0.2, 0.4],
        "dapo:c": [0.4, 0.2],
        "gspo:a": [0.0, 0.0],
    }
    runs = pd.DataFrame([{"objective": k, "score": v} for k, vs in scores.items() for v in vs])
    found = choose(runs)
    assert {arm: entry["chosen"] for arm, entry in found.items()} == {
        "dapo": "dapo:b", "gspo": "gspo:a",
    }  # fmt: skip
    assert found["dapo"]["tried"]["dapo:a"]["score"] == 0.2


def test_the_record_is_of_this_selection():
    """What is in the package was chosen by this rule among these candidates, on other seeds."""
    assert (RECORD["root_seed"], RECORD["seeds"]) == (ROOT_SEED, SEEDS)
    assert ROOT_SEED != 0
    for arm, entry in RECORD["arms"].items():
        assert list(entry["tried"]) == candidates(arm)
        best = max(entry["tried"].values(), key=lambda v: v["score"])
        assert entry["tried"][entry["chosen"]] == best
    assert EXPERIMENTS["baselines"].objectives == selected()


def test_no_arm_of_baselines_has_more_data_than_another():
    """Dynamic sampling, which only some arms use, is off."""
    assert EXPERIMENTS["baselines"].config.generation_rounds == 1
    assert RECORD["train"]["generation_rounds"] == 1
