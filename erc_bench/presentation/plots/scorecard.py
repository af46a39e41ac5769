"""Figure 9: every objective's score in every experiment, as radars and as a table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.projections.polar import PolarAxes

from erc_bench.analysis.scores import Scores
from erc_bench.analysis.statistics import Estimate, Interval
from erc_bench.presentation.plots.frames import Drawing, Frames, NothingToDraw
from erc_bench.presentation.plots.layout import (
    group_labels,
    legend_below,
    new_figure,
    sentence_list,
)
from erc_bench.presentation.plots.style import (
    INK,
    MUTED,
    WIDE,
    arm_style,
    group_of,
    line_of,
    name_text,
    ordered,
    styled,
)
from erc_bench.studies.arms import gated_pairs, stored_arm

__all__ = ["fig9_scorecard", "scores_of", "wrapped"]

AXES = 3  # a radar needs as many experiments
RADARS, COLUMNS = 2, 12  # at most so many radars, and columns in a table
REFERENCE = "ppo-clip"
IQM = "IQM"


def scores_of(frames: Frames) -> Scores:
    """The records' scores.

    Raises:
        NothingToDraw: there are none.
    """
    try:
        return Scores.of(frames.runs, frames.config)
    except LookupError as reason:
        raise NothingToDraw(str(reason)) from None


def wrapped(name: str, width: int = 11) -> str:
    """A name on short lines, broken between words; a word only above ``width`` characters."""
    words = name_text(name).replace("_", " ")
    lines: list[str] = []
    for line in textwrap.wrap(words, width - 2, break_on_hyphens=False, break_long_words=False):
        parts = -(-len(line) // width)
        size = -(-len(line) // parts)
        lines += [line[i : i + size] + "-" for i in range(0, len(line), size)]
        lines[-1] = lines[-1][:-1]
    return "\n".join(lines)


def families(scores: Scores) -> list[list[str]]:
    """Objectives of each radar: a base with its gated arms, where they share enough experiments.

    Without such a pair, up to four objectives that do.
    """
    pairs = gated_pairs(map(stored_arm, ordered(scores.objectives)))
    found = []
    for base in dict.fromkeys(base for base, _ in pairs):
        arms = [base, *(erc for b, erc in pairs if b == base)]
        while len(arms) > 1 and len(scores.shared(arms)) < AXES:
            arms.pop()
        if len(arms) > 1:
            found.append(arms)
    found.sort(key=lambda arms: -len(scores.shared(arms)))  # stable: in the order of legends
    if not found:
        ranked = [n for n in ordered(scores.objectives) if len(scores.ran(n)) >= AXES][:4]
        while ranked and len(scores.shared(ranked)) < AXES:
            ranked.pop()
        found = [ranked] if ranked else []
    return found[:RADARS]


@styled
def fig9_scorecard(frames: Frames) -> Drawing:
    """Mean scores with 95 % intervals: a radar per base and its gated arms, and a table of all.

    The table's last column is the interquartile mean over the common experiments with its
    stratified bootstrap interval.
    """
    scores = scores_of(frames)
    count = len(scores.experiments)
    if count < AXES:
        raise NothingToDraw(f"{count} experiments with scores; a radar needs {AXES}")
    radars = families(scores)
    if not radars:
        raise NothingToDraw(f"no objective ran in {AXES} experiments that have scores")
    names = sorted(ordered(scores.objectives), key=lambda n: n not in scores.ranked)
    blocks = [scores.experiments[i : i + COLUMNS] for i in range(0, count, COLUMNS)]
    header = max(wrapped(e).count("\n") + 1 for e in scores.experiments)
    table = 0.27 * len(names) + 0.11 * header + 0.3
    figure = new_figure(WIDE, 3.0 + table * len(blocks) + 0.35)
    halves = figure.subfigures(2, 1, squeeze=False, height_ratios=(3.0, table * len(blocks)))
    upper, lower = halves[:, 0]
    polar = upper.subplots(1, len(radars), subplot_kw={"projection": "polar"}, squeeze=False)[0]
    for axes, arms in zip(polar, radars, strict=True):
        _radar(axes, scores, arms)
    data = _data(scores, names)
    for axes, block in zip(
        lower.subplots(len(blocks), 1, squeeze=False)[:, 0], blocks, strict=True
    ):
        _table(axes, scores, names, block, last=block is blocks[-1])
    drawn = ordered(
        {n for axes, arms in zip(polar, radars, strict=True) for n in _shown(scores, arms)}
    )
    legend_below(figure, [Line2D([], [], **line_of(n), marker=arm_style(n).marker, markersize=4)
                          for n in drawn], [name_text(n) for n in drawn])  # fmt: skip
    return Drawing(
        "fig9_scorecard",
        "Scorecard",
        figure,
        data,
        _caption(frames, scores, names, data),
        _notice(scores, data),
    )


def _shown(scores: Scores, arms: Sequence[str]) -> list[str]:
    """A radar's objectives: its arms, and PPO-clip beside them where there is room."""
    room = len(arms) < 4 and REFERENCE not in arms and REFERENCE in scores.objectives
    return [REFERENCE, *arms] if room else list(arms)


def _radar(axes: PolarAxes, scores: Scores, arms: Sequence[str]) -> None:
    experiments = scores.shared(arms)
    angles = 2 * math.pi * np.arange(len(experiments)) / len(experiments)
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    closed = [*range(len(experiments)), 0]
    for name in _shown(scores, arms):
        found = [scores.mean(e, name) for e in experiments]
        mean, low, high = (
            np.array([getattr(i, end) for i in found]) for end in ("mean", "low", "high")
        )
        color = arm_style(name).color
        reference = name not in arms
        axes.plot(
            angles[closed], mean[closed], zorder=3 if reference else 4,
            **line_of(name, linewidth=0.9 if reference else 1.2),
            marker=arm_style(name).marker, markersize=2.6 if reference else 3.2,
        )  # fmt: skip
        if not reference and np.isfinite(low).all():
            axes.fill_between(
                angles[closed], np.clip(low[closed], 0, 1), np.clip(high[closed], 0, 1),
                color=color, alpha=0.2, linewidth=0, zorder=2, gid=group_of(name),
            )  # fmt: skip
    axes.set_ylim(0, 1)
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], ["", "0.5", "", "1"], fontsize=6, color=MUTED)
    axes.set_rlabel_position(math.degrees(angles[1]) / 2)
    axes.set_xticks(angles, [wrapped(e) for e in experiments], fontsize=6.5)
    axes.tick_params(axis="x", pad=1)
    for angle, label in zip(angles, axes.get_xticklabels(), strict=True):
        side = math.sin(angle)
        label.set_horizontalalignment(
            "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
        )
        height = math.cos(angle)
        label.set_verticalalignment(
            "center" if abs(height) < 0.5 else "bottom" if height > 0 else "top"
        )
    axes.spines["polar"].set_color("#c8c8c8")


def _table(
    axes: Axes, scores: Scores, names: Sequence[str], experiments: Sequence[str], last: bool
) -> None:
    width = len(experiments)
    for row, name in enumerate(names):
        for column, experiment in enumerate(experiments):
            _cell(axes, column, row, scores.mean(experiment, name), group_of(name))
        if last:
            _cell(axes, width + 0.15, row, scores.iqm(name), group_of(name), breadth=1.35)
    places, labels = [float(i) for i in range(width)], [wrapped(e) for e in experiments]
    if last:
        places, labels = [*places, width + 0.325], [*labels, IQM]
    axes.set_xlim(-0.5, width - 0.5 + (1.5 if last else 0))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.set_xticks(places, labels, fontsize=6 if width < 9 else 5.6)
    axes.set_yticks(range(len(names)), [name_text(n, 22) for n in names], fontsize=6.5)
    group_labels(axes.get_yticklabels(), names)
    axes.tick_params(length=0, pad=2)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if last:
        axes.get_xticklabels()[-1].set_fontweight("bold")


def _cell(
    axes: Axes, x: float, y: float, found: Interval | Estimate, gid: str, breadth: float = 1.0
) -> None:
    value = found.mean if isinstance(found, Interval) else found.value
    if not math.isfinite(value):
        return
    color = mpl.colormaps["Blues"](0.04 + 0.86 * min(max(value, 0.0), 1.0))
    axes.add_patch(
        Rectangle(
            (x - 0.5, y - 0.5),
            breadth,
            1,
            facecolor=color,
            edgecolor="white",
            linewidth=0.8,
            gid=gid,
        )
    )
    ink = "white" if value > 0.62 else INK
    centre = x - 0.5 + breadth / 2
    known = math.isfinite(found.low)
    axes.text(centre, y - (0.17 if known else 0), f"{value:.3f}", color=ink, fontsize=6.5,
              ha="center", va="center", gid=gid)  # fmt: skip
    if known:
        text = (
            f"±{found.half:.3f}"
            if isinstance(found, Interval)
            else f"{found.low:.3f}–{found.high:.3f}"
        )
        axes.text(centre, y + 0.24, text, color=ink, fontsize=5.4, ha="center", va="center",
                  gid=gid)  # fmt: skip


def _data(scores: Scores, names: Sequence[str]) -> pd.DataFrame:
    rows = []
    for name in names:
        for experiment in scores.ran(name):
            i = scores.mean(experiment, name)
            rows.append({"kind": "mean", "experiment": experiment, "objective": name,
                         "value": i.mean, "low": i.low, "high": i.high, "runs": i.n})  # fmt: skip
    for name in (n for n in names if n in scores.ranked):
        e = scores.iqm(name)
        runs = sum(len(s) for s in scores.strata(name, scores.common))
        rows.append({"kind": IQM, "experiment": " ".join(scores.common), "objective": name,
                     "value": e.value, "low": e.low, "high": e.high, "runs": runs})  # fmt: skip
    return pd.DataFrame(rows)


def _notice(scores: Scores, data: pd.DataFrame) -> str:
    text = (
        "An axis on which a solid line lies outside the broken one of its hue is an experiment that "
        "the gate helps; where the shaded intervals overlap, the order may be chance."
    )
    means = data[data["kind"] == "mean"].set_index(["experiment", "objective"])["value"]
    best = [str(means[e].idxmax()) for e in scores.experiments if e in means]
    counts = pd.Series(best).value_counts()
    leaders = sentence_list([f"{name} in {n}" for name, n in counts.head(3).items()])
    return f"{text} Most often highest in mean score, of {len(best)} experiments: {leaders}."


def _caption(frames: Frames, scores: Scores, names: Sequence[str], data: pd.DataFrame) -> str:
    text = (
        "Scores in [0, 1], 1 is best. Radars: mean and 95 % interval over seeds, in the experiments "
        "that the base and its gated arms share; the area means nothing, the order of the axes is "
        "arbitrary. Table: mean ± half of the 95 % Student-t interval."
    )
    iqm = data[data["kind"] == IQM]
    if len(iqm):
        text += (
            f" {IQM}: interquartile mean over all runs of {sentence_list(scores.common)}, with its "
            "95 % stratified bootstrap interval; empty for objectives that did not run in all of them."
        )
        best = iqm.loc[iqm["value"].idxmax()]
        text += f" Highest: {best['objective']}, {best['value']:.3f}"
        if math.isfinite(best["low"]):
            text += f" ({best['low']:.3f} to {best['high']:.3f})"
            others = iqm[(iqm["objective"] != best["objective"]) & (iqm["high"] >= best["low"])]
            if len(others):
                text += f"; its interval overlaps that of {sentence_list([*others['objective']])}"
        text += "."
    failed = frames.runs[frames.runs["diverged"].astype(bool)]
    failed = failed[failed["experiment"].isin(scores.experiments)]
    if len(failed):
        text += f" {len(failed)} diverged runs count as score 0."
    return text
