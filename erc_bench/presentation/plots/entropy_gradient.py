"""Figure 2: entropy per token and gradient norm over training."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from erc_bench.core.metrics import metric
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.exhibits import Exhibit, Needs
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.seeds import column, over_seeds
from erc_bench.presentation.plots.style import arm_style, group_of, name_text
from erc_bench.studies.arms import StoredArm

ENTROPY, GRADIENT = "drift/entropy_new", "grad/norm"
POINTS = 60  # at most so many in a curve


def bin_width(metrics: pd.DataFrame) -> int:
    """Updates averaged to one point: whole rollouts, so that at most ``POINTS`` are drawn."""
    updates = int(metrics["update"].max()) + 1
    if updates <= POINTS:
        return 1
    stale = metrics["staleness"].max()  # NaN in logs of trainers that do not say
    per_rollout = int(stale) + 1 if math.isfinite(stale) else 1
    return per_rollout * math.ceil(updates / (POINTS * per_rollout))


def _binned(frames: Frames, experiment: str) -> pd.DataFrame:
    """An experiment's updates, with the middle of their bin in place of their number."""
    here = frames.metrics[frames.metrics["experiment"] == experiment]
    width = bin_width(here)
    return here.assign(update=here["update"] // width * width + (width - 1) / 2)


def table(frames: Frames) -> pd.DataFrame:
    """Mean and interval of both metrics at each point; each seed is averaged by itself first.

    A diverged run counts until it diverges.
    """
    for name in (ENTROPY, GRADIENT):
        if column(frames.metrics, name).isna().all():
            raise NothingToDraw(f"no values of {name}")
    tables = [
        over_seeds(_binned(frames, experiment), ["objective", "update"], name).assign(
            experiment=experiment, metric=name
        )
        for experiment in frames.panels
        for name in (ENTROPY, GRADIENT)
    ]
    data = pd.concat(tables, ignore_index=True).dropna(subset=["estimate"])
    return data[["update", "estimate", "low", "high", "n", "experiment", "objective", "metric"]]


def draw(frames: Frames, data: pd.DataFrame) -> Figure:
    """Two panels per experiment, a line with its 95 % interval per objective."""
    experiments = frames.panels
    figure, panels = layout.paired_panels(len(experiments))
    for experiment, pair in zip(experiments, panels, strict=True):
        arms, here = frames.arms(experiment), _binned(frames, experiment)
        drawn = data[data["experiment"] == experiment]
        for axes, name in zip(pair, (ENTROPY, GRADIENT), strict=True):
            shown = drawn[drawn["metric"] == name]
            layout.curves(axes, shown, "update", arms, alpha=0.15 if len(arms) <= 4 else 0.09)
            draw_ends(axes, here.assign(x=here["update"], y=column(here, name)), arms)
            limits(axes, shown, 0.0 if name == GRADIENT else math.nan)
            axes.margins(x=0.01)
            if layout.first_column(axes):
                axes.set_ylabel(metric(name).heading)
        pair[0].set_title(name_text(experiment))
        pair[1].set_ylim(bottom=0)
        pair[1].set_xlabel("update")
    layout.arm_legend(figure, frames, experiments)
    return figure


def limits(axes: Axes, drawn: pd.DataFrame, include: float = math.nan) -> None:
    """Limits for all intervals; where a few would dwarf the means, for the means with room around."""
    if drawn.empty:
        return
    values = [*drawn["estimate"], *([include] if math.isfinite(include) else [])]
    low, high = min(values), max(values)
    reach = (high - low) or abs(high) or 1.0
    bottom = min(low, drawn["low"].fillna(drawn["estimate"]).min())
    top = max(high, drawn["high"].fillna(drawn["estimate"]).max())
    axes.set_ylim(
        max(bottom, low - 0.4 * reach) - 0.06 * reach, min(top, high + 0.4 * reach) + 0.2 * reach
    )


def draw_ends(axes: Axes, points: pd.DataFrame, arms: dict[str, StoredArm]) -> None:
    """A cross at the last point (x, y) of every run that diverged."""
    failed = points.groupby(["objective", "seed"])["diverged"].transform("any").astype(bool)
    known = points[failed & points["y"].notna()]
    last = known.groupby(["objective", "seed", "x"], as_index=False)["y"].mean()
    for row in last.groupby(["objective", "seed"]).tail(1).itertuples():
        arm = arms[str(row.objective)]
        color, gid = arm_style(arm).color, group_of(arm)
        axes.plot(row.x, row.y, "x", ms=4.5, mew=1.3, zorder=6, color=color, gid=gid)


NEEDS = Needs(metrics=(GRADIENT, ENTROPY))
FIGURE = Exhibit("2", "entropy_gradient", "Entropy and gradient norm", table, draw, NEEDS)
