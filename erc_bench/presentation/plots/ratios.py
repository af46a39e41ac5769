"""Figure 6: what the clip and the band see of the same tokens."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from erc_bench.analysis.bounds import Bounds
from erc_bench.analysis.numbers import percent
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.exhibits import Exhibit, Needs
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.layout import first_column, log_limits, ratio_ticks
from erc_bench.presentation.plots.style import BOLD, CLOUD, COLUMN, INK, WIDE, group_of, name_text

BASES = ("dapo", "ppo-clip", "grpo", "gppo", "ce-gppo", "dual-clip", "dr-grpo", "reinforce")
BAND_COLOR = "#0072b2"
REGIONS = {
    "inside both": "#8b949c",
    "outside band only": BAND_COLOR,
    "outside clip only": "#c77700",
    "outside both": "#1a1a1a",
}
OUTSIDE_BAND = ("outside band only", "outside both")
OUTSIDE_CLIP = ("outside clip only", "outside both")


#: Columns of the tokens that are drawn.
COLUMNS = ["experiment", "objective", "seed", "staleness", "log_ratio", "log_entropy_ratio"]


def _stale(frames: Frames, experiment: str) -> pd.DataFrame:
    """Tokens on which a rule can act: at least one update after the rollout, ratios finite."""
    tokens = frames.tokens.loc[frames.tokens["experiment"] == experiment, COLUMNS]
    finite = np.isfinite(tokens[["log_ratio", "log_entropy_ratio"]]).all(axis=1)
    return tokens[(tokens["staleness"] > 0) & finite]


def _shown(frames: Frames, experiment: str) -> str | None:
    """The arm whose tokens neither rule has shaped: the first of ``BASES``, else one without gates."""
    present = {*_stale(frames, experiment)["objective"].unique()}
    arms = {name: arm for name, arm in frames.arms(experiment).items() if name in present}
    plain = [name for name, arm in arms.items() if not arm.gates]
    return next(iter([*(name for name in BASES if name in arms), *plain, *arms]), None)


def _log_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    return math.log1p(-bounds[0]), math.log1p(bounds[1])


def table(frames: Frames) -> pd.DataFrame:
    """The tokens of one arm per experiment, with the region that both rules put them in."""
    tables = []
    for experiment in frames.panels:
        here = _stale(frames, experiment)
        here = here[here["objective"] == _shown(frames, experiment)]
        bounds = frames.bounds(experiment)
        rho = np.exp(here["log_entropy_ratio"])
        clipped = ~here["log_ratio"].between(*_log_bounds(bounds.clip))
        outside = ~rho.between(1 - bounds.band[0], 1 + bounds.band[1], inclusive="neither")
        names = np.array([*REGIONS])[outside.to_numpy() + 2 * clipped.to_numpy()]
        tables.append(here.assign(region=names))
    data = pd.concat(tables, ignore_index=True)
    if data.empty:
        raise NothingToDraw("no sampled token with staleness of at least 1")
    return data


def frame_of(here: pd.DataFrame, bounds: Bounds) -> tuple[float, float]:
    """Half the width and half the height of a panel, as logarithms of the ratios."""
    width = log_limits(here["log_ratio"].to_numpy(), _log_bounds(bounds.clip), 0.005)
    height = log_limits(here["log_entropy_ratio"].to_numpy(), _log_bounds(bounds.band), 0.005)
    return width[1], height[1]


def beyond_frame(here: pd.DataFrame, bounds: Bounds) -> float:
    """Share of a panel's tokens that lie outside its frame."""
    width, height = frame_of(here, bounds)
    outside = (here["log_ratio"].abs() > width) | (here["log_entropy_ratio"].abs() > height)
    return float(outside.mean())


def draw(frames: Frames, data: pd.DataFrame) -> Figure:
    """Importance ratio against entropy ratio of the same tokens, with both rules' bounds."""
    experiments = data["experiment"].unique().tolist()
    count = len(experiments)
    width, legend = (COLUMN * 1.25, 0.5) if count == 1 else (WIDE, 0.7)
    figure = layout.new_figure(width, 2.75 * math.ceil(count / 3) + legend)
    for axes, experiment in zip(layout.panel_grid(figure, count), experiments, strict=True):
        here = data[data["experiment"] == experiment]
        draw_regions(axes, here, frames.bounds(experiment))
        name = str(here["objective"].iloc[0])
        axes.set_gid(group_of(frames.arm(experiment, name)))
        axes.set_title(f"{name_text(experiment)}\n{name_text(name)}", fontsize=7.5, pad=15)
        axes.set_ylabel("entropy ratio ρ" if first_column(axes) else "")
    dots = [
        (layout.mark(color=color, marker="o", markersize=4), name)
        for name, color in REGIONS.items()
    ]
    layout.legend_below(figure, dots)
    return figure


def draw_regions(axes: Axes, here: pd.DataFrame, bounds: Bounds) -> Axes:
    """The tokens of one arm, coloured by region, with the regions' shares above the panel."""
    layers = here.assign(region=pd.Categorical(here["region"], [*REGIONS]))
    layers = layers.sort_values("region", kind="stable")
    place = {"x": "log_ratio", "y": "log_entropy_ratio", "ax": axes}
    sns.scatterplot(layers, hue="region", palette=REGIONS, zorder=2, **place, **CLOUD)
    for value in _log_bounds(bounds.clip):
        axes.axvline(value, color=INK, lw=0.8, ls=(0, (4, 2)), zorder=3)
    for value in _log_bounds(bounds.band):
        axes.axhline(value, color=BAND_COLOR, lw=0.8, ls=(0, (4, 2)), zorder=3)
    width, height = frame_of(here, bounds)
    axes.set(xlim=(-width, width), ylim=(-height, height), xlabel="importance ratio r")
    ratio_ticks(axes, "x", 5)
    ratio_ticks(axes, "y", 7)
    shares = here["region"].value_counts(normalize=True)
    for column, (name, color) in enumerate(REGIONS.items()):
        text, at = percent(float(shares.get(name, 0.0))), (0.125 + 0.25 * column, 1.015)
        axes.text(*at, text, transform=axes.transAxes, color=color, fontsize=6.5, **BOLD)
    return axes


NEEDS = Needs(arms=lambda frames, experiment: {str(_shown(frames, experiment))})
FIGURE = Exhibit("6", "ratios", "Importance ratio and entropy ratio", table, draw, NEEDS)
