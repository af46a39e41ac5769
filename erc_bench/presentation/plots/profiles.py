"""Figure 11: how scores are distributed over runs, and how likely a gate improves on its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from erc_bench.analysis.scores import OVERALL, Scores, improvements
from erc_bench.analysis.statistics import performance_profile
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.exhibits import Exhibit
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.scorecard import REFERENCE, scores_of
from erc_bench.presentation.plots.style import GRID, INK, MUTED, WIDE, arm_style, name_text
from erc_bench.studies.arms import StoredArm, gated_pairs

TAUS = np.linspace(0.0, 1.0, 201)
LINES = 7  # profiles in one panel
FOUND = 0.05  # adjusted p-value below which a marker is filled
PROFILE, IMPROVEMENT = "profile", "improvement"


def table(frames: Frames) -> pd.DataFrame:
    """Share of runs with score > tau over the common experiments, and P(gated arm > base)."""
    scores = scores_of(frames)
    names = _profiled(frames, scores)
    if not names:
        raise NothingToDraw("no two objectives share an experiment that has scores")
    tables = []
    for name in names:
        found = performance_profile(scores.strata(name, scores.common), TAUS)
        curve = {"tau": found.taus, "share": found.share, "low": found.low, "high": found.high}
        tables.append(pd.DataFrame(curve).assign(kind=PROFILE, objective=name))
    improved = improvements(scores)
    if len(improved):
        tables.append(improved.assign(kind=IMPROVEMENT))
    return pd.concat(tables, ignore_index=True)


def _profiled(frames: Frames, scores: Scores) -> list[str]:
    """Objectives in every common experiment; of too many, those of the pairs and PPO-clip first."""
    looks = frames.looks(scores.ranked)
    if len(looks) < 2:
        return []
    first = {name for pair in gated_pairs(looks.values()) for name in pair} | {REFERENCE}
    chosen = sorted(looks, key=lambda name: name not in first)[:LINES]
    return [name for name in looks if name in chosen]


def draw(frames: Frames, data: pd.DataFrame) -> Figure:
    """Left: performance profiles. Right: probability of improvement, per experiment and overall."""
    profiles, improved = (data[data["kind"] == kind] for kind in (PROFILE, IMPROVEMENT))
    scores = scores_of(frames)
    rows = [e for e in [*scores.experiments, OVERALL] if e in set(improved.get("experiment", ()))]
    figure = layout.new_figure(WIDE, max(3.1, 0.8 + 0.32 * len(rows)) + 0.5)
    left, *right = figure.subplots(1, 2 if rows else 1, squeeze=False)[0]
    arms = frames.looks(profiles["objective"].unique())
    others = frames.looks(improved["objective"].unique())
    layout.curves(left, profiles, "tau", arms, y="share", alpha=0.12)
    left.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="score τ", ylabel="share of runs with score > τ")
    count = len(scores.common)
    what = f"{count} experiments" if count > 1 else name_text(scores.common[0])
    left.set_title(f"performance profiles, {what}")
    entries = [
        layout.line_handles({name: arm}, marked=name in others)[0]
        for name, arm in frames.looks([*arms, *others]).items()
    ]
    if rows:
        draw_improvements(right[0], improved, rows, others)
        for face, text in ((INK, f"p < {FOUND:g}, Holm"), ("white", f"p ≥ {FOUND:g}")):
            entries.append((layout.mark(color=INK, marker="o", markerfacecolor=face), text))
    layout.legend_below(figure, entries)
    return figure


def draw_improvements(
    axes: Axes, improved: pd.DataFrame, rows: Sequence[str], others: Mapping[str, StoredArm]
) -> Axes:
    """A row per experiment, a mark with its interval per gated arm; filled where a test found it."""
    points = improved.rename(columns={"value": "estimate"})
    for place, (name, arm) in enumerate(others.items()):
        offset = layout.spread(place, len(others), 0.64 * (1 - 1 / len(others)))
        here = points[points["objective"] == name]
        for found, face in ((True, arm_style(arm).color), (False, "white")):
            shown = here[(here["p_holm"] < FOUND) == found]
            at = shown["experiment"].map(rows.index).astype(float) + offset
            style: dict[str, Any] = {
                "elinewidth": 1.1,
                "markeredgewidth": 0.9,
                "markerfacecolor": face,
            }
            layout.marks(axes, shown, at, arm, markersize=4.4, clip_on=False, **style)
    axes.axvline(0.5, color=MUTED, linewidth=0.8, zorder=1)
    for row in range(1, len(rows)):
        axes.axhline(row - 0.5, color=GRID, linewidth=0.5, zorder=1)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [name_text(e.replace("_", " ")) for e in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    if OVERALL in rows:
        axes.axhline(len(rows) - 1.5, color=INK, linewidth=0.7, zorder=1)
        axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.set_xlabel("P(with the gate > without)")
    axes.set_title("probability of improvement")
    return axes


FIGURE = Exhibit("11", "profiles", "Performance profiles", table, draw)
