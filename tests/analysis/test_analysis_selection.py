"""Tests that the settings of ``baselines`` come from equal budgets, other seeds and the best scores."""

import json

import pandas as pd

from erc_bench.analysis.selection import CANDIDATES, ROOT_SEED, SEEDS, candidates, choose
from erc_bench.studies import EXPERIMENTS, plan
from erc_bench.studies.arms import parse
from erc_bench.studies.questions.baselines import SELECTED

RECORD = json.loads(SELECTED.read_text())


def test_every_arm_has_the_same_number_of_candidates_and_they_can_be_built():
    """Each arm has twelve different candidates, and every one is valid."""
    budgets = {arm: [c.label for c in candidates(arm)] for arm in CANDIDATES}
    assert {len(set(specs)) for specs in budgets.values()} == {12}
    plan(["baselines"], objectives=[s for specs in budgets.values() for s in specs])


def test_the_best_mean_score_is_chosen():
    """Among equal ones the first that was tried is chosen."""
    scores = {
        "dapo:clip_high=0.1": [0.1, 0.3],
        "dapo:clip_high=0.2": [0.2, 0.4],
        "dapo:clip_high=0.3": [0.4, 0.2],
        "gspo:clip=0.1": [0.0, 0.0],
    }
    runs = pd.DataFrame([{"objective": k, "score": v} for k, vs in scores.items() for v in vs])
    found = choose(runs, map(parse, scores))
    assert {arm: entry["chosen"] for arm, entry in found.items()} == {
        "dapo": "dapo:clip_high=0.2",
        "gspo": "gspo:clip=0.1",
    }
    assert found["dapo"]["tried"]["dapo:clip_high=0.1"]["score"] == 0.2


def test_the_record_is_of_this_selection():
    """What is in the package was chosen by this rule among these candidates, on other seeds."""
    assert (RECORD["root_seed"], RECORD["seeds"]) == (ROOT_SEED, SEEDS)
    assert ROOT_SEED != 0
    for arm, entry in RECORD["arms"].items():
        assert list(entry["tried"]) == [c.label for c in candidates(arm)]
        best = max(entry["tried"].values(), key=lambda v: v["score"])
        assert entry["tried"][entry["chosen"]] == best
    chosen = tuple(entry["chosen"] for entry in RECORD["arms"].values())
    assert list(RECORD["arms"]) == list(CANDIDATES)
    assert EXPERIMENTS["baselines"].objectives == chosen


def test_no_arm_of_baselines_has_more_data_than_another():
    """Dynamic sampling, which only some arms use, is off."""
    assert EXPERIMENTS["baselines"].config.generation_rounds == 1
    assert RECORD["train"]["generation_rounds"] == 1
