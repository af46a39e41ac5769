import ast
import dataclasses
import inspect
import itertools
import math
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh

from erc_bench.analysis import median_interval, paired_difference
from erc_bench.analysis.numbers import ends, number
from erc_bench.presentation.plots import (
    FIGURES,
    NothingToDraw,
    arm_style,
    draw_all,
    exhibits,
    read,
    reading,
    seeds,
    style,
)
from erc_bench.presentation.plots import frames as frames_module
from erc_bench.presentation.plots.layout import power_text
from erc_bench.presentation.plots.reading import rounded
from erc_bench.presentation.plots.seeds import over_seeds, paired_over_seeds, runs_of
from erc_bench.presentation.reporting.captions import captioned
from erc_bench.presentation.reporting.words import WORDS
from erc_bench.studies.arms import parse, stored_arm
from plots.gallery import (
    BANDS,
    BASELINES,
    BITS,
    EPOCHS,
    JITTERS,
    NOISE_FLOOR,
    PANELS,
    RATES,
    STALENESS,
    WIDTHS,
    make_gallery,
)
from plots.test_plots_figures import assert_legible

SEEDS = 6
OURS = ("fig7_baselines", "fig8_phase_diagram", "fig8b_staleness", "fig10_band_and_noise")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_gallery(tmp_path_factory.mktemp("records") / "r", seeds=SEEDS, tokens=60)


@pytest.fixture(scope="module")
def frames(results):
    return read(results)


@pytest.fixture(scope="module")
def drawings(frames):
    return {name: drawn(name, frames) for name in FIGURES}


def drawn(name, frames):
    return captioned(FIGURES[name](frames), frames)


def final_rewards(frames, experiment, recipe, **hyper):
    """By seed, diverged runs as 0, read from the runs table without the code under test."""
    runs = frames.runs[frames.runs.experiment == experiment]
    runs = runs[[label.split(":")[0] == recipe for label in runs.objective]]
    for name, value in hyper.items():
        runs = runs[runs[f"hyper/{name}"] == value]
    return runs.set_index("seed")["reward/final"].where(~runs.set_index("seed").diverged, 0.0)


@pytest.mark.parametrize("name", FIGURES)
def test_with_all_experiments_no_text_overlaps_another_or_leaves_the_figure(drawings, name):
    assert_legible(drawings[name].figure)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_fits_a_page(drawings, name):
    """The width of a text block, and at most 9.3 inches high, with nine experiments too."""
    width, height = drawings[name].figure.get_size_inches()
    assert width <= 6.8
    assert height <= 9.3


def test_sweeps_and_tuned_arms_are_in_their_own_figures_alone(frames, drawings):
    assert frames.panels == list(PANELS)
    assert set(frames.metrics.experiment) == set(frames.tokens.experiment) == set(PANELS)
    for name in ("fig2_entropy_gradient", "fig3_learning_curves", "fig4_clip_fractions"):
        assert set(drawings[name].data.experiment) == set(PANELS)


def test_a_sweep_alone_is_drawn_in_figures_2_to_4(frames):
    """Somebody's own folder with nothing but a grid."""
    runs = frames.runs[frames.runs.experiment == "staleness"]
    assert dataclasses.replace(frames, runs=runs).panels == ["staleness"]


def test_baselines_are_medians_and_paired_differences_over_seeds(frames, drawings):
    data = drawings["fig7_baselines"].data.set_index(["value", "arm"])
    reference = final_rewards(frames, "baselines", "erc-dapo")
    for label, (reward, kl) in BASELINES.items():
        arm, _, settings = label.partition(":")
        rewards = final_rewards(frames, "baselines", arm)
        expected = median_interval(rewards)
        row = data.loc[("final_reward", arm)]
        assert row["estimate"] == pytest.approx(expected.estimate)
        assert row["low"] == pytest.approx(expected.low)
        assert row["estimate"] == pytest.approx(reward, abs=0.08)
        for width in (0.05, 0.1):  # equal ends of a pair are one setting
            settings = settings.replace(f"band_high={width},band_low={width}", f"band={width}")
        assert row["settings"] == settings
        assert data.loc[("mean/drift/kl_exact", arm), "estimate"] == pytest.approx(kl, rel=0.3)
        if arm != "erc-dapo":
            expected = paired_difference(reference, rewards)
            row = data.loc[("difference", arm)]
            got = row[["estimate", "low", "high", "n"]].to_numpy(float)
            np.testing.assert_allclose(got, dataclasses.astuple(expected))
    assert ("difference", "erc-dapo") not in data.index


def test_the_baselines_caption_has_the_datas_differences_and_settings(drawings):
    drawing = drawings["fig7_baselines"]
    table = drawing.data.set_index(["value", "arm"])
    for arm in ("dapo-kl", "gspo", "erc-directional-dapo"):
        row = table.loc[("difference", arm)]
        assert (
            f"{arm} {number(row['estimate'], signed=True)} ({ends(row['low'], row['high'], signed=True)})"
            in drawing.caption
        )
    assert "dapo-kl beta=0.1, learning_rate=0.002" in drawing.caption


def test_a_diverged_baseline_counts_as_reward_zero_and_is_named(frames):
    runs = frames.runs.copy()
    failed = runs.objective.str.startswith("gspo:") & (runs.seed == 1)
    runs.loc[failed, "diverged"] = True
    drawing = drawn("fig7_baselines", dataclasses.replace(frames, runs=runs))
    row = drawing.data.set_index(["value", "arm"]).loc[("final_reward", "gspo")]
    alive = runs.loc[runs.objective.str.startswith("gspo:") & ~failed, "reward/final"]
    assert row["estimate"] == pytest.approx(np.median([*alive, 0.0]))
    assert "Diverged runs: gspo 1." in drawing.caption


def test_every_cell_of_the_phase_diagram_is_the_paired_difference_at_its_setting(frames, drawings):
    data = drawings["fig8_phase_diagram"].data
    data = data[data.value == "final_reward"]
    assert len(data) == 2 * len(RATES) * len(EPOCHS) * len(BANDS)
    for _, cell in data.iterrows():
        at = {"learning_rate": cell.learning_rate, "epochs": cell.updates / 8}
        base = final_rewards(frames, "phase_diagram", "dapo", **at)
        other = final_rewards(frames, "phase_diagram", cell.objective, band_low=cell.band_low, **at)
        expected = dataclasses.astuple(paired_difference(base, other))
        np.testing.assert_allclose(cell[["estimate", "low", "high", "n"]].to_numpy(float), expected)


def test_the_phase_diagrams_drift_is_the_ratio_of_exact_kl(drawings):
    data = drawings["fig8_phase_diagram"].data
    ratios = np.exp(data[data.value == "log_kl_ratio"].groupby("objective")["estimate"].mean())
    assert ratios["erc-dapo"] == pytest.approx(1.5, rel=0.15)
    assert ratios["erc-directional-dapo"] == pytest.approx(0.5, rel=0.15)


def test_the_phase_diagrams_caption_counts_its_cells(drawings):
    drawing = drawings["fig8_phase_diagram"]
    reward = drawing.data[drawing.data.value == "final_reward"]
    for arm, cells in reward.groupby("objective"):
        higher, lower = int((cells.low > 0).sum()), int((cells.high < 0).sum())
        assert (
            f"{arm}: reward clearly higher than dapo's in {higher} of {len(cells)} cells, clearly "
            f"lower in {lower}"
        ) in drawing.caption


def test_cells_without_a_clear_difference_are_hatched(frames):
    """Equal rewards everywhere: every cell of the reward rows."""
    runs = frames.runs.assign(**{"reward/final": 0.5 + 0.01 * frames.runs.seed})
    figure = FIGURES["fig8_phase_diagram"](dataclasses.replace(frames, runs=runs)).figure
    panels = [
        axes for axes in figure.axes if any(isinstance(c, QuadMesh) for c in axes.collections)
    ]
    hatched = [sum(p.get_hatch() is not None for p in axes.patches) for axes in panels]
    assert hatched[: 2 * len(BANDS)] == [20] * (2 * len(BANDS))
    assert sum(hatched) < 20 * len(panels)


def test_one_update_per_rollout_has_reward_but_no_place_on_the_logarithm_of_kl(drawings):
    drawing = drawings["fig8b_staleness"]
    assert sorted(drawing.data.updates.unique()) == list(STALENESS)
    kl = drawing.data[drawing.data.value == "mean/drift/kl_exact"]
    assert (kl.loc[kl.updates == 1, "estimate"] == 0).all()
    at_most = drawing.data.set_index(["value", "objective", "updates"])
    median = at_most.loc[("final_reward", "erc-dapo", 64), "estimate"]
    assert re.search(rf"At 64 updates:.*erc-dapo {median:.3g} \(", drawing.caption)


def test_the_band_sweep_has_every_width_and_the_ungated_base_as_one_level(frames, drawings):
    data = drawings["fig10_band_and_noise"].data
    swept = data[(data.part == "beta_sweep") & (data.value == "final_reward")]
    erc = swept[swept.objective == "erc-dapo"]
    assert list(erc.half_width) == list(WIDTHS)
    for _, row in erc.iterrows():
        rewards = final_rewards(frames, "beta_sweep", "erc-dapo", band_high=row.half_width)
        assert row["estimate"] == pytest.approx(rewards.median())
    base = swept[swept.objective == "dapo"]
    assert len(base) == 1
    assert math.isnan(base.half_width.item())


def test_the_noise_floor_is_the_share_outside_without_an_update(drawings):
    drawing = drawings["fig10_band_and_noise"]
    data = drawing.data[(drawing.data.part == "precision")]
    outside = data[data.value == "mean/drift/out_of_band_fraction"].set_index(["bits", "jitter"])
    assert set(outside.index) == set(itertools.product(BITS, JITTERS))
    for bits in BITS:
        assert outside.loc[(bits, 0.0), "estimate"] == pytest.approx(NOISE_FLOOR[bits])
    dropped = drawing.data[drawing.data.part == "forking_tokens"]["estimate"].item()
    assert f"puts {100 * NOISE_FLOOR[8] / dropped:.3g} % as many outside" in drawing.caption
    labels = [t.get_text() for t in drawing.figure.legends[0].get_texts()]
    assert f"dropped by erc-dapo in forking_tokens: {100 * dropped:.3g} %" in labels


@pytest.mark.parametrize("only", ["beta_sweep", "precision"])
def test_half_of_figure_10_is_drawn_where_the_other_half_did_not_run(frames, only):
    runs = frames.runs[frames.runs.experiment == only]
    drawing = FIGURES["fig10_band_and_noise"](dataclasses.replace(frames, runs=runs))
    assert set(drawing.data.part) == {only}
    assert_legible(drawing.figure)


@pytest.mark.parametrize("name", OURS)
def test_one_seed_has_no_interval_and_still_draws(frames, name):
    one = dataclasses.replace(frames, runs=frames.runs[frames.runs.seed == 0])
    drawing = drawn(name, one)
    assert drawing.data["low"].isna().all()
    assert "nan" not in drawing.caption
    assert_legible(drawing.figure)


@pytest.mark.parametrize("name", OURS)
def test_without_its_experiment_a_figure_says_what_is_missing(frames, name):
    bare = dataclasses.replace(frames, runs=frames.runs[frames.runs.experiment == "stress"])
    with pytest.raises(NothingToDraw, match="no runs of the experiment"):
        FIGURES[name](bare)


def test_metrics_and_tokens_are_not_read_for_figures_of_runs(frames, drawings):
    bare = dataclasses.replace(frames, metrics=pd.DataFrame(), tokens=pd.DataFrame())
    for name in OURS:
        pd.testing.assert_frame_equal(FIGURES[name](bare).data, drawings[name].data)


def test_updates_per_rollout_are_minibatches_times_epochs(frames):
    """From the arm where it varies, else from the configuration."""
    assert set(runs_of(frames, "staleness").updates) == set(STALENESS)
    assert set(runs_of(frames, "phase_diagram").updates) == {8.0 * e for e in EPOCHS}
    assert set(runs_of(frames, "baselines").updates) == {8.0}


def test_paired_bands_pair_by_seed_and_leave_out_what_has_no_logarithm():
    a = pd.DataFrame({"seed": [0, 1, 2, 3], "x": 1, "v": [1.0, 2.0, 0.0, 4.0]})
    b = pd.DataFrame({"seed": [1, 0, 2, 5], "x": 1, "v": [6.0, 2.0, 1.0, 9.0]})
    difference = paired_over_seeds(a, b, ["x"], ["x"], "v").iloc[0]
    assert (difference["n"], difference["estimate"]) == (3, pytest.approx(1.0))
    ratio = paired_over_seeds(a, b, ["x"], ["x"], "v", log=True).iloc[0]
    assert (ratio["n"], math.exp(ratio["estimate"])) == (2, pytest.approx(math.sqrt(6)))


def test_repeated_runs_of_a_seed_are_one_observation():
    runs = pd.DataFrame({"arm": "a", "seed": [0, 0, 1], "v": [0.0, 2.0, 3.0]})
    row = over_seeds(runs, ["arm"], "v").iloc[0]
    assert (row["n"], row["estimate"]) == (2, 2.0)


def test_rounding_keeps_the_stated_digits_and_is_idempotent():
    x = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(-5, 5).repeat(100)
    for bits in (8, 15, 24):
        once = rounded(x, bits)
        assert np.abs(once / x - 1).max() <= 2.0**-bits * 1.01
        np.testing.assert_array_equal(rounded(once, bits), once)
        np.testing.assert_array_equal(once.astype(np.float32).astype(float), once)
    odd = np.array([0.0, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(rounded(odd, 9), odd)


def test_the_new_baselines_look_like_nobody_else():
    styles = [arm_style(stored_arm(parse(label).recipe.name)) for label in BASELINES]
    assert len({(s.color, s.marker) for s in styles}) == len(styles)


def test_powers_of_ten_are_ticks_a_reader_knows():
    assert [power_text(v) for v in (0.5, 0.02, 5e-4, 1e-4, 3e4)] == [
        "0.5",
        "0.02",
        "5·10⁻⁴",
        "10⁻⁴",
        "3·10⁴",
    ]


def test_what_is_skipped_of_all_15_experiments_is_nothing(frames):
    assert draw_all(frames)[1] == {}


def test_every_figure_has_its_words():
    assert set(WORDS) == {figure.topic for figure in FIGURES.values()}


@pytest.mark.parametrize("module", [reading, frames_module, exhibits, seeds, style])
def test_what_reads_the_records_imports_no_figure(module):
    """Columns and rows are declared by the figures, so that reading them stands below."""
    figures = {figure.table.__module__ for figure in FIGURES.values()}
    tree = ast.parse(inspect.getsource(module))
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not imported & figures


def test_a_figure_declares_the_columns_that_it_draws(results):
    """Without the declaration of a figure its columns are not read, and it says which is missing."""
    needs = [f.needs for name, f in FIGURES.items() if name != "fig2_entropy_gradient"]
    with pytest.raises(NothingToDraw, match="drift/entropy_new"):
        FIGURES["fig2_entropy_gradient"](reading.read_frames(results, needs))
