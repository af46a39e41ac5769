"""Figure 9: every objective's score in every experiment, as radars and as a table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from erc_bench.analysis.scores import Scores
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.exhibits import Exhibit
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.style import (
    INK,
    MUTED,
    WIDE,
    arm_style,
    group_of,
    line_of,
    name_text,
    shade_of,
)
from erc_bench.studies.arms import StoredArm, gated_pairs

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
    for line in textwrap.wrap(words, width - 3, break_on_hyphens=False, break_long_words=False):
        parts = -(-len(line) // width)
        size = -(-len(line) // parts)
        pieces = [line[i : i + size] for i in range(0, len(line), size)]
        lines += [piece + "-" for piece in pieces[:-1]] + pieces[-1:]
    return "\n".join(lines)


def families(scores: Scores, looks: Mapping[str, StoredArm]) -> list[list[str]]:
    """Objectives of each radar: a base with its gated arms, where they share enough experiments.

    Without such a pair, up to four objectives that do.
    """
    pairs = gated_pairs(looks.values())
    found = []
    for base in dict.fromkeys(base for base, _ in pairs):
        arms = [base, *(other for b, other in pairs if b == base)]
        while len(arms) > 1 and len(scores.shared(arms)) < AXES:
            arms.pop()
        if len(arms) > 1:
            found.append(arms)
    found.sort(key=lambda arms: -len(scores.shared(arms)))  # stable: in the order of legends
    if not found:
        ranked = [name for name in looks if len(scores.ran(name)) >= AXES][:4]
        while ranked and len(scores.shared(ranked)) < AXES:
            ranked.pop()
        found = [ranked] if ranked else []
    return found[:RADARS]


def table(frames: Frames) -> pd.DataFrame:
    """Mean score with its interval per experiment and objective, and the interquartile means.

    The latter are over the common experiments, with their intervals; objectives that
    have one come first.
    """
    scores = scores_of(frames)
    if len(scores.experiments) < AXES:
        raise NothingToDraw(
            f"{len(scores.experiments)} experiments with scores; a radar needs {AXES}"
        )
    looks = frames.looks(scores.objectives)
    if not families(scores, looks):
        raise NothingToDraw(f"no objective ran in {AXES} experiments that have scores")
    names = sorted(looks, key=lambda name: name not in scores.ranked)
    rows = []
    for name in names:
        for experiment in scores.ran(name):
            i = scores.mean(experiment, name)
            rows.append(("mean", experiment, name, i.estimate, i.low, i.high, i.n))
    for name in (n for n in names if n in scores.ranked):
        e = scores.iqm(name)
        runs = sum(len(s) for s in scores.strata(name, scores.common))
        rows.append((IQM, " ".join(scores.common), name, e.value, e.low, e.high, runs))
    columns = ["kind", "experiment", "objective", "value", "low", "high", "runs"]
    return pd.DataFrame(rows, columns=columns)


def draw(frames: Frames, data: pd.DataFrame) -> Figure:
    """Mean scores with 95 % intervals: a radar per base and its gated arms, and a table of all."""
    scores = scores_of(frames)
    means = data[data["kind"] == "mean"].set_index(["experiment", "objective"])
    experiments = scores.experiments
    looks = frames.looks(scores.objectives)
    arms = {name: looks[name] for name in data["objective"].unique()}
    blocks = [experiments[i : i + COLUMNS] for i in range(0, len(experiments), COLUMNS)]
    header = max(wrapped(e).count("\n") + 1 for e in experiments)
    height = (0.27 * len(arms) + 0.11 * header + 0.3) * len(blocks)
    figure = layout.new_figure(WIDE, 3.0 + height + 0.35)
    upper, lower = layout.parts(figure, (3.0, height))
    radars = families(scores, looks)
    polar = upper.subplots(1, len(radars), subplot_kw={"projection": "polar"}, squeeze=False)[0]
    drawn = set()
    for axes, compared in zip(polar, radars, strict=True):
        room = len(compared) < 4 and REFERENCE not in compared and REFERENCE in looks
        names = [REFERENCE, *compared] if room else compared
        draw_radar(axes, means.loc[scores.shared(compared)], {n: looks[n] for n in names})
        drawn |= {*names}
    tables = lower.subplots(len(blocks), 1, squeeze=False)[:, 0]
    for axes, block in zip(tables, blocks, strict=True):
        cells = {e: means.loc[e] for e in block}
        if block is blocks[-1]:
            cells[IQM] = data[data["kind"] == IQM].set_index("objective")
        draw_table(axes, cells, arms)
    layout.legend_below(
        figure, layout.line_handles({n: a for n, a in looks.items() if n in drawn}, marked=True)
    )
    return figure


def draw_radar(axes: PolarAxes, means: pd.DataFrame, arms: Mapping[str, StoredArm]) -> PolarAxes:
    """One axis per experiment of the means, a closed line with its interval per objective.

    The reference is drawn thinner, without an interval; it need not have run everywhere.
    """
    experiments = list(dict.fromkeys(means.index.get_level_values("experiment")))
    angles = 2 * math.pi * np.arange(len(experiments)) / len(experiments)
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    closed = [*range(len(experiments)), 0]
    for name, arm in arms.items():
        found = means.reindex([(e, name) for e in experiments])
        mean, low, high = (found[end].to_numpy()[closed] for end in ("value", "low", "high"))
        plain = name == REFERENCE and len(arms) > 1
        size, width = (2.6, 0.9) if plain else (3.2, 1.2)
        line = line_of(arm, lw=width, marker=arm_style(arm).marker, ms=size)
        axes.plot(angles[closed], mean, zorder=3 if plain else 4, **line)
        if not plain and np.isfinite(low).all():
            axes.fill_between(angles[closed], low, high, **shade_of(arm, alpha=0.2, zorder=2))
    axes.set_ylim(0, 1)
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], ["", "0.5", "", "1"], fontsize=6, color=MUTED)
    axes.set_rlabel_position(math.degrees(angles[1]) / 2)
    axes.set_xticks(angles, [wrapped(e) for e in experiments], fontsize=6.5)
    axes.tick_params(axis="x", pad=1)
    for angle, label in zip(angles, axes.get_xticklabels(), strict=True):
        side, rise = math.sin(angle), math.cos(angle)
        label.set_horizontalalignment(
            "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
        )
        label.set_verticalalignment(
            "center" if abs(rise) < 0.5 else "bottom" if rise > 0 else "top"
        )
    axes.spines["polar"].set_color("#c8c8c8")
    return axes


def draw_table(
    axes: Axes, cells: Mapping[str, pd.DataFrame], arms: Mapping[str, StoredArm]
) -> Axes:
    """A column per experiment, and the interquartile mean apart; each row is its objective's group.

    Cells are a mesh of one row each and not one heat map, as a reader can hide an objective.
    """
    edges, centres = [-0.5], []
    for head in cells:
        if head == IQM:
            edges.append(edges[-1] + 0.15)
        edges.append(edges[-1] + (1.35 if head == IQM else 1))
        centres.append((edges[-1] + edges[-2]) / 2)
    for row, (name, arm) in enumerate(arms.items()):
        gid = group_of(arm)
        found = [table.loc[name] if name in table.index else None for table in cells.values()]
        shades = [
            math.nan if cell is None else float(np.clip(cell["value"], 0, 1)) for cell in found
        ]
        if IQM in cells:
            shades.insert(-1, math.nan)  # the gap before it
        look: dict[str, Any] = {
            "cmap": "Blues",
            "vmin": -0.047,
            "vmax": 1.116,
            "edgecolor": "white",
            "lw": 0.8,
        }
        axes.pcolormesh(edges, [row - 0.5, row + 0.5], [shades], gid=gid, **look)
        for x, cell in zip(centres, found, strict=True):
            if cell is not None:
                _write(axes, x, row, cell, gid)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.xaxis.tick_top()
    axes.set_xticks(centres, [wrapped(e) for e in cells], fontsize=6 if len(cells) < 10 else 5.6)
    axes.set_yticks(range(len(arms)), [name_text(n, 22) for n in arms], fontsize=6.5)
    layout.group_labels(axes.get_yticklabels(), arms.values())
    axes.tick_params(length=0, pad=2)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if IQM in cells:
        axes.get_xticklabels()[-1].set_fontweight("bold")
    return axes


def _write(axes: Axes, x: float, y: float, cell: pd.Series, gid: str) -> None:
    """A value, and below it the ends of its interval."""
    low, high = cell["low"], cell["high"]
    known = math.isfinite(low)
    ink = "white" if cell["value"] > 0.62 else INK
    style: dict[str, Any] = {"color": ink, "ha": "center", "va": "center", "gid": gid}
    axes.text(x, y - (0.17 if known else 0), f"{cell['value']:.3f}", fontsize=6.5, **style)
    if known:
        text = f"{low:.2f}–{high:.2f}"
        axes.text(x, y + 0.24, text, fontsize=5.4, **style)


FIGURE = Exhibit("9", "scorecard", "Scorecard", table, draw)
