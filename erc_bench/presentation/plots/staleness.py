"""Figure 8b: reward and drift against the number of updates made on each rollout."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from erc_bench.presentation.plots.frames import Drawing, Frames
from erc_bench.presentation.plots.layout import arm_lines, log_ticks, new_figure, plus_minus
from erc_bench.presentation.plots.per_run import KL, REWARD, group_bands, runs_of
from erc_bench.presentation.plots.style import WIDE, arm_style, group_of, line_of, ordered, styled

__all__ = ["draw_interval", "fig8b_staleness"]

EXPERIMENT = "staleness"


def draw_interval(axes: Axes, data: pd.DataFrame, x: str, name: str, scale: float = 1.0) -> None:
    """Means as a line with marks, intervals as bars at the marks."""
    style = arm_style(name)
    axes.plot(data[x], scale * data["mean"], marker=style.marker, markersize=4,
              **line_of(name, zorder=4))  # fmt: skip
    axes.vlines(data[x], scale * data["low"], scale * data["high"], color=style.color,
                linewidth=1.4, alpha=0.7, zorder=3, gid=group_of(name))  # fmt: skip


@styled
def fig8b_staleness(frames: Frames) -> Drawing:
    """Final reward and exact KL against updates per rollout: mean and 95 % interval over seeds."""
    runs = runs_of(frames, EXPERIMENT, [KL])
    tables = [
        group_bands(runs, ["recipe", "updates"], value).assign(value=value)
        for value in (REWARD, KL)
    ]
    data = pd.concat(tables, ignore_index=True).rename(columns={"recipe": "objective"})
    data = data[["value", "objective", "updates", "mean", "low", "high", "n"]]
    figure = new_figure(WIDE, 2.5)
    arms = ordered(data["objective"])
    for axes, value in zip(figure.subplots(1, 2), (REWARD, KL), strict=True):
        for name in arms:
            here = data[(data["value"] == value) & (data["objective"] == name)]
            draw_interval(axes, here[here["mean"] > 0] if value == KL else here, "updates", name)
        axes.set_xscale("log", base=2)
        ticks = sorted(data["updates"].unique())
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{t:g}" for t in ticks])
        axes.set_xlabel("updates per rollout")
        axes.set_ylabel("final reward" if value == REWARD else "exact KL (nats)")
        if value == KL and (data.loc[data["value"] == KL, "mean"] > 0).any():
            axes.set_yscale("log", nonpositive="clip")
            positive = data.loc[(data["value"] == KL) & (data["mean"] > 0), "mean"]
            axes.set_ylim(positive.min() / 2, positive.max() * 2)
            log_ticks(axes, "y")
    arm_lines(figure, arms)
    return Drawing(
        "fig8b_staleness", "Updates per rollout", figure, data, _caption(data), _notice(data)
    )


def _notice(data: pd.DataFrame) -> str:
    text = (
        "With one update per rollout the gate cannot act; look where, to the right, gated lines leave "
        "their base's, in reward (left) and in drift (right)."
    )
    reward = data[data["value"] == REWARD].dropna(subset=["mean"])
    best = reward.loc[reward["mean"].idxmax()]
    return (
        f"{text} Highest mean reward: {best['objective']} with {best['updates']:g} updates per "
        f"rollout, {plus_minus(best)}."
    )


def _caption(data: pd.DataFrame) -> str:
    text = (
        "Final reward (a diverged run counts as 0) and exact KL per token, mean over a run's updates, "
        "against updates per rollout: means and 95 % intervals over "
        f"{int(data['n'].max())} seeds. Logarithmic axes; with one update per rollout the KL is 0 "
        "and has no place on them."
    )
    most = data["updates"].max()
    last = data[data["updates"] == most].set_index(["value", "objective"])
    words = [
        f"{name} {plus_minus(last.loc[(REWARD, name)])} with "
        f"{plus_minus(last.loc[(KL, name)], 1e3)} 10⁻³ nats"
        for name in ordered(data["objective"])
        if (REWARD, name) in last.index and np.isfinite(last.loc[(KL, name), "mean"])
    ]
    return f"{text} At {most:g} updates: {', '.join(words)}." if words else text
