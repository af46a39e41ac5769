"""Figure 4: how many tokens PPO's clip determines, and how many ERC's band drops."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from erc_bench.presentation.plots.frames import Drawing, Frames, NothingToDraw, drawn_band
from erc_bench.presentation.plots.layout import (
    first_column,
    group_labels,
    legend_below,
    new_figure,
    percent,
    plus_minus,
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
    pairs,
    styled,
)

__all__ = ["PAPER_BOUND", "PAPER_DROPPED", "fig4_clip_fractions"]

#: Shares of tokens in the paper's runs: clipped by PPO, dropped by ERC.
PAPER_BOUND, PAPER_DROPPED = 0.0002, 0.2029

BOUND, BAND, DROPPED = (
    "clip/ratio_bound_fraction",
    "drift/out_of_band_fraction",
    "gate/dropped_fraction",
)
_MARKS = {
    BOUND: ("o", "white", "clip determines the loss"),
    BAND: ("d", "same", "outside the entropy band"),
    DROPPED: ("x", "same", "dropped by the gate"),
}
POINTS = 20
FEW = 3  # experiments that have a row of their own
_OFFSET = {BOUND: 0.0, BAND: -0.14, DROPPED: 0.16}  # rows are 1 apart
_TICKS = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)


def _arms(here: pd.DataFrame, metric: str) -> list[str]:
    """Objectives with any value of a metric above 0, or with a clip that never bound."""
    finite = here[np.isfinite(here[metric])]
    if metric == DROPPED:
        finite = finite[finite[metric] > 0]
    return ordered(finite["objective"])


def _axis(axes: Axes, which: str) -> None:
    getattr(axes, f"set_{which}scale")("symlog", linthresh=0.01, linscale=0.6)
    getattr(axes, f"set_{which}lim")(-0.002, 130)
    getattr(axes, f"set_{which}ticks")(_TICKS, [f"{t:g}" for t in _TICKS])
    getattr(axes, f"{which}axis").set_minor_locator(NullLocator())


@styled
def fig4_clip_fractions(frames: Frames) -> Drawing:
    """Share of tokens over training and over whole runs, with the paper's two numbers as lines.

    Curves: at most ``POINTS`` points, each the mean over the updates of one or more whole rollouts;
    bases show the share that their clip determines, gated arms the share dropped. Rows: means over
    all updates with 95 % intervals.
    """
    metrics = frames.metrics.reindex(
        columns=[*frames.metrics.columns.union([BOUND, BAND, DROPPED])]
    )
    experiments = [
        e
        for e in frames.panels
        if np.isfinite(metrics.loc[metrics["experiment"] == e, [BOUND, BAND]]).any().any()
    ]
    if not experiments:
        raise NothingToDraw(f"no values of {BOUND} or {BAND}")
    layout = _rows if len(experiments) <= FEW else _grid
    figure, over_training, whole_runs = layout(experiments, frames)
    data: list[pd.DataFrame] = []
    by_name = {e: metrics[metrics["experiment"] == e] for e in experiments}
    for experiment, axes in over_training.items():
        _over_training(axes, by_name[experiment], data)
        axes.set_title(name_text(experiment) + (": course" if layout is _grid else ""))
    every = ordered({arm for e in experiments for arm in frames.arms(e)})
    for experiment, axes in whole_runs.items():
        here = by_name[experiment]
        _whole_runs(axes, here, every if layout is _grid else ordered(here["objective"]), data)
        if layout is _grid:
            axes.set_title(name_text(experiment))
            axes.tick_params(labelleft=first_column(axes))
    drawn = ordered(
        {n for d in data if d["kind"].iloc[0] == "over training" for n in d["objective"]}
    )
    handles = [Line2D([], [], **line_of(n)) for n in drawn]
    labels = [name_text(n) + (": dropped" if n.startswith("erc-") else ": clipped") for n in drawn]
    for marker, face, text in _MARKS.values():
        handles.append(
            Line2D([], [], color=INK, marker=marker, linestyle="none", markersize=5,
                   markerfacecolor="white" if face == "white" else INK)
        )  # fmt: skip
        labels.append(text)
    handles.append(Line2D([], [], color=MUTED, linewidth=0.8, linestyle=(0, (1, 1.5))))
    labels.append("paper: 0.02 % and 20.29 %")
    legend_below(figure, handles, labels)
    frame = pd.concat(data, ignore_index=True)
    return Drawing(
        "fig4_clip_fractions",
        "Clipped and dropped tokens",
        figure,
        frame,
        _caption(frame),
        _notice(frame),
    )


def _rows(
    experiments: list[str], frames: Frames
) -> tuple[Figure, dict[str, Axes], dict[str, Axes]]:
    """Each experiment in a row of its own: over training on the left, whole runs on the right."""
    rows = max(len(frames.arms(e)) for e in experiments)
    figure = new_figure(WIDE, max(2.1, 0.6 + 0.2 * rows) * len(experiments) + 0.7)
    grid = figure.subplots(len(experiments), 2, squeeze=False, width_ratios=(1, 1.05))
    grid[-1, 0].set_xlabel("rollout")
    grid[-1, 1].set_xlabel("tokens (%), mean over all updates")
    return figure, dict(zip(experiments, grid[:, 0], strict=True)), dict(
        zip(experiments, grid[:, 1], strict=True)
    )  # fmt: skip


def _grid(
    experiments: list[str], frames: Frames
) -> tuple[Figure, dict[str, Axes], dict[str, Axes]]:
    """The first three experiments over training, then whole runs of all, with common rows."""
    arms = len({arm for e in experiments for arm in frames.arms(e)})
    blocks = math.ceil(len(experiments) / 3)
    heights = [1.7] + [0.5 + 0.145 * arms] * blocks
    figure = new_figure(WIDE, sum(heights) + 0.8)
    grid = figure.subplots(1 + blocks, 3, squeeze=False, height_ratios=heights)
    below = grid[1:].ravel().tolist()
    for axes in below[len(experiments) :]:
        axes.remove()
    for axes in grid[0]:
        axes.set_xlabel("rollout")
    whole_runs = dict(zip(experiments, below, strict=False))
    for axes in list(whole_runs.values())[-3:]:
        axes.set_xlabel("tokens (%), mean over updates")
    return figure, dict(zip(experiments, grid[0], strict=False)), whole_runs


def _whole_rollout(here: pd.DataFrame) -> pd.Series:
    """Updates of rollouts in which their run did not diverge: half a rollout has half the drift."""
    failed = here["diverged"].astype(bool)
    return ~failed.groupby([here["objective"], here["seed"], here["rollout"]]).transform("any")


def _over_training(axes: Axes, here: pd.DataFrame, data: list[pd.DataFrame]) -> None:
    arms = ordered(here["objective"])
    with_sibling = {n for pair in pairs(arms) for n in pair} or set(arms)
    dropping = set(_arms(here, DROPPED))
    for name in arms:
        if name not in with_sibling:
            continue
        metric = DROPPED if name in dropping else BOUND
        arm = here[(here["objective"] == name) & _whole_rollout(here) & np.isfinite(here[metric])]
        if arm.empty:
            continue
        width = math.ceil((int(here["rollout"].max()) + 1) / POINTS)
        wide = arm.assign(block=arm["rollout"] // width).pivot_table(
            index="seed", columns="block", values=metric
        )
        curve = drawn_band(wide.to_numpy())
        curve.insert(0, "rollout", wide.columns.to_numpy() * width + (width - 1) / 2)
        axes.plot(curve["rollout"], 100 * curve["mean"], **line_of(name, zorder=4))
        shaded = curve.dropna(subset=["low"])
        axes.fill_between(
            shaded["rollout"], 100 * shaded["low"].clip(lower=0), 100 * shaded["high"],
            color=arm_style(name).color, alpha=0.18, linewidth=0, zorder=2, gid=group_of(name),
        )  # fmt: skip
        data.append(
            curve.assign(
                kind="over training", experiment=here["experiment"].iloc[0], objective=name,
                metric=metric,
            )
        )  # fmt: skip
    _axis(axes, "y")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.margins(x=0.01)
    if first_column(axes):
        axes.set_ylabel("tokens (%)")
    for value in (PAPER_BOUND, PAPER_DROPPED):
        axes.axhline(100 * value, color=MUTED, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)


def _whole_runs(axes: Axes, here: pd.DataFrame, arms: list[str], data: list[pd.DataFrame]) -> None:
    for place, name in enumerate(arms):
        arm = here[here["objective"] == name]
        for metric, (marker, face, _) in _MARKS.items():
            if metric == DROPPED and name not in _arms(here, DROPPED):
                continue
            per_seed = arm.groupby("seed")[metric].mean().dropna()
            if per_seed.empty:
                continue
            point = drawn_band(per_seed.to_numpy()[:, None])
            row = point.iloc[0]
            color = arm_style(name).color
            y = place + _OFFSET[metric]
            if math.isfinite(row["low"]):
                axes.plot(100 * np.clip([row["low"], row["high"]], 0, 1), [y, y], color=color,
                          linewidth=2.2, alpha=0.5, solid_capstyle="butt", gid=group_of(name))  # fmt: skip
            axes.plot([100 * row["mean"]], [y], marker=marker, markersize=5, color=color,
                      markerfacecolor="white" if face == "white" else color,
                      markeredgewidth=1.2, linestyle="none", zorder=4, gid=group_of(name))  # fmt: skip
            data.append(
                point.assign(
                    kind="whole run", experiment=here["experiment"].iloc[0], objective=name,
                    metric=metric,
                )
            )  # fmt: skip
    _axis(axes, "x")
    axes.set_yticks(range(len(arms)), [name_text(n) for n in arms])
    group_labels(axes.get_yticklabels(), arms)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    for value in (PAPER_BOUND, PAPER_DROPPED):
        axes.axvline(100 * value, color=MUTED, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)


def _notice(data: pd.DataFrame) -> str:
    text = (
        "The distance between an open circle (clip) and a diamond (band) on the logarithmic axis is "
        "how much more the band catches."
    )
    whole = data[data["kind"] == "whole run"].set_index(["experiment", "objective", "metric"])[
        "mean"
    ]
    shares = [
        (
            whole.get((experiment, base, BOUND), math.nan),
            whole.get((experiment, erc, BAND), math.nan),
        )
        for experiment in dict.fromkeys(data["experiment"])
        for base, erc in pairs(whole.loc[experiment].index.get_level_values(0))
    ]
    known = [(bound, outside) for bound, outside in shares if math.isfinite(bound + outside)]
    if known:
        more = sum(outside > bound for bound, outside in known)
        text += (
            f" More tokens lie outside the band of a gated arm than its base clips in {more} of "
            f"{len(known)} pairs of an arm and its base"
        )
        factors = [outside / bound for bound, outside in known if bound > 0]
        if factors:
            text += f", {_times(min(factors))} to {_times(max(factors))} times as many"
        text += "."
    return text


def _times(factor: float) -> str:
    return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"


def _caption(data: pd.DataFrame) -> str:
    text = (
        "Share of tokens whose loss PPO's clip determines against the share outside ERC's entropy "
        "band. Curves: over training, means over whole rollouts. Rows: over whole runs, mean "
        "and 95 % interval over seeds. Dotted: the paper's 0.02 % and 20.29 %. The axis is linear "
        "below 0.01 %."
    )
    whole = data[data["kind"] == "whole run"].set_index(["experiment", "objective", "metric"])
    findings = []
    for experiment in dict.fromkeys(data["experiment"]):
        arms = whole.loc[experiment].index.get_level_values(0)
        for base, erc in pairs(arms):
            try:
                bound = whole.loc[(experiment, base, BOUND)]
                outside = whole.loc[(experiment, erc, BAND)]
            except KeyError:
                continue
            findings.append(
                f"{experiment}: clip of {base} {plus_minus(bound, 100, ' %')}, band of {erc} "
                f"{plus_minus(outside, 100, ' %')}."
            )
    if not findings and BAND in data["metric"].to_numpy():
        outside = data.loc[(data["kind"] == "whole run") & (data["metric"] == BAND), "mean"]
        findings.append(
            f"Outside the band lay {percent(outside.min())} to {percent(outside.max())} of tokens."
        )
    return " ".join([text, *findings[:6]])
