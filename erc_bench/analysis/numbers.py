"""How numbers are written: every table, caption and sentence formats its numbers here.

An unknown number is written as an en dash. No text made here contains a line break, and negative
numbers of :func:`number` have the mathematical minus sign.
"""

from __future__ import annotations

import math

from erc_bench.analysis.statistics import Estimate, Interval

__all__ = [
    "UNKNOWN",
    "decimals",
    "ends",
    "estimate_text",
    "interval_text",
    "number",
    "percent",
    "plus_minus",
]

UNKNOWN = "–"


def number(value: float, digits: int = 3, *, signed: bool = False) -> str:
    """A number with so many significant digits, and commas between thousands.

    >>> number(1234.5), number(-0.01234, 2, signed=True), number(math.nan)
    ('1,234', '−0.012', '–')
    """
    if not math.isfinite(value):
        return UNKNOWN if math.isnan(value) else f"{value:g}".replace("inf", "∞").replace("-", "−")
    if abs(value) >= 10**digits:
        text = f"{value:{'+' if signed else ''},.0f}"
    else:
        text = f"{value:{'+' if signed else ''}.{digits}g}"
    return text.replace("-", "−")


def percent(share: float) -> str:
    """A share as a percentage with three significant digits, or two below one percent.

    >>> percent(0.28214), percent(0.00156)
    ('28.2 %', '0.16 %')
    """
    return UNKNOWN if math.isnan(share) else f"{number(100 * share, 3 if share >= 0.01 else 2)} %"


def decimals(half: float, most: int) -> int:
    """Number of decimals that show two digits of an uncertainty, but at most ``most``."""
    return min(max(1 - math.floor(math.log10(half)), 0), most)


def plus_minus(interval: Interval, scale: float = 1.0, unit: str = "") -> str:
    """Mean and half interval, or the mean alone if there is no interval.

    >>> plus_minus(Interval(0.2821, 0.27, 0.2942, 10), 100, " %")
    '28.2 ± 1.2 %'
    """
    mean, half = scale * interval.mean, scale * interval.half
    return f"{number(mean)}{f' ± {number(half, 2)}' if math.isfinite(half) else ''}{unit}"


def ends(low: float, high: float, digits: int = 3, *, signed: bool = False) -> str:
    """The ends of an interval.

    >>> ends(-0.1, 0.25, 2, signed=True)
    '−0.1 to +0.25'
    """
    return f"{number(low, digits, signed=signed)} to {number(high, digits, signed=signed)}"


def interval_text(interval: Interval, scale: float = 1.0, *, separator: str = "±") -> str:
    """A mean and half its interval, rounded to two digits of the latter.

    There are at most three decimals, or four for values below 0.05.

    >>> interval_text(Interval(0.71234, 0.69934, 0.72534, 5))
    '0.712±0.013'
    >>> interval_text(Interval(0.71234, math.nan, math.nan, 1))
    '0.712 n=1'
    """
    if not math.isfinite(interval.mean):
        return UNKNOWN
    mean, half = scale * interval.mean, scale * interval.half
    if math.isfinite(half) and half > 0:
        places = decimals(half, 3 if abs(mean) >= 0.05 else 4)
        return f"{mean:,.{places}f}{separator}{half:,.{places}f}"
    places = 3 if mean == 0 else min(max(2 - math.floor(math.log10(abs(mean))), 0), 4)
    text = f"{mean:,.{places}f}" if mean else "0"
    return f"{text} n=1" if interval.n == 1 else f"{text}{separator}0"


def estimate_text(estimate: Estimate) -> str:
    """A statistic with the ends of its bootstrap interval.

    >>> estimate_text(Estimate(0.5, 0.41, 0.562))
    '0.500 (0.410 to 0.562)'
    """
    if not math.isfinite(estimate.value):
        return UNKNOWN
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
