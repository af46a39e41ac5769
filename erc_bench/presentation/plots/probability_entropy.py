"""Figure 5: which tokens a gate drops, by probability and entropy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from erc_bench.analysis.numbers import percent
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.exhibits import Exhibit, Needs
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.reading import dropping
from erc_bench.presentation.plots.style import name_text

KEPT, CUT = "#7d8790", "#c1440e"
SHARE = LinearSegmentedColormap.from_list("dropped", ["#e9ecef", "#f3b27a", CUT, "#5a1500"])
DASHED = (4.0, 1.6)
GRID: dict[str, Any] = {"gridsize": (20, 12)}  # hexagons of the map
CELL_TOKENS, STEPS = 3, 201  # tokens that a cell of the map needs; points of a curve


def gated_tokens(frames: Frames) -> dict[str, pd.DataFrame]:
    """Per experiment the stale tokens of the arms whose gate drops any, the only ones it can drop.

    Raises:
        NothingToDraw: no gate dropped a token.
    """
    tokens = frames.tokens
    finite = np.isfinite(tokens[["log_ratio", "log_entropy_ratio"]]).all(axis=1)
    tokens = tokens[(tokens["staleness"] > 0) & finite]
    tokens = tokens[dropping(tokens)]
    if tokens.empty:
        raise NothingToDraw("no sampled token was dropped by a gate")
    tokens = tokens.assign(gate_dropped=tokens["gate_dropped"].astype(bool))
    return {str(e): here for e, here in tokens.groupby("experiment", sort=False)}


def table(frames: Frames) -> pd.DataFrame:
    """Per experiment the cells of the map with their counts, and both groups' entropies as curves."""
    tables = []
    for experiment, here in gated_tokens(frames).items():
        top = float(here["entropy/old"].max()) * 1.04 or 1.0
        tables += [t.assign(experiment=experiment) for t in (_cells(here, top), _curves(here, top))]
    return pd.concat(tables, ignore_index=True)


def _cells(here: pd.DataFrame, top: float) -> pd.DataFrame:
    """Hexagons of similar probability and entropy with at least ``CELL_TOKENS`` tokens."""
    axes = Figure().add_subplot()
    place = here["prob/old"].to_numpy(), here["entropy/old"].to_numpy()
    dropped = here["gate_dropped"].to_numpy(dtype=float)
    grid: dict[str, Any] = {**GRID, "extent": (0, 1, 0, top), "mincnt": CELL_TOKENS}
    count, share = (
        axes.hexbin(*place, C=dropped, reduce_C_function=reduce, **grid)
        for reduce in (len, np.mean)
    )
    x, y = np.asarray(share.get_offsets()).T
    cells = {"panel": "map", "prob/old": x, "entropy/old": y}
    cells |= {"tokens": np.asarray(count.get_array()).astype(int)}
    return pd.DataFrame(cells | {"dropped": np.asarray(share.get_array())})


def _curves(here: pd.DataFrame, top: float) -> pd.DataFrame:
    """The share of kept and of dropped tokens at or below each of ``STEPS`` entropies."""
    at = np.linspace(0.0, top, STEPS)
    tables = []
    for dropped, group in here.groupby("gate_dropped"):
        values = np.sort(group["entropy/old"].to_numpy())
        below = np.searchsorted(values, at, side="right") / len(values)
        curve = {"entropy/old": at, "share_at_or_below": below, "tokens": len(values)}
        tables.append(pd.DataFrame({"panel": "dropped" if dropped else "kept", **curve}))
    return pd.concat(tables)


def draw(_: Frames, data: pd.DataFrame) -> Figure:
    """Map of the share dropped over probability and entropy, and both groups' entropies."""
    experiments = list(dict.fromkeys(data["experiment"]))
    figure, panels = layout.paired_panels(len(experiments))
    for (upper, lower), experiment in zip(panels, experiments, strict=True):
        here = data[data["experiment"] == experiment]
        draw_map(upper, here)
        draw_entropies(lower, here[here["panel"] != "map"])
        upper.set_title(name_text(experiment))
        if layout.first_column(upper):
            upper.set_ylabel("old entropy (nats)")
            lower.set_ylabel("tokens at or below (%)")
    place: dict[str, Any] = {"aspect": 60, "location": "bottom", "pad": 0.02, "fraction": 0.03}
    place["ax"] = [axes for pair in panels for axes in pair]
    bar = figure.colorbar(ScalarMappable(Normalize(0, 100), SHARE), **place)
    bar.set_label("dropped by the gate (% of a cell's tokens)")
    kept = Line2D([], [], color=KEPT, linestyle=(0, DASHED))
    layout.legend_below(
        figure, [(Line2D([], [], color=CUT), "dropped tokens"), (kept, "kept tokens")]
    )
    return figure


def draw_map(axes: Axes, here: pd.DataFrame) -> Axes:
    """The cells of one experiment, coloured by the share dropped; put into the grid they came from."""
    cells, top = here[here["panel"] == "map"], float(here["entropy/old"].max())
    look: dict[str, Any] = {**GRID, "extent": (0, 1, 0, top), "cmap": SHARE, "vmin": 0, "vmax": 1}
    look |= {"linewidths": 0.2, "edgecolors": "white"}
    axes.hexbin(cells["prob/old"], cells["entropy/old"], C=cells["dropped"], **look)
    axes.set(xlim=(0, 1), ylim=(0, top), xlabel="old probability of the sampled action")
    return axes


def draw_entropies(axes: Axes, curves: pd.DataFrame) -> Axes:
    """Both groups' distribution of entropy; a dot at each median."""
    palette = {"kept": KEPT, "dropped": CUT}
    shown = curves.assign(share=100 * curves["share_at_or_below"])
    look = {"palette": palette, "dashes": {"kept": DASHED, "dropped": ""}, "linewidth": 1.5}
    by = {"x": "entropy/old", "y": "share", "hue": "panel", "style": "panel"}
    sns.lineplot(shown, **by, **look, estimator=None, legend=False, ax=axes)
    sizes = {}
    for group, curve in curves.groupby("panel"):
        median = np.interp(0.5, curve["share_at_or_below"], curve["entropy/old"])
        axes.plot(median, 50, marker="o", markersize=4, color=palette[str(group)])
        sizes[group] = curve["tokens"].iloc[0]
    share = sizes.get("dropped", 0) / sum(sizes.values())
    axes.set_title(f"dropped: {percent(share)}", fontsize=7, fontweight="normal")
    axes.set(xlim=(0, curves["entropy/old"].max()), ylim=(0, 102))
    axes.set(xlabel="old entropy (nats); dot: median", ylabel="")
    return axes


NEEDS = Needs(tokens=("prob/old", "entropy/old"), rows=lambda frames: dropping(frames.tokens))
FIGURE = Exhibit(
    "5", "probability_entropy", "Dropped tokens by probability and entropy", table, draw, NEEDS
)
