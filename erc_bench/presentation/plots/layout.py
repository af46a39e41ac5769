"""Pieces the figures share: panels, curves and marks with intervals, ticks, legends below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from erc_bench.presentation.plots.frames import Frames
from erc_bench.presentation.plots.style import (
    COLUMN,
    MUTED,
    WIDE,
    arm_style,
    group_of,
    line_of,
    name_text,
    shade_of,
)
from erc_bench.studies.arms import StoredArm

#: Rows of a legend that a figure's height allows for, and the height of one more.
LEGEND_ROWS, ROW_INCHES = 3, 0.19
MOST_TICKS = 4  # of a logarithmic axis of a small panel


def new_figure(width: float, height: float) -> Figure:
    """A figure that belongs to nobody's global state, its parts laid out without overlap."""
    engine = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05, wspace=0.03, hspace=0.03)
    return Figure(figsize=(width, height), layout=engine)


def panel_grid(figure: Figure, count: int, columns: int = 3) -> list[Axes]:
    """``count`` axes, row by row; places left over stay empty."""
    columns = min(count, columns)
    axes: list[Axes] = (
        figure.subplots(-(-count // columns), columns, squeeze=False).ravel().tolist()
    )
    for extra in axes[count:]:
        extra.remove()
    return axes[:count]


def paired_panels(count: int, block: float = 3.3) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure with two panels for each of ``count`` experiments, the second below the first.

    They stand in blocks of at most three, each at most ``block`` inches high.
    """
    columns = min(count, 3)
    blocks = -(-count // columns)
    width = WIDE if count > 1 else 1.4 * COLUMN
    figure = new_figure(width, min(block, 8.6 / blocks) * blocks + 0.4)
    grid = figure.subplots(2 * blocks, columns, squeeze=False)
    upper, lower = grid[0::2].ravel(), grid[1::2].ravel()
    for axes in (*upper[count:], *lower[count:]):
        axes.remove()
    return figure, list(zip(upper[:count], lower[:count], strict=True))


def parts(figure: Figure, heights: Sequence[float]) -> list[SubFigure]:
    """Parts of a figure below each other, each with a grid of its own."""
    found = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
    return list(found[:, 0])


def first_column(axes: Axes) -> bool:
    """Whether a panel stands at the left edge of its grid."""
    place = axes.get_subplotspec()
    return place is None or place.is_first_col()


def curves(
    axes: Axes,
    table: pd.DataFrame,
    x: str,
    arms: Mapping[str, StoredArm],
    *,
    y: str = "estimate",
    scale: float = 1.0,
    alpha: float = 0.15,
) -> Axes:
    """A line with its shaded interval (columns low and high) for each objective of a tidy table."""
    for name, arm in arms.items():
        curve = table[table["objective"] == name]
        order = 3 if arm.band else 2
        axes.plot(curve[x], scale * curve[y], **line_of(arm, zorder=order + 2))
        shaded = curve.dropna(subset=["low", "high"])
        ends = scale * shaded["low"], scale * shaded["high"]
        axes.fill_between(shaded[x], *ends, **shade_of(arm, alpha=alpha, zorder=order))
    return axes


def marks(
    axes: Axes,
    table: pd.DataFrame,
    at: Any,
    arm: StoredArm,
    *,
    along: Literal["x", "y"] = "x",
    scale: float = 1.0,
    **style: Any,
) -> Axes:
    """Estimates as marks ``at`` places of the other axis, intervals as bars along ``along``."""
    if table.empty:
        return axes
    mean, low, high = (
        scale * table[end].to_numpy(dtype=float) for end in ("estimate", "low", "high")
    )
    place = (mean, at) if along == "x" else (at, mean)
    look = arm_style(arm)
    own: dict[str, Any] = {"color": look.color, "marker": look.marker, "linestyle": "none"}
    own |= {"markersize": 4.5, "ecolor": to_rgba(look.color, 0.7), "elinewidth": 1.6, "zorder": 4}
    error = {f"{along}err": np.array([mean - low, high - mean])}
    drawn = axes.errorbar(*place, **(own | error | style))
    for part in drawn.get_children():
        part.set_gid(group_of(arm))
    return axes


def spread(place: int, count: int, width: float) -> float:
    """Offset of the ``place``-th of ``count`` marks that share a tick, in a span of ``width``."""
    return 0.0 if count == 1 else width * (place / (count - 1) - 0.5)


def mark(arm: StoredArm | None = None, **style: Any) -> Line2D:
    """A legend's handle without a line; of an objective, or of what ``style`` says."""
    own: dict[str, Any] = {"linestyle": "none", "markersize": 5}
    if arm is not None:
        own |= {"color": arm_style(arm).color, "marker": arm_style(arm).marker}
        own |= {"gid": group_of(arm)}
    return Line2D([], [], **own | style)


def line_handles(arms: Mapping[str, StoredArm], *, marked: bool = False) -> list[tuple[Any, str]]:
    """Legend entries of objectives drawn as lines, with their marks or without."""
    found: list[tuple[Any, str]] = []
    for name, arm in arms.items():
        marker = arm_style(arm).marker if marked else ""
        found.append((Line2D([], [], marker=marker, ms=4, **line_of(arm)), name_text(name)))
    return found


def arm_legend(
    figure: Figure,
    frames: Frames,
    experiments: Sequence[str],
    extra: Sequence[tuple[Line2D, str]] = (),
) -> None:
    """Legend of the objectives of some experiments; diverged runs are counted in the label."""
    drawn = {e: frames.arms(e) for e in experiments}
    entries = []
    for name, arm in frames.looks(n for arms in drawn.values() for n in arms).items():
        counts = [frames.failures(e, name) for e, arms in drawn.items() if name in arms]
        failed, runs = (sum(c) for c in zip(*counts, strict=True))
        text = name_text(name) + (f" ({failed}/{runs} diverged)" if failed else "")
        entries.append((Line2D([], [], **line_of(arm)), text))
    if any("diverged)" in text for _, text in entries):
        entries.append((mark(color=MUTED, marker="x"), "a run diverged here"))
    legend_below(figure, [*entries, *extra])


def legend_below(figure: Figure, entries: Sequence[tuple[Any, str]]) -> None:
    """One legend below all panels, in as many columns as fit the width; the figure grows by it."""
    if not entries:
        return
    handles, labels = zip(*entries, strict=True)
    width = 0.55 + 0.062 * max(len(label) for label in labels)
    columns = int(min(max(figure.get_figwidth() // width, 1), len(handles), 5))
    rows = -(-len(handles) // columns)
    if rows > LEGEND_ROWS:  # or the legend takes the panels' place
        figure.set_figheight(figure.get_figheight() + ROW_INCHES * (rows - LEGEND_ROWS))
    place: dict[str, Any] = {"loc": "outside lower center", "columnspacing": 1.4}
    legend = figure.legend(handles, labels, ncols=-(-len(handles) // rows), **place)
    for given, *drawn in zip(handles, legend.legend_handles, legend.get_texts(), strict=True):
        for part in drawn:
            if part is not None:
                part.set_gid(given.get_gid())


def group_labels(labels: Iterable[Text], arms: Iterable[StoredArm]) -> None:
    """Make rows' labels part of their objectives' groups."""
    for label, arm in zip(labels, arms, strict=True):
        label.set_gid(group_of(arm))


def log_ticks(axes: Axes, which: str) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, as few as there is room for."""
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        at = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(at) <= MOST_TICKS:
            break
    else:
        at = at[:: -(-len(at) // MOST_TICKS)]
    _set_ticks(axes, which, at, power_text)


def _set_ticks(axes: Axes, which: str, at: Sequence[float], text: Any) -> None:
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(at))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())


def power_text(value: float) -> str:
    """A number for a tick: plain near 1, else with a power of ten.

    >>> power_text(0.02), power_text(0.0005), power_text(1e-4)
    ('0.02', '5·10⁻⁴', '10⁻⁴')
    """
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:g}"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    power = "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    factor = f"{value / 10.0**exponent:.3g}"
    return power if factor == "1" else f"{factor}·{power}"


_HIGHER = (1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 100.0, 1e3)
_LOWER = (0.95, 0.9, 0.8, 0.7, 0.5, 0.33, 0.2, 0.1, 0.05, 1e-2, 1e-3)


def ratio_ticks(axes: Axes, which: str, most: int = 7) -> None:
    """Ticks of a natural-log axis at round ratios, as many as have room."""
    low, high = getattr(axes, f"get_{which}lim")()
    chosen = [0.0]
    for ratios in (_HIGHER, _LOWER):
        last = 0.0
        for at in map(math.log, ratios):
            if abs(at - last) >= (high - low) / most and low <= at <= high:
                chosen.append(at)
                last = at
    _set_ticks(axes, which, sorted(chosen), lambda value: f"{math.exp(value):.3g}")


def log_limits(
    values: np.ndarray, include: Sequence[float], share: float = 0.002
) -> tuple[float, float]:
    """Limits of a symmetric log-ratio axis: all but the outermost values, and the given lines."""
    finite = np.abs(values[np.isfinite(values)])
    reach = float(np.quantile(finite, 1 - share)) if finite.size else 0.0
    reach = 1.08 * max(reach, 1.25 * max(abs(v) for v in include))
    return -reach, reach
