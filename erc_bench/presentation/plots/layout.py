"""Pieces the figures share: panel grids, legends below, numbers in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from erc_bench.presentation.plots.frames import Frames, band
from erc_bench.presentation.plots.style import (
    WIDE,
    arm_style,
    group_of,
    line_of,
    name_text,
    ordered,
)

__all__ = [
    "arm_legend",
    "arm_lines",
    "clear_sign",
    "first_column",
    "group_labels",
    "legend_below",
    "log_limits",
    "log_ticks",
    "new_figure",
    "over_seeds",
    "paired_panels",
    "panel_grid",
    "percent",
    "plus_minus",
    "power_text",
    "sentence_list",
    "subfigures",
    "tally",
]


#: Rows of a legend that a figure's height allows for, and the height of one more.
LEGEND_ROWS, ROW_INCHES = 3, 0.19
MOST_TICKS = 4  # of a logarithmic axis of a small panel


def new_figure(width: float, height: float) -> Figure:
    """A figure that belongs to nobody's global state, its parts laid out without overlap."""
    engine = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05, wspace=0.03, hspace=0.03)
    return Figure(figsize=(width, height), layout=engine)


def panel_grid(figure: Figure, count: int, columns: int = 3, **kwargs: Any) -> list[Axes]:
    """``count`` axes, row by row; places left over stay empty."""
    columns = min(count, columns)
    rows = math.ceil(count / columns)
    axes: list[Axes] = figure.subplots(rows, columns, squeeze=False, **kwargs).ravel().tolist()
    for extra in axes[count:]:
        extra.remove()
    return axes[:count]


def paired_panels(
    count: int, single: float, block: float
) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure with two panels for each of ``count`` experiments.

    One experiment has them side by side, ``single`` inches high; more have the second below the
    first, in blocks of at most three, ``block`` inches high.
    """
    if count == 1:
        figure = new_figure(WIDE, single)
        left, right = figure.subplots(1, 2)
        return figure, [(left, right)]
    columns = min(count, 3)
    blocks = math.ceil(count / columns)
    figure = new_figure(WIDE, block * blocks + 0.4)
    grid = figure.subplots(2 * blocks, columns, squeeze=False)
    places = [(2 * (i // columns), i % columns) for i in range(blocks * columns)]
    panels = [(grid[row, column], grid[row + 1, column]) for row, column in places]
    for axes in (a for pair in panels[count:] for a in pair):
        axes.remove()
    return figure, panels[:count]


def subfigures(figure: Figure, heights: Sequence[float]) -> list[SubFigure]:
    """Parts of a figure below each other, each with a grid of its own."""
    grid = figure.add_gridspec(len(heights), 1, height_ratios=list(heights))
    return [figure.add_subfigure(grid[row, 0]) for row in range(len(heights))]


def legend_below(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend below all panels, in as many columns as fit the width; the figure grows by it."""
    if not handles:
        return
    width = 0.55 + 0.064 * max(len(label) for label in labels)
    columns = int(min(max(figure.get_figwidth() // width, 1), len(handles), 5))
    rows = math.ceil(len(handles) / columns)
    if rows > LEGEND_ROWS:  # or the legend takes the panels' place
        figure.set_figheight(figure.get_figheight() + ROW_INCHES * (rows - LEGEND_ROWS))
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=math.ceil(len(handles) / rows),
        columnspacing=1.4,
    )  # fmt: skip
    for given, *drawn in zip(handles, legend.legend_handles, legend.get_texts(), strict=True):
        for part in drawn:
            if part is not None:
                part.set_gid(given.get_gid())


def group_labels(labels: Iterable[Text], names: Iterable[str]) -> None:
    """Make rows' labels part of their objectives' groups."""
    for label, name in zip(labels, names, strict=True):
        label.set_gid(group_of(name))


def arm_legend(
    figure: Figure,
    frames: Frames,
    drawn: Mapping[str, Iterable[str]],
    extra: Sequence[tuple[Line2D, str]] = (),
) -> None:
    """Legend of the objectives drawn per experiment; diverged runs are counted in the label."""
    handles, labels = [], []
    for name in ordered({arm for arms in drawn.values() for arm in arms}):
        counts = [frames.failures(e, name) for e, arms in drawn.items() if name in set(arms)]
        failed, runs = (sum(c) for c in zip(*counts, strict=True))
        handles.append(Line2D([], [], **line_of(name)))
        labels.append(name_text(name) + (f" ({failed}/{runs} diverged)" if failed else ""))
    if any("diverged)" in label for label in labels):
        handles.append(Line2D([], [], color="#6b6b6b", marker="x", linestyle="none"))
        labels.append("a run diverged here")
    handles += [handle for handle, _ in extra]
    labels += [label for _, label in extra]
    legend_below(figure, handles, labels)


def arm_lines(figure: Figure, names: Sequence[str], extra: Sequence[tuple[Any, str]] = ()) -> None:
    """Legend of objectives drawn as lines with marks, and of what else there is."""
    handles: list[Any] = [
        Line2D([], [], marker=arm_style(n).marker, markersize=4, **line_of(n)) for n in names
    ]
    labels = [name_text(n) for n in names]
    legend_below(figure, handles + [h for h, _ in extra], labels + [t for _, t in extra])


def first_column(axes: Axes) -> bool:
    """Whether a panel stands at the left edge of its grid."""
    place = axes.get_subplotspec()
    return place is None or place.is_first_col()


def log_ticks(axes: Axes, which: str) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, as few as there is room for."""
    low, high = sorted(getattr(axes, f"get_{which}lim")())
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        at = [s * 10.0**d for d in decades for s in steps if low <= s * 10.0**d <= high]
        if len(at) <= MOST_TICKS:
            break
    else:
        at = at[:: math.ceil(len(at) / MOST_TICKS)]
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(at))
    axis.set_major_formatter(FuncFormatter(lambda v, _: power_text(v)))
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


def over_seeds(frame: pd.DataFrame, value: str) -> pd.Series:
    """Mean and interval of a per-token value: first the mean within each seed, then over seeds."""
    return band(frame.groupby("seed")[value].mean().to_numpy()[:, None]).iloc[0]


def percent(share: float) -> str:
    """A share as a percentage: three digits that count, two below one percent."""
    if not math.isfinite(share):
        return "–"
    return f"{100 * share:.{3 if share >= 0.01 else 2}g} %"


def plus_minus(interval: pd.Series, scale: float = 1.0, unit: str = "") -> str:
    """Mean and half interval; without an interval the mean alone."""
    mean, half = scale * interval["mean"], scale * (interval["high"] - interval["low"]) / 2
    if not math.isfinite(half):
        return f"{mean:.3g}{unit}"
    return f"{mean:.3g} ± {half:.2g}{unit}"


def clear_sign(base: pd.Series, other: pd.Series) -> int:
    """1 or -1 where ``other - base`` over shared seeds differs from 0 (95 % interval), else 0.

    >>> clear_sign(pd.Series([1.0, 1.2, 1.1]), pd.Series([2.0, 2.1, 2.2]))
    1
    """
    found = band((other - base).dropna().to_numpy()[:, None]).iloc[0]
    return int(found["low"] > 0) - int(found["high"] < 0)


def tally(signs: Sequence[int], what: str) -> str:
    """How often a paired difference was clear, in words.

    >>> tally([1, 0, 0], "pairs")
    'higher in 1, lower in 0 and unclear in 2 of 3 pairs'
    """
    high, low = sum(s > 0 for s in signs), sum(s < 0 for s in signs)
    unclear = len(signs) - high - low
    return f"higher in {high}, lower in {low} and unclear in {unclear} of {len(signs)} {what}"


def sentence_list(items: Sequence[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def log_limits(
    values: np.ndarray, include: Sequence[float], share: float = 0.002
) -> tuple[float, float]:
    """Limits of a symmetric log-ratio axis: all but the outermost values, and the given lines."""
    finite = np.abs(values[np.isfinite(values)])
    reach = float(np.quantile(finite, 1 - share)) if finite.size else 0.0
    reach = 1.08 * max(reach, 1.25 * max(abs(v) for v in include))
    return -reach, reach
