import dataclasses
import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from analysis.synthetic import ARMS, make_results, make_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from erc_bench.analysis import median_interval
from erc_bench.objectives import RECIPES
from erc_bench.presentation.plots import (
    FIGURES,
    NothingToDraw,
    arm_style,
    draw_all,
    ordered,
    read,
)
from erc_bench.presentation.plots.one_update import choose_token
from erc_bench.presentation.plots.seeds import over_seeds
from erc_bench.presentation.plots.style import COLORS, name_text
from erc_bench.presentation.reporting.files import figure_bytes
from erc_bench.studies.arms import StoredArm, stored_arm
from erc_bench.studies.records import Results


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "r"
    experiments = ("unsampled_shift", "forking_tokens", "entropy_null")
    return read(
        make_results(path, experiments=experiments, seeds=6, tokens=120, diverged=(("gppo", 1),))
    )


#: Figures of experiments that the small records here lack; see test_plots_gallery.py.
OWN_EXPERIMENT = {
    "fig7_baselines",
    "fig8_phase_diagram",
    "fig8b_staleness",
    "fig10_band_and_noise",
}
ORDINARY = [name for name in FIGURES if name not in OWN_EXPERIMENT]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "r"
    arms = ("ppo-clip", "dapo", "erc-dapo")
    experiments = ("e", "f", "g")
    return read(make_results(path, experiments=experiments, arms=arms, seeds=2, tokens=60))


@pytest.fixture(scope="module")
def drawings(frames):
    drawn, skipped = draw_all(frames)
    assert set(skipped) == OWN_EXPERIMENT
    return {d.name: d for d in drawn}


def boxes(figure):
    """Bounding boxes of all texts that are drawn, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    unseen = set()  # labels of ticks outside the axis are kept but not drawn
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    unseen |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in unseen:
            box = text.get_window_extent(canvas.get_renderer())
            if box.width > 2 and box.height > 2:
                yield text.get_text(), box.padded(-1)


def assert_legible(figure):
    found = list(boxes(figure))
    page = figure.bbox
    for i, (name, box) in enumerate(found):
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, f"{name!r} leaves the figure"
        for other, box2 in found[i + 1 :]:
            assert not box.overlaps(box2), f"{name!r} overlaps {other!r}"


@pytest.mark.parametrize("name", ORDINARY)
def test_no_text_overlaps_another_or_leaves_the_figure(drawings, name):
    assert_legible(drawings[name].figure)


@pytest.mark.parametrize("count", [1, 4])
def test_figures_stay_legible_with_other_numbers_of_experiments(tmp_path, count):
    names = ("unsampled_shift", "forking_tokens", "entropy_null", "rare_reward", "mode_swap")
    results = make_results(tmp_path / "r", experiments=names[:count], seeds=2, tokens=60)
    for drawing in draw_all(read(results))[0]:
        assert_legible(drawing.figure)


def test_ten_objectives_one_seed_and_hostile_names_draw(tmp_path):
    arms = (
        "ppo-clip",
        "grpo",
        "dapo",
        "gppo",
        "erc-dapo",
        "erc-gppo",
        "gspo",
        "cispo",
        "$x_{",
        "_<script>" * 9,
    )
    results = make_results(
        tmp_path / "r",
        experiments=("$\\frac",),
        arms=arms,
        seeds=1,
        tokens=60,
        diverged=(("dapo", 0),),
    )
    for drawing in draw_all(read(results))[0]:
        assert_legible(drawing.figure)


def test_what_cannot_be_drawn_is_named_with_the_reason(tmp_path):
    results = make_results(tmp_path / "r", experiments=("e",), arms=("reinforce",), seeds=2)
    drawn, skipped = draw_all(read(results))
    assert {"fig1_one_update", "fig5_probability_entropy", "fig9_scorecard"} <= set(skipped)
    assert {"fig2_entropy_gradient", "fig3_learning_curves"} <= {d.name for d in drawn}
    assert all(skipped.values())


def test_missing_columns_raise_nothing_to_draw(frames):
    bare = dataclasses.replace(
        frames,
        metrics=frames.metrics.drop(
            columns=["drift/entropy_new", "clip/ratio_bound_fraction", "drift/out_of_band_fraction"]
        ),
        tokens=frames.tokens.drop(columns=["probs/old", "probs/new"]),
    )
    _, skipped = draw_all(bare)
    assert set(skipped) - OWN_EXPERIMENT == {
        "fig1_one_update",
        "fig2_entropy_gradient",
        "fig4_clip_fractions",
    }
    with pytest.raises(NothingToDraw, match="drift/entropy_new"):
        FIGURES["fig2_entropy_gradient"](bare)


def test_runs_that_all_diverged_still_draw_and_say_so(tmp_path):
    results = make_results(
        tmp_path / "r",
        experiments=("e",),
        arms=("dapo",),
        seeds=2,
        diverged=(("dapo", 0), ("dapo", 1)),
    )
    drawing = FIGURES["fig3_learning_curves"](read(results))
    labels = [t.get_text() for t in drawing.figure.legends[0].get_texts()]
    assert "dapo (2/2 diverged)" in labels


def test_entropy_curve_data_equal_the_records(frames, drawings):
    data = drawings["fig2_entropy_gradient"].data
    curve = data[
        (data.experiment == "forking_tokens")
        & (data.objective == "erc-dapo")
        & (data.metric == "drift/entropy_new")
    ]
    m = frames.metrics
    arm = m[(m.experiment == "forking_tokens") & (m.objective == "erc-dapo")]
    per_rollout = arm.groupby(["rollout", "seed"])["drift/entropy_new"].mean().unstack()
    np.testing.assert_allclose(curve["estimate"], per_rollout.median(axis=1))
    expected = [median_interval(r) for _, r in per_rollout.iterrows()]
    np.testing.assert_allclose(curve["low"], [i.low for i in expected])
    np.testing.assert_allclose(curve["update"], np.arange(20) * 8 + 3.5)


def test_learning_curve_data_equal_the_records_and_a_diverged_run_has_return_zero(frames, drawings):
    data = drawings["fig3_learning_curves"].data
    m = frames.metrics
    for objective in ("dapo", "gppo"):
        curve = data[(data.experiment == "unsampled_shift") & (data.objective == objective)]
        arm = m[(m.experiment == "unsampled_shift") & (m.objective == objective)]
        wide = arm.drop_duplicates(["seed", "rollout"]).pivot(
            index="rollout", columns="seed", values="reward/mean"
        )
        np.testing.assert_allclose(curve["estimate"], wide.fillna(0.0).median(axis=1))
        np.testing.assert_allclose(curve["tokens"], (np.arange(20) + 1) * 768)


def test_seeds_with_other_token_counts_are_interpolated(tmp_path):
    results = Results.create(tmp_path / "r", {})
    runs = [make_run("e", "dapo", seed, 20) for seed in range(2)]
    runs[1]["metrics"]["tokens"] *= 2
    for run in runs:
        run["metrics"]["reward/mean"] = run["metrics"]["tokens"] / 1e5  # linear in tokens
    results.write_part("0", {t: pd.concat([r[t] for r in runs]) for t in runs[0]})
    data = FIGURES["fig3_learning_curves"](read(results)).data
    assert data["tokens"].iloc[0] == 2 * 768
    assert data["tokens"].iloc[-1] == 20 * 768
    np.testing.assert_allclose(data["estimate"], data["tokens"] / 1e5)


def test_clip_figure_medians_equal_the_records(frames, drawings):
    data = drawings["fig4_clip_fractions"].data
    whole = data[(data.kind == "whole run") & (data.experiment == "unsampled_shift")]
    m = frames.metrics
    for _, point in whole.iterrows():
        arm = m[(m.experiment == "unsampled_shift") & (m.objective == point.objective)]
        assert point["estimate"] == pytest.approx(arm.groupby("seed")[point.metric].mean().median())
    assert set(whole.loc[whole.metric == "gate/dropped_fraction", "objective"]) == {
        "erc-dapo",
        "erc-gppo",
    }


def test_figure_1_shows_a_token_that_the_stated_rule_picks(frames, drawings):
    experiment, objective, token, arm = choose_token(frames)
    assert (experiment, objective) == ("unsampled_shift", "ppo-clip")
    late = arm[(arm.staleness >= arm.staleness.max() / 2) & (arm.kl_exact > 0.01)]
    late = late[(np.exp(late.log_ratio) >= 0.8) & (np.exp(late.log_ratio) <= 1.28)]
    p, edges = late["prob/old"], (0.8, 1.28)
    with np.errstate(invalid="ignore"):
        kl = [p * np.log(1 / r) + (1 - p) * np.log((1 - p) / (1 - p * r)) for r in edges]
    excess = late[(1.28 * p < 1) & (late.kl_exact > np.maximum(*kl))]
    late = excess if len(excess) else late
    hidden = late["tv"] - late["prob/old"] * (np.exp(late.log_ratio) - 1).abs()
    old, new = (np.asarray(token[f"probs/{when}"]) for when in ("old", "new"))
    moved = np.abs(old - new)
    assert moved.sum() / 2 - moved[int(token["action"])] == pytest.approx(
        hidden.sort_values().iloc[(len(late) - 1) // 2], abs=1e-6
    )
    data = drawings["fig1_one_update"].data
    bars = data[data.panel == "distribution"]
    assert bars["prob_old"].sum() == pytest.approx(1.0)
    assert bars["prob_new"].sum() == pytest.approx(1.0)
    assert bars.loc[bars.sampled.astype(bool), "prob_old"].item() == token["prob/old"]
    points = data[data.panel == "tokens"]
    assert len(points) == len(arm)


def test_ratio_figure_regions_are_the_rules(drawings):
    data = drawings["fig6_ratios"].data
    ratio, rho = np.exp(data.log_ratio), np.exp(data.log_entropy_ratio)
    clip = (ratio < 0.8) | (ratio > 1.28)
    outside = (rho <= 0.95) | (rho >= 1.05)
    assert ((data.region == "outside both") == (clip & outside)).all()
    assert ((data.region == "outside band only") == (~clip & outside)).all()
    assert set(data.objective) == {"dapo"}


def test_intervals_over_seeds_are_those_of_the_analysis_and_few_seeds_have_none():
    values = np.random.default_rng(0).normal(size=(8, 4))
    values[2, 1] = np.nan
    values[2:, 2] = np.nan
    values[1:, 3] = np.nan
    seed, group = np.indices(values.shape)
    table = pd.DataFrame({"seed": seed.ravel(), "group": group.ravel(), "v": values.ravel()})
    ends = ["estimate", "low", "high", "n"]
    found = over_seeds(table, ["group"], "v")
    for column, row in found.iterrows():
        expected = dataclasses.astuple(median_interval(values[:, column]))
        np.testing.assert_allclose(row[ends].to_numpy(float), expected)
    assert found["low"].isna().to_list() == [False, False, True, True]


def test_settings_are_read_defensively(frames):
    odd = dataclasses.replace(frames, config={"experiments": {"e": {"clip": None, "band": 3}}})
    assert odd.bounds("e") == odd.bounds("nowhere")
    assert dataclasses.replace(frames, config={}).bounds("e").band == (0.05, 0.05)


@pytest.mark.parametrize("name", ORDINARY)
def test_two_drawings_have_the_same_bytes(small, name):
    one, two = (figure_bytes(FIGURES[name](small).figure, "svg") for _ in range(2))
    assert one == two
    assert b"<dc:date>" not in one


def test_a_figure_does_not_depend_on_the_callers_settings_or_change_them(small):
    expected = figure_bytes(FIGURES["fig3_learning_curves"](small).figure, "svg")
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "svg.hashsalt": "else"}):
        before = dict(mpl.rcParams)
        got = figure_bytes(FIGURES["fig3_learning_curves"](small).figure, "svg")
        assert dict(mpl.rcParams) == before
    assert got == expected


def linear(color):
    c = np.array(mpl.colors.to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    white = xyz @ np.ones(3)
    f = np.cbrt(np.clip(xyz @ rgb, 1e-6, None) / white)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


#: Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
}


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_the_main_objectives_can_be_told_apart_without_full_colour_vision(kind):
    names = [*ARMS, "grpo"]
    seen = [
        lab(np.clip(np.array(DEFICIENCIES[kind]) @ linear(arm_style(stored_arm(n)).color), 0, 1))
        for n in names
    ]
    for i, a in enumerate(names):
        for j in range(i):
            assert np.linalg.norm(seen[i] - seen[j]) > 14, (a, names[j])


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_every_recipe_has_a_fixed_look_of_its_own(kind):
    """None borrows the look of an unknown name. As lines any two differ in dashes or clearly in
    colour, and as points in marker or colour, also without full colour vision.
    """
    seen = {
        n: lab(np.clip(np.array(DEFICIENCIES[kind]) @ linear(arm_style(stored_arm(n)).color), 0, 1))
        for n in RECIPES
    }
    for a, b in itertools.combinations(RECIPES, 2):
        one, two = arm_style(stored_arm(a)), arm_style(stored_arm(b))
        apart = np.linalg.norm(seen[a] - seen[b]) > 10
        assert apart or one.dash != two.dash, (a, b)
        assert apart or one.marker != two.marker, (a, b)


@pytest.mark.parametrize("name", RECIPES)
def test_a_registered_recipe_has_a_colour(name):
    """Of its own, or of the base that it gates; another would look like somebody's unknown one."""
    arm = stored_arm(name)
    found = name in COLORS or (arm.gates and arm.base in COLORS)
    assert found, f"give {name} a row in COLORS of erc_bench/presentation/plots/style.py"


def test_a_style_asks_what_an_arm_is_made_of_not_what_it_is_called():
    for name in ("erc-dapo", "erc-directional-dapo"):
        known = stored_arm(name)
        assert arm_style(dataclasses.replace(known, label="x", recipe="mine")) == arm_style(known)
    unknown = arm_style(StoredArm("erc-dapo", "erc-x", "erc-x"))
    assert unknown.color not in {color for row in COLORS.values() for color in row[:2]}


def test_an_erc_arm_is_darker_than_its_base_also_in_grey_and_has_a_solid_line():
    for base in ("ppo-clip", "grpo", "dapo", "gppo", "ce-gppo", "gspo", "cispo", "reinforce"):
        band = StoredArm("any name", "any name", base, ("EntropyRatio",), (0.05, 0.05))
        plain, gated = arm_style(stored_arm(base)), arm_style(band)
        assert lab(linear(plain.color))[0] - lab(linear(gated.color))[0] > 20
        assert gated.dash == "-"
        assert plain.dash != "-"


def test_styles_and_order_are_fixed():
    assert arm_style(stored_arm("dapo")).color == "#56b4e9"
    assert arm_style(stored_arm("erc-dapo")).color == "#00508c"
    assert arm_style(stored_arm("somebody's own")) == arm_style(stored_arm("somebody's own"))
    names = ["zzz", "erc-gppo", "gppo", "erc-dapo", "dapo", "ppo-clip", "aaa"]
    assert [arm.label for arm in ordered(map(stored_arm, names))] == [
        "ppo-clip",
        "dapo",
        "erc-dapo",
        "gppo",
        "erc-gppo",
        "aaa",
        "zzz",
    ]


def test_names_are_text_not_mathematics():
    assert name_text("$x$") == r"\$x\$"
    assert name_text("_hidden") == " _hidden"
    assert len(name_text("x" * 99)) == 26
    assert name_text("dapo:minibatches=4,learning_rate=0.001") == "dapo:mb=4,lr=0.001"
