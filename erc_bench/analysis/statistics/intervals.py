"""Means over seeds with Student-t intervals: of values, paired differences and ratios.

One seed is one independent observation. Everything within a run (updates, tokens) is reduced to one
number per run before these functions are called.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtrit

__all__ = [
    "Interval",
    "exact_share",
    "mean_interval",
    "mean_intervals",
    "paired_difference",
    "pooled_share",
    "ratio_interval",
]

Array = NDArray[Any]


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` seeds and the ends of its confidence interval.

    The ends are NaN with one seed, since one observation tells nothing about its spread. Without a
    seed the mean is NaN too.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    def overlaps(self, other: Interval) -> bool:
        """Whether two intervals share a point; False if either is unknown."""
        return self.low <= other.high and other.low <= self.high

    def excludes(self, value: float) -> bool:
        """Whether the interval is known and ``value`` lies outside it."""
        return value < self.low or value > self.high


def mean_intervals(values: ArrayLike, level: float = 0.95) -> tuple[Array, Array, Array, Array]:
    """Mean, low end, high end and n of every column over axis 0 (seeds), without values that are not finite.

    The ends are those of the two-sided Student-t interval, ``mean -+ t(n-1) s / sqrt(n)``, and NaN or
    known as in :class:`Interval`.
    """
    x = np.asarray(values, dtype=np.float64)
    known = np.isfinite(x)
    n = known.sum(0)
    x = np.where(known, x, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(n > 0, x.sum(0) / n, math.nan)
        squares = (np.where(known, x - mean, 0.0) ** 2).sum(0)
        error = np.where(n > 1, np.sqrt(squares / (n - 1) / n), math.nan)
    half = stdtrit(np.maximum(n - 1, 1), (1 + level) / 2) * error
    return mean, mean - half, mean + half, n


def mean_interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """:func:`mean_intervals` of one column.

    >>> round(mean_interval([1.0, 2.0, 3.0]).half, 3)
    2.484
    >>> mean_interval([1.0])
    Interval(mean=1.0, low=nan, high=nan, n=1)
    """
    mean, low, high, n = mean_intervals(list(values), level)
    return Interval(float(mean), float(low), float(high), int(n))


def pooled_share(part: ArrayLike, whole: ArrayLike, level: float = 0.95) -> Interval:
    """``sum part / sum whole`` over seeds, for shares whose denominators are small or zero in some of them.

    The interval is that of survey sampling's ratio estimator, ``-+ t(n-1) s / (sqrt(n) mean whole)`` with s
    the spread of ``part - share whole`` (Cochran, Sampling Techniques, 1977, eq. 6.13), held inside [0, 1].
    A share of exactly 0 or 1 shows no spread and has no ends.

    >>> found = pooled_share([1, 0, 2], [4, 1, 5])
    >>> found.mean, round(found.high, 3)
    (0.3, 0.625)
    """
    x, y = (np.asarray(z, dtype=np.float64) for z in (part, whole))
    if not y.sum() > 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    share = float(x.sum() / y.sum())
    half = mean_interval((x - share * y) / y.mean(), level).half if 0 < share < 1 else math.nan
    return Interval(share, max(share - half, 0.0), min(share + half, 1.0), len(x))


def exact_share(part: int, whole: int, level: float = 0.95) -> Interval:
    """``part`` of ``whole`` independent runs, with Clopper's and Pearson's interval (Biometrika 26 (1934)).

    It covers at least ``level`` at any number of runs.

    >>> found = exact_share(0, 10)
    >>> found.mean, found.low, round(found.high, 4)
    (0.0, 0.0, 0.3085)
    """
    if not whole:
        return Interval(math.nan, math.nan, math.nan, 0)
    tail, other = (1 - level) / 2, whole - part
    low = float(betaincinv(part, other + 1, tail)) if part else 0.0
    high = float(betaincinv(part + 1, other, 1 - tail)) if other else 1.0
    return Interval(part / whole, low, high, whole)


def paired_difference(base: pd.Series, other: pd.Series, level: float = 0.95) -> Interval:
    """Interval of ``other - base`` over the seeds (the index) that have a value in both."""
    joined = pd.concat([base.rename("base"), other.rename("other")], axis=1, join="inner")
    return mean_interval((joined["other"] - joined["base"]).to_numpy(), level)


def ratio_interval(base: pd.Series, other: pd.Series, level: float = 0.95) -> Interval:
    """Geometric mean of ``other / base`` over paired seeds, with the interval of the log ratio.

    It is NaN as soon as one pair holds a value that is not positive, because leaving that seed out would
    hide the seeds with the most extreme ratios.
    """
    joined = pd.concat([base.rename("base"), other.rename("other")], axis=1, join="inner").dropna()
    if joined.empty or (joined <= 0).to_numpy().any():
        return Interval(math.nan, math.nan, math.nan, len(joined))
    log = mean_interval(np.log(joined["other"] / joined["base"]).to_numpy(), level)
    return Interval(math.exp(log.mean), math.exp(log.low), math.exp(log.high), log.n)
