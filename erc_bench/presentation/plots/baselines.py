"""Figure 7: every tuned arm's final reward beside how far its updates went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from erc_bench.core.metrics import metric
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.exhibits import Exhibit
from erc_bench.presentation.plots.frames import Frames
from erc_bench.presentation.plots.seeds import KL, REWARD, over_seeds, paired_over_seeds, runs_of
from erc_bench.presentation.plots.style import (
    INK,
    MUTED,
    WIDE,
    arm_style,
    group_of,
    name_text,
    settings_text,
)
from erc_bench.studies.arms import StoredArm

EXPERIMENT, REFERENCE = "baselines", "erc-dapo"
HIDDEN = "mean/drift/hidden_violation_fraction"
DIFFERENCE = "difference"
#: Columns of the upper row: heading, factor, whether on a logarithmic axis.
_COLUMNS = {
    REWARD: (metric("reward/final").heading, 1.0, False),
    DIFFERENCE: (f"{metric('reward/final').label} − {REFERENCE}", 1.0, False),
    KL: (metric(KL).heading, metric(KL).scale, True),
    HIDDEN: (metric(HIDDEN).heading, metric(HIDDEN).scale, False),
}


def tuned(frames: Frames) -> pd.DataFrame:
    """The runs, with ``arm``: the recipe's name, or the whole label where a recipe has several."""
    runs = runs_of(frames, EXPERIMENT, [KL, HIDDEN])
    labels = runs.groupby("recipe")["objective"].transform("nunique")
    return runs.assign(arm=runs["recipe"].where(labels == 1, runs["objective"]))


def table(frames: Frames) -> pd.DataFrame:
    """Final reward, its paired difference to erc-dapo and drift of every tuned arm."""
    runs = tuned(frames)
    tables = [over_seeds(runs, ["arm"], v).assign(value=v) for v in (REWARD, KL, HIDDEN)]
    reference = runs["recipe"] == REFERENCE
    if runs.loc[reference, "arm"].nunique() == 1:
        paired = paired_over_seeds(runs[reference], runs[~reference], [], ["arm"], REWARD)
        tables.append(paired.assign(value=DIFFERENCE))
    data = pd.concat(tables, ignore_index=True)
    label = runs.drop_duplicates("arm").set_index("arm")["objective"]
    settings = {
        arm: settings_text(frames.arm(EXPERIMENT, str(name))) for arm, name in label.items()
    }
    failed = runs.groupby("arm")["diverged"].sum().astype(int)
    data = data.assign(settings=data["arm"].map(settings), diverged=data["arm"].map(failed))
    return data[["value", "arm", "settings", "estimate", "low", "high", "n", "diverged"]]


def draw(frames: Frames, data: pd.DataFrame) -> Figure:
    """Above: one row per arm, points are seeds, bars 95 % intervals. Below: reward against drift."""
    runs, arms = tuned(frames), frames.looks(data["arm"].unique())
    rows = 0.6 + 0.19 * len(arms)
    figure = layout.new_figure(WIDE, rows + 2.9)
    upper, lower = layout.parts(figure, (rows, 2.9))
    for axes, (value, (heading, scale, log)) in zip(
        upper.subplots(1, 4), _COLUMNS.items(), strict=True
    ):
        seeds = runs if value != DIFFERENCE else runs.iloc[:0]
        draw_rows(axes, data[data["value"] == value], seeds, arms, scale)
        axes.set_xlabel(heading)
        axes.tick_params(labelleft=value == REWARD)
        if value == DIFFERENCE:
            axes.axvline(0.0, color=INK, linewidth=0.8)
        if log:
            _log(axes)
    left, right = lower.subplots(1, 2, sharey=True)
    for axes, value in ((left, KL), (right, HIDDEN)):
        heading, scale, log = _COLUMNS[value]
        draw_trade_off(axes, data, value, arms, scale)
        axes.set_xlabel(f"{heading}, mean over updates")
        if log:
            _log(axes)
    left.set_ylabel(_COLUMNS[REWARD][0])
    layout.legend_below(
        figure, [(layout.mark(arm, markersize=5.5), name_text(n)) for n, arm in arms.items()]
    )
    return figure


def _log(axes: Axes) -> None:
    axes.set_xscale("log")
    layout.log_ticks(axes, "x")


def draw_rows(
    axes: Axes, rows: pd.DataFrame, seeds: pd.DataFrame, arms: dict[str, StoredArm], scale: float
) -> Axes:
    """One row per arm: seeds as faint points, mean and interval in front."""
    value = rows["value"].iloc[0] if len(rows) else ""
    for place, (name, arm) in enumerate(arms.items()):
        points = scale * seeds.loc[seeds["arm"] == name, value].to_numpy() if len(seeds) else []
        heights = place + 0.25 * np.sin(2.4 * np.arange(len(points)))  # fixed, and no two as one
        look: dict[str, Any] = {"color": arm_style(arm).color, "gid": group_of(arm)}
        axes.plot(points, heights, ".", ms=3.5, mew=0, alpha=0.35, **look)
        row = rows[rows["arm"] == name]
        layout.marks(axes, row, [place] * len(row), arm, scale=scale, elinewidth=2)
    axes.set_yticks(range(len(arms)), [name_text(name) for name in arms])
    layout.group_labels(axes.get_yticklabels(), arms.values())
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    return axes


def draw_trade_off(
    axes: Axes, data: pd.DataFrame, value: str, arms: Mapping[str, StoredArm], scale: float
) -> Axes:
    """Reward against drift, a cross of two intervals per arm."""
    by_value = data.set_index(["value", "arm"])
    for name, arm in arms.items():
        drift, reward = by_value.loc[[(value, name)]], by_value.loc[[(REWARD, name)]]
        style: dict[str, Any] = {"elinewidth": 1.0, "ecolor": arm_style(arm).color}
        layout.marks(axes, drift, reward["estimate"], arm, scale=scale, marker="", **style)
        style |= {"markersize": 6, "mec": "white", "mew": 0.5}
        layout.marks(axes, reward, scale * drift["estimate"], arm, along="y", **style)
    axes.set_title("better: up and to the left", fontsize=6.5, fontweight="normal", color=MUTED)
    return axes


FIGURE = Exhibit("7", "baselines", "Tuned baselines", table, draw)
