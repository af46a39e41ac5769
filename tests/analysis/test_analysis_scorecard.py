import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.synthetic import BOUND, DROPPED, OUT_OF_BAND, make_results, make_run, seed_factor
from erc_bench.analysis import (
    MEASURES,
    as_markdown,
    as_rich,
    collapses,
    interval_text,
    median_interval,
    out_of_band_to_bound,
    paired,
    per_seed,
    summary,
)
from erc_bench.analysis.statistics import Interval
from erc_bench.core.errors import InputError
from erc_bench.studies.records import Results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("records") / "r", seeds=6, tokens=20)


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "r"
    return make_results(
        path, experiments=("forking_tokens",), seeds=3, tokens=20, diverged=(("dapo", 1),)
    )


def row(frame, **wanted):
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_collapsed_runs_are_counted_with_an_exact_interval(tmp_path):
    """For 0 of n runs its ends are 0 and 1 - 0.025^(1/n); unknown runs do not count."""
    flags = {"dapo": [0.0] * 10, "gppo": [1.0, 0.0, np.nan, 1.0]}
    frames = [
        pd.DataFrame({"experiment": "stress", "objective": arm, "reward/collapsed": values})
        for arm, values in flags.items()
    ]

    class Stored:
        path = tmp_path

        def read(self, _):
            return pd.concat(frames)

    found = collapses(Stored()).set_index("objective")
    assert tuple(found.loc["dapo", ["collapsed", "runs", "share", "low"]]) == (0, 10, 0, 0)
    assert found.loc["dapo", "high"] == pytest.approx(1 - 0.025**0.1)
    assert tuple(found.loc["gppo", ["collapsed", "runs"]]) == (2, 3)


def test_records_without_the_column_say_so(results):
    with pytest.raises(InputError, match="no column reward/collapsed; run it anew"):
        collapses(results)


def test_one_row_per_experiment_and_objective(results):
    table = summary(results)
    assert len(table) == 2 * 5
    assert not table.duplicated(["experiment", "objective"]).any()
    assert set(table["seeds"]) == {6}


def test_known_shares_come_back(results):
    arm = row(summary(results), experiment="unsampled_shift", objective="erc-dapo")
    factor = np.median([seed_factor(s) for s in range(6)])
    assert arm["clip_bound/estimate"] == pytest.approx(BOUND)
    assert arm["out_of_band/estimate"] == pytest.approx(OUT_OF_BAND * factor)
    assert arm["dropped/estimate"] == pytest.approx(DROPPED * factor)
    assert arm["kl_exact/estimate"] == pytest.approx(0.004)
    assert arm["final_reward/estimate"] == pytest.approx(0.85)
    assert arm["share_of_optimum/estimate"] == pytest.approx(0.85)
    assert arm["tokens/estimate"] == 20 * 768


def test_gradient_spread_is_the_deviation_over_updates_then_the_median_over_seeds(results):
    metrics = results.read("metrics")
    arm = metrics[(metrics.experiment == "forking_tokens") & (metrics.objective == "gppo")]
    by_hand = [np.std(arm[arm.seed == s]["grad/norm"], ddof=1) for s in range(6)]
    got = row(summary(results), experiment="forking_tokens", objective="gppo")
    expected = median_interval(by_hand)
    assert got["grad_norm_spread/estimate"] == pytest.approx(expected.estimate)
    assert got["grad_norm_spread/low"] == pytest.approx(expected.low)


def test_a_diverged_run_is_counted_and_has_reward_zero(failing):
    arm = row(summary(failing), objective="dapo")
    assert (arm["seeds"], arm["diverged"]) == (3, 1)
    assert arm["final_reward/estimate"] == pytest.approx(0.7)
    assert arm["final_reward/n"] == 3
    assert arm["entropy_change/n"] == 2
    assert arm["kl_exact/n"] == 3  # from the updates before divergence
    assert not per_seed(failing)["final_reward"].isna().any()


def test_an_arm_whose_every_run_diverged_at_once_stays_in_the_table(tmp_path):
    results = Results.create(tmp_path / "r", {})
    run = make_run("e", "dapo", 0, 5, diverged=True)
    measured = [c for c in run["metrics"] if "/" in c]
    run["metrics"][measured] = np.nan
    results.write_part("0", run)
    arm = row(summary(results), objective="dapo")
    assert (arm["diverged"], arm["final_reward/estimate"]) == (1, 0.0)
    assert math.isnan(arm["kl_exact/estimate"])


def test_metrics_that_no_arm_has_are_unknown_not_zero(tmp_path):
    results = Results.create(tmp_path / "r", {})
    run = make_run("e", "reinforce", 0, 5)
    run["metrics"] = run["metrics"].drop(columns=["clip/ratio_bound_fraction", "drift/kl_exact"])
    results.write_part("0", run)
    arm = row(summary(results), objective="reinforce")
    assert math.isnan(arm["clip_bound/estimate"])
    assert math.isnan(arm["kl_exact/estimate"])


def test_share_of_an_optimum_that_is_not_positive_is_unknown(tmp_path):
    results = Results.create(tmp_path / "r", {})
    run = make_run("null_reward", "dapo", 0, 5)
    run["runs"]["reward/optimal"] = 0.0
    results.write_part("0", run)
    assert math.isnan(summary(results)["share_of_optimum/estimate"][0])


def test_paired_finds_the_known_difference_and_its_sign(results):
    table = paired(per_seed(results), "dapo", "erc-dapo")
    reward = row(table, experiment="unsampled_shift", measure="final_reward")
    differences = [0.85 - (0.7 + 0.02 * s) for s in range(6)]
    assert reward["difference/estimate"] == pytest.approx(np.median(differences))
    assert reward["difference/low"] == pytest.approx(median_interval(differences).low)
    assert reward["verdict"] == "better"
    spread = row(table, experiment="unsampled_shift", measure="grad_norm_spread")
    assert spread["difference/estimate"] < 0
    assert spread["verdict"] == "better"  # lower is better
    back = paired(per_seed(results), "erc-dapo", "dapo")
    assert row(back, experiment="unsampled_shift", measure="final_reward")["verdict"] == "worse"
    with pytest.raises(LookupError, match="gspo"):
        paired(per_seed(results), "dapo", "gspo")


def test_the_papers_contrast_with_its_known_ratio(results):
    contrast = out_of_band_to_bound(results, "unsampled_shift")
    assert (contrast.base, contrast.other) == ("dapo", "erc-dapo")
    ratios = [OUT_OF_BAND * seed_factor(s) / BOUND for s in range(6)]
    np.testing.assert_allclose(contrast.per_seed["ratio"], ratios)
    assert contrast.ratio.estimate == pytest.approx(np.median(ratios))
    assert 0 < contrast.lower_bound < contrast.ratio.estimate
    assert "times as many" in contrast.sentence()


def test_a_bound_share_of_zero_gives_a_lower_bound_instead_of_infinity(tmp_path):
    results = Results.create(tmp_path / "r", {})
    runs = [make_run("e", arm, seed, 5) for arm in ("dapo", "erc-dapo") for seed in range(6)]
    for run in runs:
        run["metrics"]["clip/ratio_bound_fraction"] = 0.0
    results.write_part("0", {t: pd.concat([r[t] for r in runs]) for t in runs[0]})
    contrast = out_of_band_to_bound(results, "e")
    assert math.isnan(contrast.ratio.estimate)
    assert np.isinf(contrast.per_seed["ratio"]).all()
    low = contrast.out_of_band.low
    assert contrast.lower_bound == pytest.approx(low / (3 / (6 * 20 * 768)))
    assert "at least" in contrast.sentence()
    assert "inf" not in contrast.sentence()


def test_the_contrast_names_what_is_missing(results):
    with pytest.raises(LookupError, match="gspo"):
        out_of_band_to_bound(results, "unsampled_shift", "dapo", "gspo")
    with pytest.raises(LookupError, match="nowhere"):
        out_of_band_to_bound(results, "nowhere")


@pytest.mark.parametrize(
    ("interval", "scale", "text"),
    [
        (Interval(0.71234, 0.69934, 0.72534, 6), 1.0, "0.712 [0.699, 0.725]"),
        (Interval(0.2029, 0.19, 0.2158, 6), 100.0, "20.3 [19.0, 21.6]"),
        (Interval(15360.0, 15360.0, 15360.0, 6), 1e-3, "15.4 [15.4, 15.4]"),
        (Interval(0.5, math.nan, math.nan, 5), 1.0, "0.500 n=5"),
        (Interval(math.nan, math.nan, math.nan, 0), 1.0, "–"),
        (Interval(0.0, 0.0, 0.0, 6), 100.0, "0 [0, 0]"),
        (Interval(-0.951, -1.13, -0.77, 6), 1.0, "-0.95 [-1.13, -0.77]"),
        (Interval(0.0, -0.05, 0.07, 6), 1.0, "0.000 [-0.050, 0.070]"),
    ],
)
def test_values_are_rounded_where_their_uncertainty_starts(interval, scale, text):
    assert interval_text(interval, scale) == text


def test_the_terminal_table_fits_100_columns_and_shows_every_arm(failing):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(as_rich(summary(failing)))
    text = console.export_text()
    console.file.close()
    assert max(map(len, text.splitlines())) <= 100
    assert "1/3" in text
    assert "…" not in text
    for arm in ("ppo-clip", "dapo", "erc-gppo"):
        assert text.count(f" {arm} ") == 2


def test_markdown_holds_the_summarys_numbers_and_no_markup_from_names(tmp_path):
    name = "a|b<script>"
    results = make_results(tmp_path / "r", experiments=("e",), arms=(name,), seeds=6, tokens=5)
    text = as_markdown(summary(results))
    assert "<script>" not in text
    lines = [line for line in text.splitlines() if line.startswith("| a")]
    assert len(lines) == 1
    assert lines[0].replace("\\|", "").count("|") == len(MEASURES) + 3
    assert "75.0 [70.0, 80.0]" in lines[0]


def test_rich_markup_in_names_is_shown_as_it_is(tmp_path):
    results = make_results(tmp_path / "r", experiments=("[b]e",), arms=("[red]x",), seeds=2)
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(as_rich(summary(results)))
    text = console.export_text()
    console.file.close()
    assert "[red]x" in text
    assert "[b]e" in text
