"""How numbers stand in figures and sentences: one place for their digits and signs."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["percent", "plus_minus", "signed_interval"]


def percent(share: float) -> str:
    """A share as a percentage: three digits that count, two below one percent.

    >>> percent(0.20294), percent(0.00123)
    ('20.3 %', '0.12 %')
    """
    if not math.isfinite(share):
        return "–"
    return f"{100 * share:.{3 if share >= 0.01 else 2}g} %"


def plus_minus(interval: Mapping[str, float], scale: float = 1.0, unit: str = "") -> str:
    """Mean and half interval of a row with mean, low and high; without an interval the mean alone.

    >>> plus_minus({"mean": 0.5, "low": 0.4, "high": 0.6}, 100, " %")
    '50 ± 10 %'
    """
    mean, half = scale * interval["mean"], scale * (interval["high"] - interval["low"]) / 2
    if not math.isfinite(half):
        return f"{mean:.3g}{unit}"
    return f"{mean:.3g} ± {half:.2g}{unit}"


def signed_interval(interval: Mapping[str, float]) -> str:
    """A difference with its sign and the ends of its interval, where it has one.

    >>> signed_interval({"mean": 0.1, "low": 0.05, "high": 0.15})
    '+0.100 (+0.050 to +0.150)'
    """
    text = f"{interval['mean']:+.3f}"
    if not math.isfinite(interval["low"]):
        return text
    return f"{text} ({interval['low']:+.3f} to {interval['high']:+.3f})"
