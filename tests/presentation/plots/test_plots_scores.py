import dataclasses

import numpy as np
import pandas as pd
import pytest
from analysis.synthetic import described

from erc_bench.analysis.scores import OVERALL, Scores
from erc_bench.analysis.statistics import interquartile_mean, mean_interval, performance_profile
from erc_bench.presentation.plots import FIGURES, Frames, NothingToDraw
from erc_bench.presentation.plots.scorecard import families, wrapped
from erc_bench.presentation.reporting.captions import captioned
from plots.test_plots_figures import assert_legible

SEVEN = ("ppo-clip", "grpo", "dapo", "gppo", "erc-dapo", "erc-gppo", "erc-directional-dapo")
GATES = ("ppo-clip", "dapo", "erc-dapo", "erc-directional-dapo", "kl-gate-dapo", "tv-gate-dapo")
PAIRS = ("dapo", "gppo", "erc-dapo", "erc-gppo", "erc-directional-dapo")
ARMS = {
    "unsampled_shift": SEVEN,
    "forking_tokens": SEVEN,
    "entropy_null": SEVEN,
    "stress": SEVEN,
    "mode_swap": GATES,
    "reward_shift": SEVEN,
    "rare_reward": SEVEN,
    "aggregation": ("grpo", "dr-grpo", "dapo", "gspo", "erc-dapo"),
    "arithmetic": PAIRS,
    "baselines": (*PAIRS, "dapo-kl", "dapo-entropy", "gspo", "dppo-tv", "kl-gate-dapo"),
    "staleness": ("dapo:epochs=1", "dapo:epochs=4", "erc-dapo:epochs=1", "erc-dapo:epochs=4"),
}


def make_frames(arms, seeds=20):
    """Scores that grow with the seed; the directional gate is best, the plain gate second."""
    rng = np.random.default_rng(0)
    rows = []
    for experiment, names in arms.items():
        level = rng.uniform(0.1, 0.7)
        for name in names:
            gain = 0.1 * name.startswith("erc-") + 0.1 * ("directional" in name)
            rows += [
                {
                    "experiment": experiment,
                    "objective": name,
                    "seed": seed,
                    "diverged": False,
                    "score": float(np.clip(level + gain + 0.1 * rng.normal(), 0, 1)),
                }
                for seed in range(seeds)
            ]
    config = {e: {"objectives": {n: described(n) for n in names}} for e, names in arms.items()}
    return Frames(pd.DataFrame(rows), pd.DataFrame(), pd.DataFrame(), {"experiments": config})


@pytest.fixture(scope="module")
def frames():
    made = make_frames(ARMS)
    failed = (made.runs["experiment"] == "stress") & (made.runs["objective"] == "gppo")
    failed &= made.runs["seed"] < 3
    return dataclasses.replace(
        made, runs=made.runs.assign(diverged=failed, score=made.runs["score"].mask(failed))
    )


@pytest.fixture(scope="module")
def drawings(frames):
    names = ("fig9_scorecard", "fig11_profiles")
    return {name: captioned(FIGURES[name](frames), frames) for name in names}


@pytest.mark.parametrize("name", ["fig9_scorecard", "fig11_profiles"])
def test_all_experiments_of_the_suite_stay_legible(drawings, name):
    assert_legible(drawings[name].figure)


@pytest.mark.parametrize("count", [3, 14])
def test_few_and_many_experiments_stay_legible(count):
    arms = {f"question_number_{i}": ("dapo", "erc-dapo", "grpo") for i in range(count)}
    for name in ("fig9_scorecard", "fig11_profiles"):
        assert_legible(FIGURES[name](make_frames(arms, seeds=3)).figure)


def test_the_scorecard_shows_the_scores_of_the_records(frames, drawings):
    data = drawings["fig9_scorecard"].data
    runs = frames.runs.assign(score=frames.runs["score"].fillna(0.0))
    means = data[data["kind"] == "mean"]
    assert len(means) == sum(len(v) for k, v in ARMS.items() if k != "staleness")
    for _, row in means.iterrows():
        arm = runs[(runs.experiment == row.experiment) & (runs.objective == row.objective)]
        expected = mean_interval(arm["score"])
        assert (row["value"], row["low"], row["runs"]) == (expected.estimate, expected.low, 20)
    gppo = data[(data["kind"] == "IQM") & (data["objective"] == "gppo")].iloc[0]
    common = gppo["experiment"].split()
    assert common == [
        "unsampled_shift",
        "forking_tokens",
        "entropy_null",
        "stress",
        "reward_shift",
        "rare_reward",
    ]
    pooled = runs[(runs.objective == "gppo") & runs.experiment.isin(common)]["score"]
    assert gppo["value"] == pytest.approx(interquartile_mean([pooled]).value)
    assert gppo["low"] < gppo["value"] < gppo["high"]
    assert "staleness" not in set(data["experiment"])


def test_the_tables_numbers_stand_in_the_figure(drawings):
    texts = {
        t.get_text() for axes in drawings["fig9_scorecard"].figure.get_axes() for t in axes.texts
    }
    for value in drawings["fig9_scorecard"].data["value"]:
        assert f"{value:.3f}" in texts


def test_radars_compare_a_base_with_its_gates_on_shared_experiments(frames):
    scores = Scores.of(frames.runs, frames.config)
    assert families(scores, frames.looks(scores.objectives)) == [
        ["dapo", "erc-dapo", "erc-directional-dapo"],
        ["gppo", "erc-gppo"],
    ]
    few = {"a": SEVEN, "b": SEVEN, "c": ("dapo", "erc-dapo")}
    few_scores = Scores.of(make_frames(few, seeds=2).runs, {})
    assert families(few_scores, frames.looks(few_scores.objectives)) == [["dapo", "erc-dapo"]]
    alone = Scores.of(make_frames(dict.fromkeys("abc", ("dapo", "gppo")), seeds=2).runs, {})
    assert families(alone, frames.looks(alone.objectives)) == [["dapo", "gppo"]]


def test_profiles_and_improvements_are_those_of_the_records(frames, drawings):
    data = drawings["fig11_profiles"].data
    scores = Scores.of(frames.runs, frames.config)
    curve = data[(data["kind"] == "profile") & (data["objective"] == "gppo")]
    expected = performance_profile(scores.strata("gppo", scores.common), curve["tau"])
    np.testing.assert_array_equal(curve["share"], expected.share)
    assert curve["share"].iloc[0] == 1 - 3 / 120  # three diverged runs of 120 do not exceed 0
    rows = data[data["kind"] == "improvement"]
    overall = rows[rows["experiment"] == OVERALL].set_index("objective")
    assert set(overall.index) == {"erc-dapo", "erc-gppo", "erc-directional-dapo"}
    assert (overall["low"] > 0.5).all()
    assert (overall["p"] == 1 / 20_001).all()  # no drawn pattern is as extreme
    assert "erc-dapo over dapo, overall: 0.7" in drawings["fig11_profiles"].caption


def test_captions_count_diverged_runs_and_name_the_common_experiments(drawings):
    caption = drawings["fig9_scorecard"].caption
    assert "3 diverged runs count as score 0" in caption
    assert "Highest: erc-directional-dapo" in caption


def test_records_without_scores_or_with_few_experiments_say_so(frames):
    old = dataclasses.replace(frames, runs=frames.runs.drop(columns="score"))
    for name in ("fig9_scorecard", "fig11_profiles"):
        with pytest.raises(NothingToDraw, match="no scores"):
            FIGURES[name](old)
    two = make_frames(dict.fromkeys("ab", SEVEN), seeds=2)
    with pytest.raises(NothingToDraw, match="2 experiments"):
        FIGURES["fig9_scorecard"](two)
    with pytest.raises(NothingToDraw, match="no two objectives"):
        FIGURES["fig11_profiles"](make_frames({"a": ("dapo",)}, seeds=2))


def test_names_are_wrapped_without_losing_a_letter():
    assert wrapped("unsampled_shift") == "unsampled\nshift"
    assert wrapped("aggregation") == "aggregation"
    assert wrapped("x" * 20) == "x" * 10 + "-\n" + "x" * 10
