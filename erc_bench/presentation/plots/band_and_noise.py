"""Figure 10: how wide the band should be, and how much of what it drops is numeric noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from erc_bench.presentation.plots.clipping import PAPER_DROPPED
from erc_bench.presentation.plots.frames import Drawing, Frames, NothingToDraw, band
from erc_bench.presentation.plots.layout import (
    arm_lines,
    log_ticks,
    new_figure,
    percent,
    plus_minus,
    subfigures,
)
from erc_bench.presentation.plots.per_run import (
    KL,
    REWARD,
    column,
    group_bands,
    mark_fraction,
    runs_of,
)
from erc_bench.presentation.plots.staleness import draw_interval
from erc_bench.presentation.plots.style import (
    MUTED,
    WIDE,
    arm_style,
    group_of,
    line_of,
    ordered,
    styled,
)

__all__ = ["fig10_band_and_noise"]

SWEEP, PRECISION = "beta_sweep", "precision"
BASE, GATE, TASK = "dapo", "erc-dapo", "forking_tokens"
DROPPED, OUTSIDE = "mean/gate/dropped_fraction", "mean/drift/out_of_band_fraction"
_UPPER = ((REWARD, "final reward", 1.0), (DROPPED, "dropped tokens (%)", 100.0),
          (KL, "exact KL (10⁻³ nats)", 1e3))  # fmt: skip
#: Number formats by their significand bits.
FORMATS = {53: "float64", 24: "float32", 11: "float16", 8: "bfloat16"}
MOST_WIDTHS = 7  # ticks for which a panel has room
_JITTER = ("#b4b4b4", "#7a7a7a", "#1a1a1a", "#a08a60", "#5c4a1e")
_THRESHOLD: dict[str, Any] = {"color": MUTED, "linewidth": 0.9, "linestyle": (0, (1, 1.5))}
_MEASURED: dict[str, Any] = {
    "color": arm_style(GATE).color,
    "linewidth": 1.1,
    "linestyle": (0, (4, 2)),
}


@styled
def fig10_band_and_noise(frames: Frames) -> Drawing:
    """Reward, dropped share and exact KL against the band, and the gate's noise floor.

    Above: the band's half-width on a logarithmic axis, dapo without a gate as a level line. Below:
    what lies outside the 5 % band, and exact KL, when no update was made at all and only the number
    format and jitter of the behaviour policy's logits differ.
    """
    parts, skipped = [], []
    for read in (_swept, _noise):
        try:
            parts.append(read(frames))
        except NothingToDraw as reason:
            parts.append(pd.DataFrame())
            skipped.append(str(reason))
    if len(skipped) == len(parts):
        raise NothingToDraw("; ".join(skipped))
    swept, noise = parts
    rows = [2.0 if not swept.empty else 0.0, 2.1 if not noise.empty else 0.0]
    figure = new_figure(WIDE, sum(rows) + 0.75)
    figures = subfigures(figure, [max(r, 1e-3) for r in rows])
    reference = _reference(frames)
    extra: list[tuple[Line2D, str]] = []
    arms: list[str] = []
    if not swept.empty:
        arms = ordered(swept["objective"])
        _draw_sweep(figures[0].subplots(1, 3), swept, arms)
    if not noise.empty:
        extra = _draw_noise(figures[1].subplots(1, 2, width_ratios=(1.5, 1)), noise, reference)
    arm_lines(figure, arms, extra)
    data = pd.concat([swept, noise, reference], ignore_index=True)
    caption = _caption(swept, noise, reference)
    return Drawing(
        "fig10_band_and_noise",
        "Width of the band and noise floor",
        figure,
        data,
        caption,
        _notice(swept, noise, reference),
    )


def _swept(frames: Frames) -> pd.DataFrame:
    """Bands over seeds per arm and half-width; NaN half-width: no gate."""
    runs = runs_of(frames, SWEEP, [DROPPED, KL])
    width = column(runs, "hyper/band_high")
    gated = runs["recipe"] != BASE
    runs = runs.assign(half_width=width.fillna(frames.settings(SWEEP).band[1]).where(gated))
    tables = [
        group_bands(runs, ["recipe", "half_width"], value).assign(value=value)
        for value, _, _ in _UPPER
    ]
    data = pd.concat(tables, ignore_index=True).rename(columns={"recipe": "objective"})
    order = ["part", "value", "objective", "half_width", "mean", "low", "high", "n"]
    return data.assign(part=SWEEP)[order]


def _noise(frames: Frames) -> pd.DataFrame:
    """Bands over seeds per number format and jitter."""
    runs = runs_of(frames, PRECISION, [OUTSIDE])
    runs = runs.assign(
        bits=column(runs, "hyper/rollout_bits").fillna(24.0),
        jitter=column(runs, "hyper/rollout_jitter").fillna(0.0),
    )
    tables = [
        group_bands(runs, ["bits", "jitter"], value).assign(value=value)
        for value in (OUTSIDE, KL)
        if np.isfinite(column(runs, value)).any()
    ]
    return pd.concat(tables, ignore_index=True).assign(part=PRECISION)


def _reference(frames: Frames) -> pd.DataFrame:
    """Share that the gate drops in forking_tokens; no row without that experiment."""
    runs = frames.runs[(frames.runs["experiment"] == TASK) & (frames.runs["objective"] == GATE)]
    shares = column(runs, DROPPED).to_numpy()
    if not np.isfinite(shares).any():
        return pd.DataFrame()
    return band(shares[:, None]).assign(part=TASK, value=DROPPED, objective=GATE)


def _draw_sweep(axes: np.ndarray, data: pd.DataFrame, arms: list[str]) -> None:
    for panel, (value, label, scale) in zip(axes, _UPPER, strict=True):
        here = data[data["value"] == value]
        for name in arms:
            arm = here[here["objective"] == name]
            points = arm[arm["half_width"].notna()]
            if not points.empty:
                draw_interval(panel, points, "half_width", name, scale)
            elif len(arm) and value != DROPPED:  # without a gate nothing is dropped
                row = arm.iloc[0]
                panel.axhline(scale * row["mean"], **line_of(name, zorder=2))
                if math.isfinite(row["low"]):
                    panel.axhspan(scale * row["low"], scale * row["high"], linewidth=0, alpha=0.2,
                                  color=arm_style(name).color, zorder=1, gid=group_of(name))  # fmt: skip
        panel.set_xscale("log")
        widths = sorted(here["half_width"].dropna().unique())
        if len(widths) > MOST_WIDTHS:
            log_ticks(panel, "x")
        else:
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_xticks(widths, [f"{w:g}" for w in widths])
        panel.set_xlabel("half-width of the band")
        panel.set_ylabel(label)
        if value == DROPPED:
            panel.set_ylim(bottom=0)


def _draw_noise(
    axes: np.ndarray, data: pd.DataFrame, reference: pd.DataFrame
) -> list[tuple[Line2D, str]]:
    bits = sorted(data["bits"].unique(), reverse=True)
    jitters = sorted(data["jitter"].unique())
    legend = []
    for panel, (value, label, scale) in zip(
        axes, ((OUTSIDE, "outside the band (%)", 100.0), (KL, "exact KL (10⁻³ nats)", 1e3)),
        strict=True,
    ):  # fmt: skip
        for place, jitter in enumerate(jitters):
            here = data[(data["value"] == value) & (data["jitter"] == jitter)]
            at = here["bits"].map(bits.index) + mark_fraction(place, len(jitters), 0.44)
            color, marker = _JITTER[place % len(_JITTER)], "os^Dv"[place % 5]
            panel.vlines(at, scale * here["low"], scale * here["high"], color=color, linewidth=2)
            panel.plot(at, scale * here["mean"], color=color, marker=marker, markersize=5,
                       linestyle="none", zorder=4, clip_on=False)  # fmt: skip
            if value == OUTSIDE:
                handle = Line2D([], [], color=color, marker=marker, linestyle="none", markersize=5)
                legend.append((handle, f"jitter {jitter:g}"))
        panel.set_xticks(range(len(bits)), [_format_text(b) for b in bits])
        panel.set_xlim(-0.5, len(bits) - 0.5)
        panel.grid(visible=False, axis="x")
        panel.set_xlabel("the rollout's logits rounded to; no update made")
        panel.set_ylabel(label)
    axes[1].set_xlabel("rounded to; no update made")
    axes[0].axhline(100 * PAPER_DROPPED, **_THRESHOLD)
    legend.append((Line2D([], [], **_THRESHOLD), "dropped in the paper: 20.29 %"))
    if not reference.empty:
        share = float(reference["mean"].iloc[0])
        axes[0].axhline(100 * share, **_MEASURED)
        legend.append(
            (Line2D([], [], **_MEASURED), f"dropped by {GATE} in {TASK}: {percent(share)}")
        )
    for panel in axes:
        panel.set_ylim(bottom=0)
    return legend


def _format_text(bits: float) -> str:
    return FORMATS.get(int(bits), "") + f"\n({bits:g} bits)"


def _notice(swept: pd.DataFrame, noise: pd.DataFrame, reference: pd.DataFrame) -> str:
    words = []
    if not swept.empty:
        words.append(
            f"Above, look for a half-width whose reward lies over {BASE}'s level line, and at its drift. "
            f"{' '.join(_best_widths(swept))}"
        )
    if not noise.empty:
        outside = noise[(noise["value"] == OUTSIDE) & np.isfinite(noise["mean"])]
        still = outside[outside["jitter"] == outside["jitter"].min()].sort_values("bits").iloc[0]
        text = (
            "Below, no update was made: whatever lies outside the band is noise. Rounding to the coarsest "
            f"format puts {percent(still['mean'])} there"
        )
        if not reference.empty:
            text += f"; {GATE} drops {percent(reference['mean'].iloc[0])} in {TASK}"
        words.append(text + ".")
    return " ".join(words)


def _caption(swept: pd.DataFrame, noise: pd.DataFrame, reference: pd.DataFrame) -> str:
    words = []
    if not swept.empty:
        words.append(
            "Above: final reward (a diverged run counts as 0), share of tokens the gate drops and "
            "exact KL against the half-width of the band, means over a run's updates and 95 % "
            f"intervals over {int(swept['n'].max())} seeds; level line: {BASE}, which has no gate."
        )
        words += _best_widths(swept)
    if not noise.empty:
        words.append(
            "Below: the learning rate is 0, so every token should have an entropy ratio of 1; the "
            "behaviour policy's logits are rounded and disturbed by Gaussian noise (jitter: its "
            "standard deviation). Share of tokens outside the band of 5 % and exact KL, means and "
            f"95 % intervals over {int(noise['n'].max())} seeds."
        )
        words += _floors(noise, reference)
    return " ".join(words)


def _best_widths(swept: pd.DataFrame) -> list[str]:
    reward = swept[(swept["value"] == REWARD) & np.isfinite(swept["mean"])]
    found = []
    for name in ordered(reward["objective"]):
        arm = reward[reward["objective"] == name]
        best = arm.loc[arm["mean"].idxmax()]
        where = "" if math.isnan(best["half_width"]) else f" at ±{best['half_width']:g}"
        found.append(f"{name} {plus_minus(best)}{where}")
    return [f"Highest mean reward: {', '.join(found)}."]


def _floors(noise: pd.DataFrame, reference: pd.DataFrame) -> list[str]:
    outside = noise[(noise["value"] == OUTSIDE) & np.isfinite(noise["mean"])]
    still = outside[outside["jitter"] == outside["jitter"].min()].sort_values("bits")
    words = [
        f"{FORMATS.get(int(row['bits']), f'{row.bits:g} bits')} {plus_minus(row, 100, ' %')}"
        for _, row in still.iterrows()
    ]
    found = [f"Outside the band at jitter {still['jitter'].iloc[0]:g}: {', '.join(words)}."]
    if not reference.empty and reference["mean"].iloc[0] > 0:
        drop, row = reference.iloc[0], still.iloc[0]
        found.append(
            f"{GATE} drops {plus_minus(drop, 100, ' %')} in {TASK}; noise of the coarsest format "
            f"alone puts {percent(row['mean'] / drop['mean'])} as many outside."
        )
    return found
