"""Figure 8: where in learning rate, updates per rollout and band the gates help or hurt."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from erc_bench.presentation.plots.frames import Drawing, Frames, NothingToDraw
from erc_bench.presentation.plots.layout import first_column, legend_below, new_figure
from erc_bench.presentation.plots.per_run import KL, REWARD, column, paired_bands, runs_of
from erc_bench.presentation.plots.style import INK, MUTED, WIDE, group_of, name_text, styled

__all__ = ["fig8_phase_diagram"]

EXPERIMENT, BASE, GATED = "phase_diagram", "dapo", ("erc-dapo", "erc-directional-dapo")
REWARD_COLORS, DRIFT_COLORS = "RdBu", "PuOr_r"
CELL = ["learning_rate", "updates"]
BAND = ["band_low", "band_high"]


@styled
def fig8_phase_diagram(frames: Frames) -> Drawing:
    """Paired differences to dapo over learning rate and updates per rollout, a column per band.

    Upper rows: final reward, gated arm minus dapo on the same seeds. Lower rows: the ratio of their
    exact KL. A cell whose 95 % interval contains no difference is pale and hatched.
    """
    runs = runs_of(frames, EXPERIMENT, ["hyper/learning_rate"])
    low, high = frames.settings(EXPERIMENT).band
    runs = runs.assign(
        learning_rate=column(runs, "hyper/learning_rate"),
        band_low=column(runs, "hyper/band_low").fillna(low),
        band_high=column(runs, "hyper/band_high").fillna(high),
    )
    base = runs[runs["recipe"] == BASE]
    tables = []
    for log, value in ((False, REWARD), (True, KL)):
        for arm in GATED:
            other = runs[runs["recipe"] == arm]
            table = paired_bands(base, other, CELL, [*BAND, *CELL], value, log=log)
            tables.append(table.assign(value="log_kl_ratio" if log else REWARD, objective=arm))
    data = pd.concat(tables, ignore_index=True)
    data = data[["value", "objective", *BAND, *CELL, "mean", "low", "high", "n"]]
    if not np.isfinite(data.loc[data["value"] == REWARD, "mean"]).any():
        raise NothingToDraw(f"{EXPERIMENT}: no seed ran {BASE} and a gated arm at the same setting")
    return Drawing(
        "fig8_phase_diagram",
        "Where a gate helps: learning rate, updates per rollout, band",
        _draw(data),
        data,
        _caption(data),
        _notice(data),
    )


def _draw(data: pd.DataFrame) -> Figure:
    known = data[np.isfinite(data["mean"])]
    kinds = [(v, a) for v, a in known[["value", "objective"]].drop_duplicates().to_numpy()]
    bands = list(data[BAND].drop_duplicates().sort_values(BAND).itertuples(index=False, name=None))
    rates, updates = (sorted(data[name].unique()) for name in CELL)
    height = 0.26 * len(updates) + 0.32
    figure = new_figure(WIDE, height * len(kinds) + 0.9)
    grid = figure.subplots(len(kinds), len(bands), squeeze=False, sharex=True, sharey=True)
    for value, colors, label in (
        (REWARD, REWARD_COLORS, f"final reward − {BASE}"),
        ("log_kl_ratio", DRIFT_COLORS, f"exact KL / {BASE}"),
    ):
        rows = [i for i, (v, _) in enumerate(kinds) if v == value]
        if not rows:
            continue
        reach = float(np.nanmax(np.abs(data.loc[data["value"] == value, "mean"]))) or 1.0
        norm = Normalize(-reach, reach)
        for row in rows:
            for axes, width in zip(grid[row], bands, strict=True):
                here = data[(data["value"] == value) & (data["objective"] == kinds[row][1])]
                here = here[(here["band_low"] == width[0]) & (here["band_high"] == width[1])]
                axes.set_gid(group_of(kinds[row][1]))
                _heat_map(axes, here, rates, updates, ScalarMappable(norm, colors))
            grid[row, 0].set_ylabel(f"{name_text(kinds[row][1])}\nupdates / rollout")
        bar = figure.colorbar(ScalarMappable(norm, colors), ax=grid[rows].ravel().tolist(),
                              label=label, pad=0.02, aspect=12 * len(rows), fraction=0.05)  # fmt: skip
        bar.outline.set_visible(False)
        if value != REWARD:
            _ratio_bar(bar, reach)
    for axes, width in zip(grid[0], bands, strict=True):
        axes.set_title(_band_text(*width))
    for axes in grid[-1]:
        axes.set_xlabel("learning rate (10⁻³)")
    unclear = Patch(facecolor="#f4f4f4", edgecolor="#b4b4b4", hatch="////", linewidth=0)
    legend_below(figure, [unclear], ["pale and hatched: the 95 % interval contains no difference"])
    return figure


def _ratio_bar(bar: Any, reach: float) -> None:
    """Ticks of a colour bar over log ratios, at round ratios within its ends."""
    near = (1.1, 1.2, 1.5, 2, 3, 5, 10, 30, 100, 1000)
    inside = [r for r in near if math.log(r) <= reach]
    chosen = inside[-1:] if len(inside) < 3 else [inside[len(inside) // 2 - 1], inside[-1]]
    ticks = sorted([1.0, *chosen, *(1 / r for r in chosen)])
    bar.set_ticks([math.log(t) for t in ticks], labels=[f"{t:.2g}" for t in ticks])


def _band_text(low: float, high: float) -> str:
    return f"band 1 ± {low:g}" if low == high else f"band {1 - low:g} to {1 + high:g}"


def _heat_map(
    axes: Axes, here: pd.DataFrame, rates: list[float], updates: list[float], colors: ScalarMappable
) -> None:
    """Cells with their values; no seed, or a KL of 0 in either arm, leaves a cell empty."""
    size = 6.5 if len(rates) <= 5 else 5.5
    for _, cell in here.iterrows():
        x, y = rates.index(cell["learning_rate"]), updates.index(cell["updates"])
        if not math.isfinite(cell["mean"]):
            axes.text(x, y, "–", ha="center", va="center", fontsize=size, color=MUTED)
            continue
        clear = bool(cell["low"] > 0 or cell["high"] < 0)
        depth = 1.0 if clear else 0.35
        red, green, blue = to_rgb(colors.to_rgba(np.array([cell["mean"]]))[0])
        face = (1 - depth * (1 - red), 1 - depth * (1 - green), 1 - depth * (1 - blue))
        axes.add_patch(
            Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=to_hex(face), linewidth=0,
                      edgecolor="#b4b4b4", hatch=None if clear else "////")
        )  # fmt: skip
        dark = sum(w * c for w, c in zip((0.299, 0.587, 0.114), face, strict=True)) < 0.5
        axes.text(
            x, y, _cell_text(cell), ha="center", va="center", fontsize=size,
            color="white" if dark else INK if clear else "#555555",
            fontweight="bold" if clear else "normal",
        )  # fmt: skip
    axes.set(xlim=(-0.5, len(rates) - 0.5), ylim=(-0.5, len(updates) - 0.5))
    axes.set_xticks(range(len(rates)), [f"{1000 * r:.3g}" for r in rates])
    axes.set_yticks(range(len(updates)), [f"{u:g}" for u in updates])
    axes.grid(visible=False)
    axes.tick_params(length=0, labelleft=first_column(axes))


def _cell_text(cell: pd.Series) -> str:
    """+.05 for a difference, ×1.5 for a ratio: no more characters than a cell has room for."""
    if cell["value"] == REWARD:
        text = f"{cell['mean']:+.2f}".replace("-", "−")
        return text[0] + text[2:] if text[1] == "0" else text
    return f"×{math.exp(cell['mean']):.2g}"


def _notice(data: pd.DataFrame) -> str:
    reward = data[(data["value"] == REWARD) & np.isfinite(data["mean"])]
    counts = [
        f"{arm} higher in {int((cells['low'] > 0).sum())}, lower in {int((cells['high'] < 0).sum())} "
        f"of {len(cells)}"
        for arm, cells in reward.groupby("objective", sort=False)
    ]
    return (
        "Strong colour is a clear difference: blue cells earn more than without the gate, red cells "
        f"less; pale, hatched cells show none. Reward against {BASE}'s, in cells: {'; '.join(counts)}."
    )


def _caption(data: pd.DataFrame) -> str:
    seeds = int(data["n"].max())
    text = (
        f"Each cell is the mean over {seeds} paired seeds of a gated arm against {BASE} at the same "
        "learning rate and updates per rollout (minibatches times epochs). Upper rows: difference "
        "in final reward, a diverged run counted as 0. Lower rows: ratio of exact KL, geometric mean "
        "over seeds; empty where there is one update per rollout and so no drift. 95 % intervals, "
        "not corrected for the number of cells."
    )
    words = []
    reward = data[(data["value"] == REWARD) & np.isfinite(data["mean"])]
    for arm, cells in reward.groupby("objective", sort=False):
        better, worse = cells[cells["low"] > 0], cells[cells["high"] < 0]
        words.append(
            f"{arm}: reward clearly higher than {BASE}'s in {len(better)} of {len(cells)} cells, "
            f"clearly lower in {len(worse)}"
            + (f"; {_extreme(cells, 'best', cells['mean'].idxmax())}" if len(better) else "")
            + (f"; {_extreme(cells, 'worst', cells['mean'].idxmin())}" if len(worse) else "")
            + "."
        )
    drift = data[(data["value"] != REWARD) & np.isfinite(data["mean"])]
    for arm, cells in drift.groupby("objective", sort=False):
        words.append(
            f"{arm}: exact KL clearly lower in {int((cells['high'] < 0).sum())} of {len(cells)} "
            f"cells, clearly higher in {int((cells['low'] > 0).sum())}."
        )
    return " ".join([text, *words])


def _extreme(cells: pd.DataFrame, word: str, index: Any) -> str:
    cell = cells.loc[index]
    return (
        f"{word} {cell['mean']:+.3f} ({cell['low']:+.3f} to {cell['high']:+.3f}) at learning rate "
        f"{cell['learning_rate']:g}, {cell['updates']:g} updates, "
        f"{_band_text(cell['band_low'], cell['band_high'])}"
    )
