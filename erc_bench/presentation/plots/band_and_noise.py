"""Figure 10: how wide the band should be, and how much of what it drops is numeric noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from erc_bench.analysis.numbers import percent
from erc_bench.core.metrics import metric
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.clip_fractions import PAPER_DROPPED
from erc_bench.presentation.plots.exhibits import Exhibit
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.seeds import KL, REWARD, column, over_seeds, runs_of
from erc_bench.presentation.plots.style import DOTTED, MUTED, WIDE, arm_style, line_of, shade_of
from erc_bench.studies.arms import StoredArm

SWEEP, PRECISION, TASK = "beta_sweep", "precision", "forking_tokens"
GATE = "erc-dapo"
DROPPED, OUTSIDE = "mean/gate/dropped_fraction", "mean/drift/out_of_band_fraction"
_SHOWN = {REWARD: metric("reward/final")} | {v: metric(v) for v in (DROPPED, KL, OUTSIDE)}
#: Number formats by their significand bits.
FORMATS = {53: "float64", 24: "float32", 11: "float16", 8: "bfloat16"}
MOST_WIDTHS = 7  # ticks for which a panel has room
_JITTER = ("#b4b4b4", "#7a7a7a", "#1a1a1a", "#a08a60", "#5c4a1e")
_PAPER: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": DOTTED}


def format_name(bits: float) -> str:
    """A number format by its significand bits."""
    return FORMATS.get(int(bits), f"{bits:g} bits")


def table(frames: Frames) -> pd.DataFrame:
    """The band's sweep, the noise without any update, and what the gate drops in forking_tokens."""
    parts, skipped = [], []
    for read in (_swept, _noise):
        try:
            parts.append(read(frames))
        except NothingToDraw as reason:
            skipped.append(str(reason))
    if not parts:
        raise NothingToDraw("; ".join(skipped))
    runs = frames.runs[(frames.runs["experiment"] == TASK) & (frames.runs["objective"] == GATE)]
    if column(runs, DROPPED).notna().any():
        share = over_seeds(runs, ["objective"], DROPPED)
        parts.append(share.assign(part=TASK, value=DROPPED))
    order = ["part", "value", "objective", "half_width", "estimate", "low", "high", "n"]
    data = pd.concat(parts, ignore_index=True)
    return data.reindex(columns=[*order, "bits", "jitter"])


def _swept(frames: Frames) -> pd.DataFrame:
    """Intervals over seeds per recipe and half-width of its band; NaN: it has no gate."""
    runs = runs_of(frames, SWEEP, [DROPPED, KL])
    bands = {label: arm.band for label, arm in frames.arms(SWEEP).items()}
    widths = [(bands[str(label)] or (0.0, math.nan))[1] for label in runs["objective"]]
    runs = runs.assign(half_width=widths)
    tables = [
        over_seeds(runs, ["recipe", "half_width"], value).assign(value=value)
        for value in (REWARD, DROPPED, KL)
    ]
    return pd.concat(tables).rename(columns={"recipe": "objective"}).assign(part=SWEEP)


def _noise(frames: Frames) -> pd.DataFrame:
    """Intervals over seeds per number format and jitter."""
    runs = runs_of(frames, PRECISION, [OUTSIDE])
    runs = runs.assign(
        bits=column(runs, "hyper/rollout_bits").fillna(24.0),
        jitter=column(runs, "hyper/rollout_jitter").fillna(0.0),
    )
    tables = [
        over_seeds(runs, ["bits", "jitter"], value).assign(value=value)
        for value in (OUTSIDE, KL)
        if column(runs, value).notna().any()
    ]
    return pd.concat(tables).assign(part=PRECISION)


def draw(frames: Frames, data: pd.DataFrame) -> Figure:
    """Reward, dropped share and exact KL against the band, and the gate's noise floor.

    Above: the band's half-width on a logarithmic axis, dapo without a gate as a level line. Below:
    what lies outside the 5 % band, and exact KL, when no update was made at all and only the number
    format and jitter of the behaviour policy's logits differ.
    """
    swept, noise = (data[data["part"] == part] for part in (SWEEP, PRECISION))
    rows = [2.0 if len(swept) else 0.0, 2.1 if len(noise) else 0.0]
    figure = layout.new_figure(WIDE, sum(rows) + 0.75)
    upper, lower = layout.parts(figure, [max(r, 1e-3) for r in rows])
    arms = frames.looks(swept["objective"].unique())
    entries = layout.line_handles(arms, marked=True)
    if len(swept):
        for axes, value in zip(upper.subplots(1, 3), (REWARD, DROPPED, KL), strict=True):
            draw_sweep(axes, swept[swept["value"] == value], value, arms)
    if len(noise):
        left, right = lower.subplots(1, 2, width_ratios=(1.5, 1))
        for place, jitter in enumerate(sorted(noise["jitter"].unique())):
            entries.append((layout.mark(**_jitter_mark(place)), f"jitter {jitter:g}"))
        measured = data[data["part"] == TASK]["estimate"]
        gate = {"color": arm_style(frames.looks([GATE])[GATE]).color, "linestyle": (0, (4, 2))}
        references = [(PAPER_DROPPED, _PAPER, f"dropped in the paper: {100 * PAPER_DROPPED:g} %")]
        references += [
            (share, gate, f"dropped by {GATE} in {TASK}: {percent(share)}") for share in measured
        ]
        for share, style, text in references:
            left.axhline(100 * share, **style)
            entries.append((Line2D([], [], **style), text))
        draw_noise(left, noise[noise["value"] == OUTSIDE], OUTSIDE)
        draw_noise(right, noise[noise["value"] == KL], KL)
        left.set_xlabel("the rollout's logits rounded to; no update made")
        right.set_xlabel("rounded to; no update made")
    layout.legend_below(figure, entries)
    return figure


def draw_sweep(axes: Axes, here: pd.DataFrame, value: str, arms: Mapping[str, StoredArm]) -> Axes:
    """One value against the half-width; an arm without a gate is a level line with its interval."""
    shown = _SHOWN[value]
    for name, arm in arms.items():
        rows = here[here["objective"] == name]
        points = rows[rows["half_width"].notna()]
        style = {"linestyle": arm_style(arm).dash, "markersize": 4}
        layout.marks(axes, points, points["half_width"], arm, along="y", scale=shown.scale, **style)
        levels = rows[rows["half_width"].isna()] if value != DROPPED else rows[:0]
        for row in levels.itertuples():  # without a gate nothing is dropped
            axes.axhline(shown.scale * row.estimate, **line_of(arm, zorder=2))
            if math.isfinite(row.low):
                ends = shown.scale * row.low, shown.scale * row.high
                axes.axhspan(*ends, **shade_of(arm, alpha=0.2, zorder=1))
    axes.set_xscale("log")
    widths = sorted(here["half_width"].dropna().unique())
    if len(widths) > MOST_WIDTHS:
        layout.log_ticks(axes, "x")
    else:
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(widths, [f"{w:g}" for w in widths], fontsize=6.5)
    axes.set(xlabel="half-width of the band", ylabel=shown.heading)
    if value == DROPPED:
        axes.set_ylim(bottom=0)
    return axes


def _jitter_mark(place: int) -> dict[str, Any]:
    return {"color": _JITTER[place % len(_JITTER)], "marker": "os^Dv"[place % 5]}


def draw_noise(axes: Axes, here: pd.DataFrame, value: str) -> Axes:
    """One value per number format, a mark for each jitter."""
    bits = sorted(here["bits"].unique(), reverse=True)
    jitters = sorted(here["jitter"].unique())
    scale = _SHOWN[value].scale
    for place, jitter in enumerate(jitters):
        rows = here[here["jitter"] == jitter]
        mean, low, high = (scale * rows[end].to_numpy() for end in ("estimate", "low", "high"))
        at = rows["bits"].map(bits.index) + layout.spread(place, len(jitters), 0.44)
        look: dict[str, Any] = {
            "ls": "none",
            "ms": 5,
            "elinewidth": 2,
            "zorder": 4,
            "clip_on": False,
        }
        error = np.array([mean - low, high - mean])
        axes.errorbar(at, mean, yerr=error, **look, **_jitter_mark(place))
    axes.set_xticks(range(len(bits)), [_tick(b) for b in bits])
    axes.set_xlim(-0.5, len(bits) - 0.5)
    axes.set_ylim(bottom=0)
    axes.grid(visible=False, axis="x")
    axes.set_ylabel(_SHOWN[value].heading)
    return axes


def _tick(bits: float) -> str:
    return f"{FORMATS.get(int(bits), '')}\n({bits:g} bits)"


FIGURE = Exhibit("10", "band_and_noise", "Width of the band and noise floor", table, draw)
