"""Figure 8b: reward and drift against the number of updates made on each rollout."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from erc_bench.core.metrics import metric
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.exhibits import Exhibit
from erc_bench.presentation.plots.frames import Frames
from erc_bench.presentation.plots.seeds import KL, REWARD, over_seeds, runs_of
from erc_bench.presentation.plots.style import WIDE, arm_style


def table(frames: Frames) -> pd.DataFrame:
    """Final reward and exact KL per recipe and updates per rollout, with intervals over seeds."""
    runs = runs_of(frames, "staleness", [KL])
    tables = [over_seeds(runs, ["recipe", "updates"], v).assign(value=v) for v in (REWARD, KL)]
    data = pd.concat(tables, ignore_index=True).rename(columns={"recipe": "objective"})
    return data[["value", "objective", "updates", "estimate", "low", "high", "n"]]


def draw(frames: Frames, data: pd.DataFrame) -> Figure:
    """Final reward and exact KL against updates per rollout; a KL of 0 has no place on its axis."""
    figure = layout.new_figure(WIDE, 2.5)
    arms = frames.looks(data["objective"].unique())
    ticks = sorted(data["updates"].unique())
    for axes, (value, shown) in zip(
        figure.subplots(1, 2), ((REWARD, metric("reward/final")), (KL, metric(KL))), strict=True
    ):
        here = data[data["value"] == value].dropna(subset=["estimate"])
        here = here[here["estimate"] > 0] if value == KL else here
        for name, arm in arms.items():
            curve = here[here["objective"] == name]
            style = {"linestyle": arm_style(arm).dash, "markersize": 4}
            layout.marks(axes, curve, curve["updates"], arm, along="y", scale=shown.scale, **style)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{t:g}" for t in ticks])
        axes.set_xlabel("updates per rollout")
        axes.set_ylabel(shown.heading)
        if value == KL and len(here):
            axes.set_yscale("log", nonpositive="clip")
            low, high = shown.scale * here["estimate"].min(), shown.scale * here["estimate"].max()
            axes.set_ylim(low / 2, 2 * high)
            layout.log_ticks(axes, "y")
    layout.legend_below(figure, layout.line_handles(arms, marked=True))
    return figure


FIGURE = Exhibit("8b", "staleness", "Updates per rollout", table, draw)
