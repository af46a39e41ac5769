"""Figure 8: where in learning rate, updates per rollout and band the gates help or hurt."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from erc_bench.core.metrics import metric
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.exhibits import Exhibit
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.seeds import BASE, KL, REWARD, column, paired_over_seeds, runs_of
from erc_bench.presentation.plots.style import MUTED, WIDE, group_of, name_text

EXPERIMENT, GATED = "phase_diagram", ("erc-dapo", "erc-directional-dapo")
LOG_KL_RATIO = "log_kl_ratio"
CELL = ["learning_rate", "updates"]
BAND = ["band_low", "band_high"]
#: By value: colours, label of the colour bar.
_VALUES = {
    REWARD: ("RdBu", f"{metric('reward/final').label} − {BASE}"),
    LOG_KL_RATIO: ("PuOr_r", f"{metric(KL).label} / {BASE}"),
}
_UNCLEAR: dict[str, Any] = {"edgecolor": "#b4b4b4", "hatch": "////", "linewidth": 0}
#: Ground of a number on a hatch, whose lines would strike it out.
_PLAIN: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}


def table(frames: Frames) -> pd.DataFrame:
    """Paired differences to dapo per gated arm, band, learning rate and updates per rollout."""
    runs = runs_of(frames, EXPERIMENT, ["hyper/learning_rate"])
    bands = {label: arm.band for label, arm in frames.arms(EXPERIMENT).items()}
    ends = [bands[str(label)] or (math.nan, math.nan) for label in runs["objective"]]
    runs = runs.assign(
        learning_rate=column(runs, "hyper/learning_rate"),
        band_low=[low for low, _ in ends],
        band_high=[high for _, high in ends],
    )
    base = runs[runs["recipe"] == BASE]
    tables = []
    for name, value, log in ((REWARD, REWARD, False), (LOG_KL_RATIO, KL, True)):
        for arm in GATED:
            other = runs[runs["recipe"] == arm]
            found = paired_over_seeds(base, other, CELL, [*BAND, *CELL], value, log=log)
            tables.append(found.assign(value=name, objective=arm))
    data = pd.concat(tables, ignore_index=True)
    if not np.isfinite(data.loc[data["value"] == REWARD, "estimate"]).any():
        raise NothingToDraw(f"{EXPERIMENT}: no seed ran {BASE} and a gated arm at the same setting")
    return data[["value", "objective", *BAND, *CELL, "estimate", "low", "high", "n"]]


def draw(frames: Frames, data: pd.DataFrame) -> Figure:
    """A row of heat maps per value and gated arm, a column per band."""
    known = data[np.isfinite(data["estimate"])]
    kinds = list(known[["value", "objective"]].drop_duplicates().itertuples(index=False, name=None))
    bands = list(data[BAND].drop_duplicates().sort_values(BAND).itertuples(index=False, name=None))
    figure = layout.new_figure(WIDE, (0.26 * data["updates"].nunique() + 0.32) * len(kinds) + 0.9)
    grid = figure.subplots(len(kinds), len(bands), squeeze=False, sharex=True, sharey=True)
    for value, (colors, label) in _VALUES.items():
        rows = [row for row, (v, _) in enumerate(kinds) if v == value]
        if not rows:
            continue
        reach = float(np.nanmax(np.abs(data.loc[data["value"] == value, "estimate"]))) or 1.0
        norm = Normalize(-reach, reach)
        for row in rows:
            name = kinds[row][1]
            for axes, band in zip(grid[row], bands, strict=True):
                here = data[(data["value"] == value) & (data["objective"] == name)]
                here = here[(here["band_low"] == band[0]) & (here["band_high"] == band[1])]
                axes.set_gid(group_of(frames.looks([name])[name]))
                draw_cells(axes, here, data, norm, colors)
            grid[row, 0].set_ylabel(f"{name_text(name)}\nupdates / rollout")
        place: dict[str, Any] = {"pad": 0.02, "aspect": 12 * len(rows), "fraction": 0.05}
        every = grid[rows].ravel().tolist()
        bar = figure.colorbar(ScalarMappable(norm, colors), ax=every, label=label, **place)
        bar.outline.set_visible(False)
        if value == LOG_KL_RATIO:
            _ratio_bar(bar, reach)
    for axes, band in zip(grid[0], bands, strict=True):
        axes.set_title(band_text(*band))
    for axes in grid[-1]:
        axes.set_xlabel("learning rate (10⁻³)")
    unclear = Patch(facecolor="#f4f4f4", **_UNCLEAR)
    layout.legend_below(
        figure, [(unclear, "pale and hatched: the 95 % interval contains no difference")]
    )
    return figure


def _ratio_bar(bar: Any, reach: float) -> None:
    """Ticks of a colour bar over log ratios, at round ratios within its ends."""
    near = (1.1, 1.2, 1.5, 2, 3, 5, 10, 30, 100, 1000)
    inside = [r for r in near if math.log(r) <= reach]
    chosen = inside[-1:] if len(inside) < 3 else [inside[len(inside) // 2 - 1], inside[-1]]
    ticks = sorted([1.0, *chosen, *(1 / r for r in chosen)])
    bar.set_ticks([math.log(t) for t in ticks], labels=[f"{t:.2g}" for t in ticks])


def band_text(low: float, high: float) -> str:
    """A band by its half-width, or by its ends where they differ."""
    return f"band 1 ± {low:g}" if low == high else f"band {1 - low:g} to {1 + high:g}"


def draw_cells(
    axes: Axes, here: pd.DataFrame, every: pd.DataFrame, norm: Normalize, colors: str
) -> Axes:
    """One heat map over all learning rates and updates of ``every``.

    No seed, or a KL of 0 in either arm, leaves a cell empty; a cell whose interval contains no
    difference is pale and hatched.
    """
    rates, updates = (sorted(every[name].unique()) for name in CELL)
    cells = here.assign(text=[_cell_text(cell) for cell in here.itertuples()])
    cells = cells.pivot(index="updates", columns="learning_rate", values=["estimate", "text"])
    cells = cells.reindex(index=updates[::-1])
    mean, text = (cells[name].reindex(columns=rates) for name in ("estimate", "text"))
    style: dict[str, Any] = {"cmap": colors, "vmin": norm.vmin, "vmax": norm.vmax, "cbar": False}
    style["annot_kws"] = {"fontsize": 6.5 if len(rates) <= 5 else 5.5, "fontweight": "bold"}
    style["xticklabels"] = [f"{1000 * rate:.3g}" for rate in rates]
    style["yticklabels"] = [f"{count:g}" for count in updates[::-1]]
    sns.heatmap(mean.astype(float), annot=text, fmt="", ax=axes, **style)
    texts = {t.get_position(): t for t in axes.texts}
    for cell in here.itertuples():
        x, y = rates.index(cell.learning_rate), updates[::-1].index(cell.updates)
        if not math.isfinite(cell.estimate):
            axes.text(x + 0.5, y + 0.5, "–", ha="center", va="center", color=MUTED)
        elif not (cell.low > 0 or cell.high < 0):
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=(1, 1, 1, 0.65), **_UNCLEAR))
            texts[x + 0.5, y + 0.5].set(color="#555555", fontweight="normal", bbox=_PLAIN)
    axes.set(xlabel="", ylabel="")
    axes.tick_params(length=0, labelleft=layout.first_column(axes), labelrotation=0)
    return axes


def _cell_text(cell: Any) -> str:
    """+.05 for a difference, ×1.50 for a ratio: no more characters than a cell has room for."""
    if cell.value == LOG_KL_RATIO:
        ratio = math.exp(cell.estimate)
        return f"×{ratio:.2f}" if ratio < 10 else f"×{ratio:.3g}"
    digits = 2 if abs(cell.estimate) >= 0.01 else 3
    text = f"{cell.estimate:+.{digits}f}".replace("-", "−")
    if not text.strip("+−0."):
        return "0"
    return text[0] + text[2:] if text[1] == "0" else text


FIGURE = Exhibit(
    "8",
    "phase_diagram",
    "Where a gate helps: learning rate, updates per rollout, band",
    table,
    draw,
)
