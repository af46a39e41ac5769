"""Figure 3: the return against the tokens generated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from erc_bench.analysis.statistics import median_intervals
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.entropy_gradient import draw_ends, limits
from erc_bench.presentation.plots.exhibits import Exhibit, Needs
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.style import COLUMN, DOTTED, INK, WIDE, name_text

REWARD = "reward/mean"
ROLLOUTS = 30  # at most so many points in a curve


def optimum(frames: Frames, experiment: str) -> float:
    """Expected return of the best policy; NaN where the records do not say."""
    return float(frames.runs.loc[frames.runs["experiment"] == experiment, "reward/optimal"].mean())


def _points(frames: Frames, experiment: str) -> pd.DataFrame:
    """Mean return and token count of each run's rollouts, more than ``ROLLOUTS`` averaged in blocks."""
    here = frames.metrics[frames.metrics["experiment"] == experiment]
    run = ["objective", "seed"]
    failed = here.groupby(run)["diverged"].transform("any").astype(bool)
    here = here.assign(diverged=failed).sort_values("update", kind="stable")
    here = here.drop_duplicates([*run, "rollout"])
    here = here.assign(size=here.groupby(run)["rollout"].transform("size"))
    values = here[["tokens", REWARD]].astype(float)
    here = here.assign(**values)[np.isfinite(values).all(axis=1)]
    width = np.ceil(here["size"] / ROLLOUTS)
    block = here.groupby(run).cumcount() // width
    means = here.groupby([*run, "diverged", block.rename("block")])[["tokens", REWARD]].mean()
    return means.reset_index()


def _curve(points: pd.DataFrame) -> pd.DataFrame:
    """Median and interval over an arm's seeds, at common token counts.

    After its divergence a run has return 0. Where the seeds' token counts differ, their curves are
    interpolated linearly on a common grid between the largest first and the smallest last count.
    """
    runs = [
        (run["tokens"].to_numpy(), run[REWARD].to_numpy(), bool(run["diverged"].iloc[0]))
        for _, run in points.groupby("seed")
    ]
    whole = [x for x, _, failed in runs if not failed]
    whole = whole or [max((x for x, _, _ in runs), key=lambda x: x[-1])]
    grid = whole[0]
    if any(len(x) != len(grid) or (x != grid).any() for x in whole):
        start, stop = max(x[0] for x in whole), min(x[-1] for x in whole)
        grid = np.linspace(start, stop, max(len(grid), 2))
    values = [np.interp(grid, x, y, right=0.0 if failed else None) for x, y, failed in runs]
    estimate, low, high, n = median_intervals(values)
    return pd.DataFrame({"tokens": grid, "estimate": estimate, "low": low, "high": high, "n": n})


def table(frames: Frames) -> pd.DataFrame:
    """Mean return of each rollout against tokens: median and 95 % interval over seeds.

    Tokens, not updates, because dynamic sampling generates more for the same number of updates.
    """
    tables = []
    for experiment in frames.panels:
        by_arm = dict(list(_points(frames, experiment).groupby("objective")))
        tables += [
            _curve(by_arm[name]).assign(experiment=experiment, objective=name)
            for name in frames.arms(experiment)
            if name in by_arm
        ]
    if not tables:
        raise NothingToDraw("no rollout with a finite return and its number of tokens")
    return pd.concat(tables, ignore_index=True)


def draw(frames: Frames, data: pd.DataFrame) -> Figure:
    """A panel per experiment, a line with its 95 % interval per objective, the optimum dotted."""
    experiments = frames.panels
    count = len(experiments)
    figure = layout.new_figure(
        COLUMN * 1.2 if count == 1 else WIDE, 2.2 * math.ceil(count / 3) + 0.6
    )
    style: dict[str, Any] = {"color": INK, "linewidth": 0.8, "linestyle": DOTTED}
    optima = {e: optimum(frames, e) for e in experiments}
    for axes, experiment in zip(layout.panel_grid(figure, count), experiments, strict=True):
        here, arms = data[data["experiment"] == experiment], frames.arms(experiment)
        unit, word = (1e6, "million") if here["tokens"].max() >= 2e6 else (1e3, "thousand")
        scaled = here.assign(tokens=here["tokens"] / unit)
        layout.curves(axes, scaled, "tokens", arms, alpha=0.15 if len(arms) <= 4 else 0.09)
        ends = _points(frames, experiment)
        draw_ends(axes, ends.assign(x=ends["tokens"] / unit, y=ends[REWARD]), arms)
        if math.isfinite(optima[experiment]):
            axes.axhline(optima[experiment], zorder=1, **style)
        limits(axes, here, optima[experiment])
        axes.set_title(name_text(experiment))
        axes.set_xlabel(f"tokens generated ({word})")
        if layout.first_column(axes):
            axes.set_ylabel("return")
        axes.margins(x=0.01)
    known = any(math.isfinite(value) for value in optima.values())
    extra = [(Line2D([], [], **style), "optimum")] if known else []
    layout.arm_legend(figure, frames, experiments, extra)
    return figure


NEEDS = Needs(metrics=(REWARD,))
FIGURE = Exhibit("3", "learning_curves", "Learning curves", table, draw, NEEDS)
