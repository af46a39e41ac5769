"""Figure 4: how many tokens PPO's clip determines, and how many ERC's band drops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.exhibits import Exhibit, Needs
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.seeds import column, over_seeds
from erc_bench.presentation.plots.style import DOTTED, INK, MUTED, WIDE, arm_style, name_text
from erc_bench.studies.arms import StoredArm

#: Shares of tokens in the paper's runs: clipped by PPO, dropped by ERC.
PAPER_BOUND, PAPER_DROPPED = 0.0002, 0.2029

BOUND, BAND, DROPPED = (
    "clip/ratio_bound_fraction",
    "drift/out_of_band_fraction",
    "gate/dropped_fraction",
)
#: By metric: marker, whether it is filled, offset from its row, legend.
_MARKS = {
    BOUND: ("o", False, 0.0, "clip determines the loss"),
    BAND: ("d", True, -0.14, "outside the entropy band"),
    DROPPED: ("x", True, 0.16, "dropped by the gate"),
}
POINTS = 20
COURSES = 3  # experiments that are shown over training
COURSE, WHOLE = "over training", "whole run"
_TICKS = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)
_REFERENCE: dict[str, Any] = {"color": MUTED, "linewidth": 0.8, "linestyle": DOTTED}


def table(frames: Frames) -> pd.DataFrame:
    """Shares of tokens over training and over whole runs, with 95 % intervals over seeds.

    Course: at most ``POINTS`` points, each the mean over the updates of one or more whole rollouts;
    bases have the share that their clip determines, gated arms the share dropped.
    """
    metrics = frames.metrics
    metrics = metrics.assign(**{name: column(metrics, name) for name in _MARKS})
    measured = metrics[metrics[[BOUND, BAND]].notna().any(axis=1)]["experiment"].unique()
    experiments = [e for e in frames.panels if e in measured]
    if not experiments:
        raise NothingToDraw(f"no values of {BOUND} or {BAND}")
    tables = []
    for place, experiment in enumerate(experiments):
        here = metrics[metrics["experiment"] == experiment]
        dropping = {str(name) for name in here.loc[here[DROPPED] > 0, "objective"].unique()}
        if place < COURSES:
            tables.append(_course(frames, experiment, here, dropping))
        for name in _MARKS:
            shown = here if name != DROPPED else here[here["objective"].isin(dropping)]
            found = over_seeds(shown, ["objective"], name)
            tables.append(found.assign(kind=WHOLE, experiment=experiment, metric=name))
    data = pd.concat(tables, ignore_index=True).dropna(subset=["estimate"])
    order = ["rollout", "estimate", "low", "high", "n", "kind", "experiment", "objective", "metric"]
    return data.reindex(columns=order)


def _course(
    frames: Frames, experiment: str, here: pd.DataFrame, dropping: set[str]
) -> pd.DataFrame:
    """The arms of pairs over training (all, where there are no pairs), in blocks of rollouts.

    Rollouts in which their run diverged are left out: half a rollout has half the drift.
    """
    width = math.ceil((int(here["rollout"].max()) + 1) / POINTS)
    failed = here.groupby(["objective", "seed", "rollout"])["diverged"].transform("any")
    paired = {name for pair in frames.pairs(experiment) for name in pair}
    shown = here[~failed.astype(bool)]
    shown = shown[shown["objective"].isin(paired or set(frames.arms(experiment)))]
    dropped = shown["objective"].isin(dropping)
    shown = shown.assign(
        share=shown[DROPPED].where(dropped, shown[BOUND]),
        rollout=shown["rollout"] // width * width + (width - 1) / 2,
        metric=dropped.map({True: DROPPED, False: BOUND}),
    )
    found = over_seeds(shown, ["objective", "metric", "rollout"], "share")
    return found.assign(kind=COURSE, experiment=experiment)


def draw(frames: Frames, data: pd.DataFrame) -> Figure:
    """Courses as curves and whole runs as rows, with the paper's two numbers as dotted lines."""
    experiments = list(dict.fromkeys(data["experiment"]))
    looks = frames.looks(n for e in experiments for n in frames.arms(e))
    figure, above, below = _panels(len(experiments), len(looks))
    course, whole = (data[data["kind"] == kind] for kind in (COURSE, WHOLE))
    for axes, experiment in zip(above, experiments, strict=False):
        draw_course(axes, course[course["experiment"] == experiment], frames.arms(experiment))
        axes.set_title(f"{name_text(experiment)}: course")
    for axes, experiment in zip(below, experiments, strict=True):
        draw_rows(axes, whole[whole["experiment"] == experiment], looks)
        axes.set_title(name_text(experiment))
        axes.tick_params(labelleft=layout.first_column(axes))
    metric_of = course.set_index("objective")["metric"].to_dict()
    entries = [
        (line, text + (": dropped" if metric_of[name] == DROPPED else ": clipped"))
        for name in looks
        if name in metric_of
        for line, text in layout.line_handles({name: looks[name]})
    ]
    entries += [
        (layout.mark(color=INK, marker=marker, markerfacecolor=INK if filled else "white"), text)
        for marker, filled, _, text in _MARKS.values()
    ]
    entries.append((Line2D([], [], **_REFERENCE), "paper: 0.02 % and 20.29 %"))
    layout.legend_below(figure, entries)
    return figure


def _panels(count: int, arms: int) -> tuple[Figure, list[Axes], list[Axes]]:
    """The courses of at most three experiments above, whole runs of all below, with common rows."""
    columns = min(count, COURSES)
    blocks = -(-count // columns)
    heights = [1.7] + [0.5 + 0.145 * arms] * blocks
    figure = layout.new_figure(WIDE, sum(heights) + 0.8)
    grid = figure.subplots(1 + blocks, columns, squeeze=False, height_ratios=heights)
    below = grid[1:].ravel().tolist()
    for axes in below[count:]:
        axes.remove()
    for axes in grid[0]:
        axes.set_xlabel("rollout")
    for axes in below[:count][-columns:]:
        axes.set_xlabel("tokens (%), mean over updates")
    return figure, list(grid[0]), below[:count]


def draw_course(axes: Axes, course: pd.DataFrame, arms: Mapping[str, StoredArm]) -> Axes:
    """The shares over training, one curve per arm of the table."""
    present = set(course["objective"])
    shown = {name: arm for name, arm in arms.items() if name in present}
    course = course.assign(low=course["low"].clip(lower=0))
    layout.curves(axes, course, "rollout", shown, scale=100, alpha=0.18)
    _share_axis(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.margins(x=0.01)
    if layout.first_column(axes):
        axes.set_ylabel("tokens (%)")
    return axes


def draw_rows(axes: Axes, whole: pd.DataFrame, arms: Mapping[str, StoredArm]) -> Axes:
    """A row per arm with a mark for each metric, whole runs with their intervals."""
    for place, (name, arm) in enumerate(arms.items()):
        for metric, (marker, filled, offset, _) in _MARKS.items():
            row = whole[(whole["objective"] == name) & (whole["metric"] == metric)]
            row = row.assign(low=row["low"].clip(lower=0), high=row["high"].clip(upper=1))
            face = arm_style(arm).color if filled else "white"
            style: dict[str, Any] = {"marker": marker, "markersize": 5, "mew": 1.2, "mfc": face}
            layout.marks(axes, row, [place + offset] * len(row), arm, scale=100, **style)
    _share_axis(axes, "x")
    axes.set_yticks(range(len(arms)), [name_text(n) for n in arms])
    layout.group_labels(axes.get_yticklabels(), arms.values())
    axes.set_ylim(len(arms) - 0.4, -0.6)
    return axes


def _share_axis(axes: Axes, which: str) -> None:
    """Logarithmic from 0.01 % on and linear below, with the paper's two shares as lines."""
    getattr(axes, f"set_{which}scale")("symlog", linthresh=0.01, linscale=0.6)
    getattr(axes, f"set_{which}lim")(-0.002, 130)
    getattr(axes, f"set_{which}ticks")(_TICKS, [f"{t:g}" for t in _TICKS])
    getattr(axes, f"{which}axis").set_minor_locator(NullLocator())
    line = axes.axhline if which == "y" else axes.axvline
    for value in (PAPER_BOUND, PAPER_DROPPED):
        line(100 * value, zorder=1, **_REFERENCE)


NEEDS = Needs(metrics=(BOUND, BAND, DROPPED))
FIGURE = Exhibit("4", "clip_fractions", "Clipped and dropped tokens", table, draw, NEEDS)
