import io
import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.synthetic import make_results, score
from erc_bench.analysis import Scores, improvements, scores, scores_as_markdown, scores_as_rich
from erc_bench.analysis.scores import OVERALL
from erc_bench.analysis.statistics import probability_of_improvement
from erc_bench.objectives import make
from erc_bench.studies.arms import gated_pairs, stored_arm

EXPERIMENTS = ("unsampled_shift", "forking_tokens", "entropy_null")


def table(rows, **columns):
    """Runs from (experiment, objective, scores)."""
    return pd.DataFrame(
        [
            {"experiment": e, "objective": o, "seed": i, "score": s, "diverged": False, **columns}
            for e, o, values in rows
            for i, s in enumerate(values)
        ]
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "r"
    return make_results(
        path,
        experiments=EXPERIMENTS,
        arms=("dapo", "erc-dapo", "erc-directional-dapo"),
        seeds=4,
        tokens=20,
        diverged=(("dapo", 2),),
    )


def test_the_matrix_holds_every_run_and_a_diverged_one_scores_zero(results):
    got = scores(results)
    matrix = got.matrix("dapo")
    assert list(matrix.columns) == list(EXPERIMENTS)
    assert list(matrix.index) == [0, 1, 2, 3]
    expected = [score("dapo", 0), score("dapo", 1), 0.0, score("dapo", 3)]
    for experiment in EXPERIMENTS:
        np.testing.assert_allclose(matrix[experiment], expected)
    assert got.mean("entropy_null", "dapo").estimate == pytest.approx(np.mean(expected))
    assert got.mean("entropy_null", "dapo").n == 4


def test_divergence_overrules_a_recorded_score():
    runs = table([("e", "dapo", [0.9, 0.5])])
    runs["diverged"] = [True, False]
    assert Scores.of(runs, {}).matrix("dapo")["e"].tolist() == [0.0, 0.5]


def test_the_order_of_rows_does_not_matter():
    runs = table([("e", "dapo", [0.1, 0.2, 0.3]), ("e", "erc-dapo", [0.2, 0.3, 0.4])])
    turned = Scores.of(runs.iloc[::-1], {})
    base, other = turned.paired("dapo", "erc-dapo", "e")
    np.testing.assert_allclose(other - base, 0.1)


def test_records_without_scores_are_refused():
    runs = table([("e", "dapo", [0.1])])
    with pytest.raises(LookupError, match="no scores"):
        Scores.of(runs.drop(columns="score"), {})
    with pytest.raises(LookupError, match="e, dapo, seed 1, which did not diverge"):
        Scores.of(table([("e", "dapo", [0.1, math.nan])]), {})


def test_a_grid_has_no_one_score_but_a_tuned_arm_has():
    runs = table(
        [
            ("sweep", "dapo:epochs=1", [0.1]),
            ("sweep", "dapo:epochs=4", [0.2]),
            ("listed", "dapo", [0.3]),
            ("tuned", "dapo:learning_rate=0.002", [0.4]),
            ("tuned", "gspo", [0.5]),
        ]
    )
    described = {label: {"recipe": label.partition(":")[0]} for label in runs["objective"]}
    config = {e: {"objectives": described} for e in ("sweep", "tuned")}
    got = Scores.of(runs, {"experiments": config | {"listed": {"grid": {"epochs": [1, 4]}}}})
    assert got.experiments == ["tuned"]
    assert got.objectives == ["dapo", "gspo"]
    with pytest.raises(LookupError, match="several settings"):
        Scores.of(runs[runs["experiment"] == "sweep"], {"experiments": config})


def test_aggregates_are_over_work_that_is_the_same_for_all():
    runs = table(
        [
            ("a", "dapo", [0.1, 0.2]),
            ("b", "dapo", [0.3, 0.4]),
            ("c", "dapo", [0.5, 0.6]),
            ("a", "gppo", [0.1, 0.2]),
            ("b", "gppo", [0.3, 0.4]),
            ("c", "gspo", [0.9, 0.9]),
        ]
    )
    got = Scores.of(runs, {})
    assert got.common == ["a", "b"]
    assert got.ranked == ["dapo", "gppo"]
    assert got.iqm("dapo") == got.iqm("gppo")
    assert got.iqm("dapo").value == pytest.approx(0.25)
    assert math.isnan(got.iqm("gspo").value)


def test_pairs_of_a_base_and_its_gates():
    """Pairs follow from the compositions and not from names, and only gates on the entropy count."""
    names = [
        "erc-gppo",
        "dr-grpo",
        "dapo",
        "erc-directional-dapo",
        "kl-gate-dapo",
        "erc-dapo",
        "gppo",
    ]
    assert gated_pairs(map(stored_arm, names)) == [
        ("dapo", "erc-directional-dapo"),
        ("dapo", "erc-dapo"),
        ("gppo", "erc-gppo"),
    ]
    mine = {"recipe": "mine", "base": "dapo", "spec": make("erc-dapo").spec(), "overrides": {}}
    assert gated_pairs([stored_arm("dapo"), stored_arm("x", mine)]) == [("dapo", "x")]
    other = mine | {"overrides": {"clip_low": 0.1, "band_low": 0.2}}
    assert gated_pairs([stored_arm("dapo"), stored_arm("x", other)]) == []


def test_improvements_are_those_of_the_runs(results):
    got = improvements(scores(results)).set_index(["objective", "experiment"])
    assert list(got.loc["erc-dapo"].index) == [*EXPERIMENTS, OVERALL]
    base = [score("dapo", 0), score("dapo", 1), 0.0, score("dapo", 3)]
    other = [score("erc-dapo", seed) for seed in range(4)]
    row = got.loc[("erc-dapo", "entropy_null")]
    expected = probability_of_improvement([other], [base])
    assert row["value"] == expected.value == 1.0
    assert row["difference"] == pytest.approx(np.mean(np.subtract(other, base)))
    assert row["p"] == 2 / 16  # all four seeds better: one of 16 patterns, and its mirror image
    assert row["p_holm"] >= row["p"]
    assert got.loc[("erc-dapo", OVERALL), "n"] == 12
    assert got.loc[("erc-dapo", OVERALL), "p"] == 2 / 2**12


def test_both_tables_show_every_score(results):
    found = scores(results)
    markdown = scores_as_markdown(found)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(scores_as_rich(found))
    text = console.export_text()
    assert "| erc-dapo | 0.615 n=4 | 0.615 n=4 | 0.615 n=4 | 0.615 |" in markdown
    assert text.count("0.615 n=4") == 6
    for note in (markdown, text):
        assert "diverged" in note
    assert "interquartile mean over all runs of unsampled_shift" in " ".join(text.split())
