"""Figure 11: how scores are distributed over runs, and how likely a gate improves on its base."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from erc_bench.analysis.scores import OVERALL, Scores, improvements
from erc_bench.analysis.statistics import performance_profile
from erc_bench.presentation.plots.frames import Drawing, Frames, NothingToDraw
from erc_bench.presentation.plots.layout import legend_below, new_figure, sentence_list
from erc_bench.presentation.plots.scorecard import scores_of
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

__all__ = ["fig11_profiles"]

TAUS = np.linspace(0.0, 1.0, 201)
LINES = 7  # profiles in one panel
FOUND = 0.05  # adjusted p-value below which a marker is filled


@styled
def fig11_profiles(frames: Frames) -> Drawing:
    """Left: share of runs with score > tau, over the common experiments. Right: P(ERC arm > base)."""
    scores = scores_of(frames)
    names = _profiled(scores)
    if not names:
        raise NothingToDraw("no two objectives share an experiment that has scores")
    table = improvements(scores)
    rows = list(dict.fromkeys(table["experiment"])) if len(table) else []
    rows = [e for e in [*scores.experiments, OVERALL] if e in rows]
    figure = new_figure(WIDE, max(3.1, 0.8 + 0.32 * len(rows)) + 0.5)
    left, *right = figure.subplots(1, 2 if rows else 1, squeeze=False)[0]
    data = [_profiles(left, scores, names)]
    others = []
    if rows:
        others = ordered(table["objective"])
        _improvements(right[0], table, rows, others)
        data.append(table.assign(kind="improvement"))
    _legend(figure, names, others)
    frame = pd.concat(data, ignore_index=True)
    return Drawing(
        "fig11_profiles",
        "Performance profiles",
        figure,
        frame,
        _caption(scores, table),
        _notice(table),
    )


def _profiled(scores: Scores) -> list[str]:
    """Objectives in every common experiment; of too many, those of the pairs and PPO-clip first."""
    ranked = ordered(scores.ranked)
    if len(ranked) < 2:
        return []
    paired = {n for pair in gated_pairs(map(stored_arm, ranked)) for n in pair} | {"ppo-clip"}
    chosen = sorted(ranked, key=lambda n: n not in paired)[:LINES]
    return ordered(chosen)


def _profiles(axes: Axes, scores: Scores, names: Sequence[str]) -> pd.DataFrame:
    data = []
    for name in names:
        found = performance_profile(scores.strata(name, scores.common), TAUS)
        order = 3 if name.startswith("erc-") else 2
        axes.plot(found.taus, found.share, **line_of(name, zorder=order + 2))
        axes.fill_between(found.taus, found.low, found.high, color=arm_style(name).color,
                          alpha=0.12, linewidth=0, zorder=order, gid=group_of(name))  # fmt: skip
        data.append(
            pd.DataFrame({"tau": found.taus, "share": found.share, "low": found.low,
                          "high": found.high}).assign(kind="profile", objective=name)
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("score τ")
    axes.set_ylabel("share of runs with score > τ")
    count = len(scores.common)
    axes.set_title(
        "performance profiles, "
        + (f"{count} experiments" if count > 1 else name_text(scores.common[0]))
    )
    return pd.concat(data, ignore_index=True)


def _improvements(
    axes: Axes, table: pd.DataFrame, rows: Sequence[str], others: Sequence[str]
) -> None:
    step = 0.64 / max(len(others), 1)
    for place, other in enumerate(others):
        here = table[table["objective"] == other].set_index("experiment")
        style = arm_style(other)
        for row, experiment in enumerate(rows):
            if experiment not in here.index:
                continue
            y = row + (place - (len(others) - 1) / 2) * step
            point = here.loc[experiment]
            if math.isfinite(point["any/low"]):
                axes.plot([point["any/low"], point["any/high"]], [y, y], color=style.color,
                          linewidth=1.1, zorder=3, gid=group_of(other))  # fmt: skip
            filled = point["p_holm"] < FOUND
            axes.plot([point["any/value"]], [y], marker=style.marker, markersize=4.4, color=style.color,
                      markerfacecolor=style.color if filled else "white", markeredgewidth=0.9,
                      linestyle="none", zorder=4, clip_on=False, gid=group_of(other))  # fmt: skip
    axes.axvline(0.5, color=MUTED, linewidth=0.8, zorder=1)
    for row in range(1, len(rows)):
        axes.axhline(row - 0.5, color="#e4e4e4", linewidth=0.5, zorder=1)
    if OVERALL in rows:
        axes.axhline(len(rows) - 1.5, color=INK, linewidth=0.7, zorder=1)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [name_text(e.replace("_", " ")) for e in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    if OVERALL in rows:
        axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.set_xlabel("P(with the gate > without)")
    axes.set_title("probability of improvement")


def _legend(figure: Figure, names: Sequence[str], others: Sequence[str]) -> None:
    handles = [
        Line2D([], [], **line_of(n), marker=arm_style(n).marker if n in others else "",
               markersize=4.4)
        for n in names
    ]  # fmt: skip
    labels = [name_text(n) for n in names]
    for n in (n for n in others if n not in names):
        handles.append(Line2D([], [], **line_of(n), marker=arm_style(n).marker, markersize=4.4))
        labels.append(name_text(n))
    if others:
        for face, text in ((INK, f"p < {FOUND:g}, Holm"), ("white", f"p ≥ {FOUND:g}")):
            handles.append(Line2D([], [], color=INK, marker="o", linestyle="none", markersize=4.4,
                                  markerfacecolor=face, markeredgewidth=0.9))  # fmt: skip
            labels.append(text)
    legend_below(figure, handles, labels)


def _notice(table: pd.DataFrame) -> str:
    text = "A profile above another is better at that score; profiles that cross have no order."
    if table.empty:
        return text
    single = table[table["experiment"] != OVERALL]
    found = single[single["p_holm"] < FOUND]
    better, worse = (found["difference"] > 0).sum(), (found["difference"] < 0).sum()
    return (
        f"{text} On the right, a filled mark right of one half is an experiment in which the gate "
        f"helps: {better} of {len(single)} tests found it better, {worse} worse."
    )


def _caption(scores: Scores, table: pd.DataFrame) -> str:
    text = (
        "Left: share of runs that score above τ, averaged over "
        f"{sentence_list(scores.common)}; bands are pointwise 95 % stratified bootstrap intervals."
    )
    if table.empty:
        return text
    text += (
        " Right: probability that a run with the gate scores higher than a run without it, any seed "
        "of one against any of the other, ties one half, with 95 % stratified bootstrap intervals. "
        "Filled: the mean difference on the same seeds differs from 0 in a sign-flip test, p < "
        f"{FOUND:g} after Holm's correction for {len(table)} tests."
    )
    findings = []
    for base, other in dict.fromkeys(zip(table["base"], table["objective"], strict=True)):
        here = table[(table["base"] == base) & (table["objective"] == other)]
        whole = here[here["experiment"] == OVERALL]
        row = (whole if len(whole) else here).iloc[0]
        finding = f"{other} over {base}, {row['experiment']}: {row['any/value']:.2f}"
        if math.isfinite(row["any/low"]):
            finding += f" ({row['any/low']:.2f} to {row['any/high']:.2f})"
        single = here[(here["experiment"] != OVERALL) & (here["p_holm"] < FOUND)]
        better, worse = (single["difference"] > 0).sum(), (single["difference"] < 0).sum()
        tested = (here["experiment"] != OVERALL).sum()
        findings.append(f"{finding}; of {tested} experiments better in {better}, worse in {worse}.")
    return " ".join([text, *findings])
