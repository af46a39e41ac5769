"""The gradient-weight figure of one objective."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from erc_bench.docs_pages.curves import Panel
from erc_bench.presentation.plots.style import ACCENT, COLUMN, INK, MUTED, WIDE, styled

__all__ = ["draw", "png"]

_REWARDED: dict[str, Any] = {
    "color": "#00508c",
    "lw": 2.4,
    "label": "A > 0",
    "solid_capstyle": "butt",
}
_PUNISHED: dict[str, Any] = {"color": ACCENT, "lw": 1.2, "label": "A < 0", "solid_capstyle": "butt"}
_UNCONSTRAINED: dict[str, Any] = {"color": MUTED, "lw": 0.8, "ls": (0, (1, 2)), "zorder": 1.5}
_LABELS = {
    "r": "probability ratio r",
    "rho": "entropy ratio ρ, at r = 1",
}
_DPI = 144


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
    x = np.array(panel.x)
    ax.axhline(0, color=INK, lw=0.6)
    ax.axvline(1, color=MUTED, lw=0.6, ls=(0, (4, 3)))
    # the wider line below, so that both are seen where they agree
    for weights, look in ((panel.rewarded, _REWARDED), (panel.punished, _PUNISHED)):
        ax.plot(*_outline(x, np.array(weights)), **look)
    unconstrained = x if panel.axis == "r" else np.ones_like(x)
    for sign, label in ((1, "r A, unconstrained"), (-1, None)):
        ax.plot(x[[0, -1]], sign * unconstrained[[0, -1]], label=label, **_UNCONSTRAINED)
    values = np.array([*panel.rewarded, *panel.punished, *unconstrained, *-unconstrained])
    bottom, top = np.nanmin(values), np.nanmax(values)
    margin = 0.06 * (top - bottom)
    ax.set(xlim=(x[0], x[-1]), ylim=(bottom - margin, top + margin), xlabel=_LABELS[panel.axis])
    if x[-1] - x[0] < 0.1:
        ax.set_xticks([0.999, 1.0, 1.001])


def _outline(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of a curve, with a gap at jumps, which no line crosses."""
    steps = np.abs(np.diff(weights))
    known = np.pad(np.nan_to_num(steps), 1)
    neighbours = np.maximum(known[:-2], known[2:])
    jumps = np.flatnonzero(steps > 0.05 + 4 * neighbours) + 1
    x, weights = np.insert(x, jumps, x[jumps]), np.insert(weights, jumps, np.nan)
    bend = np.abs(np.diff(weights, 2)) > 1e-5
    straight = np.concatenate([[False], ~bend & np.isfinite(np.diff(weights, 2)), [False]])
    return x[~straight], weights[~straight]


@styled
def png(figure: Figure, digest: str) -> bytes:
    """A PNG of few colours; ``digest`` of the data it was drawn from is in its description."""
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=_DPI)
    image = Image.open(raw).convert("RGB")
    information = PngInfo()
    information.add_text("Description", digest)
    buffer = io.BytesIO()
    image.quantize(64, dither=Image.Dither.NONE).save(
        buffer, "png", optimize=True, pnginfo=information, dpi=(_DPI, _DPI)
    )
    return buffer.getvalue()
