"""The gradient-weight figure of one objective."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from erc_bench.presentation.plots.style import COLUMN, INK, MUTED, WIDE, styled
from tools.docs_pages.curves import Array, Panel

__all__ = ["draw", "svg"]

#: The wider line comes first, so that both are seen where they agree.
_LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#00508c", "lw": 2.4, "label": "A > 0", "solid_capstyle": "butt"},
    {"color": "#c1440e", "lw": 1.2, "label": "A < 0", "solid_capstyle": "butt"},
)
_UNCONSTRAINED: dict[str, Any] = {"color": MUTED, "lw": 0.8, "ls": (0, (1, 2)), "zorder": 1.5}
_LABELS = {"r": "probability ratio r", "rho": "entropy ratio ρ, at r = 1"}


@styled
def draw(panels: Sequence[Panel]) -> Figure:
    """One plot for each panel; blue where the action is rewarded, orange where it is punished."""
    columns = 3 if len(panels) == 3 else min(len(panels), 2)
    rows = -(-len(panels) // columns)
    size = (WIDE if len(panels) > 1 else COLUMN + 0.9, 0.3 + 2.1 * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    several = len({panel.probability for panel in panels}) > 1
    for ax, panel in zip(axes, panels, strict=True):
        _panel(ax, panel)
        if several:
            ax.set_title(f"old probability {panel.probability:g}", fontsize=7, weight="normal")
    for ax in axes[::columns]:
        ax.set_ylabel("gradient weight / |A|")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _panel(ax: Axes, panel: Panel) -> None:
    x = panel.x
    ax.axhline(0, color=INK, lw=0.6)
    ax.axvline(1, color=MUTED, lw=0.6, ls=(0, (4, 3)))
    for weights, look in zip(panel.weights, _LOOKS, strict=True):
        ax.plot(*_outline(x, weights), **look)
    unconstrained = x if panel.axis == "r" else np.ones_like(x)
    for sign, label in ((1, "r A, unconstrained"), (-1, None)):
        ax.plot(x[[0, -1]], sign * unconstrained[[0, -1]], label=label, **_UNCONSTRAINED)
    values = np.concatenate([*panel.weights, unconstrained, -unconstrained])
    bottom, top = np.nanmin(values), np.nanmax(values)
    margin = 0.06 * (top - bottom)
    ax.set(xlim=(x[0], x[-1]), ylim=(bottom - margin, top + margin), xlabel=_LABELS[panel.axis])
    if x[-1] - x[0] < 0.1:
        ax.set_xticks([0.999, 1.0, 1.001])


def _outline(x: Array, weights: Array) -> tuple[Array, Array]:
    """The corners of a curve, with a gap where it jumps."""
    steps = np.abs(np.diff(weights))
    known = np.pad(np.nan_to_num(steps), 1)
    neighbours = np.maximum(known[:-2], known[2:])
    jumps = np.flatnonzero(steps > 0.05 + 4 * neighbours) + 1
    x, weights = np.insert(x, jumps, x[jumps]), np.insert(weights, jumps, np.nan)
    second = np.diff(weights, 2)
    straight = np.concatenate([[False], np.abs(second) <= 1e-5, [False]])  # False next to a gap
    return x[~straight], weights[~straight]


@styled
def svg(figure: Figure) -> str:
    """The figure as text."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
