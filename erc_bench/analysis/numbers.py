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
    "with_ends",
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


def with_ends(interval: Interval, scale: float = 1.0, unit: str = "") -> str:
    """Estimate and ends of the interval, or the estimate alone if there is no interval.

    >>> with_ends(Interval(0.2821, 0.27, 0.2942, 10), 100, " %")
    '28.2 (27 to 29.4) %'
    """
    estimate, low, high = (scale * x for x in (interval.estimate, interval.low, interval.high))
    return f"{number(estimate)}{f' ({ends(low, high)})' if interval.known else ''}{unit}"


def ends(low: float, high: float, digits: int = 3, *, signed: bool = False) -> str:
    """The ends of an interval.

    >>> ends(-0.1, 0.25, 2, signed=True)
    '−0.1 to +0.25'
    """
    return f"{number(low, digits, signed=signed)} to {number(high, digits, signed=signed)}"


def interval_text(interval: Interval, scale: float = 1.0) -> str:
    """An estimate and the ends of its interval, to the second digit of half their distance.

    There are at most three decimals, or four for values below 0.05. Without an interval, the number of
    seeds stands in its place.

    >>> interval_text(Interval(0.71234, 0.69934, 0.72534, 6))
    '0.712 [0.699, 0.725]'
    >>> interval_text(Interval(0.71234, math.nan, math.nan, 3))
    '0.712 n=3'
    """
    if not math.isfinite(interval.estimate):
        return UNKNOWN
    value, low, high = (scale * x for x in (interval.estimate, interval.low, interval.high))
    half, most = (high - low) / 2, 3 if abs(value) >= 0.05 or not value else 4
    if half > 0:
        places = decimals(half, most)
    else:
        places = 0 if not value else min(max(2 - math.floor(math.log10(abs(value))), 0), 4)
    if not interval.known:
        return f"{value:,.{places}f} n={interval.n}" if value else f"0 n={interval.n}"
    return f"{value:,.{places}f} [{low:,.{places}f}, {high:,.{places}f}]"


def estimate_text(estimate: Estimate) -> str:
    """A statistic with the ends of its interval.

    >>> estimate_text(Estimate(0.5, 0.41, 0.562))
    '0.500 (0.410 to 0.562)'
    """
    if not math.isfinite(estimate.value):
        return UNKNOWN
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
