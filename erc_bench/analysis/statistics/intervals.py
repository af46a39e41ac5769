"""What a few seeds tell of a number: medians, means of bounded scores, and their intervals.

One seed is one independent observation. Everything within a run (updates, tokens) is reduced to one
number per run before these functions are called. No interval here assumes a distribution, because
the typical one has a second mode: a run that collapses in one seed of ten. Student's t then covers
the mean in 41 to 88 % of draws (5 to 20 seeds), and is zero wide as long as no seed has collapsed.

*   The typical run is the **median**, whose interval is that of the sign test, two order statistics.
    It can be narrow, since one seed of ten does not move it, and it says nothing of collapse.
*   The **mean of a bounded score**, and so a **share of seeds**, has Gaffke's interval, in which one
    unseen run may lie at the worst bound. It is wide, as it must be: 20 seeds of which none has
    collapsed still allow that 16 % of runs do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, stdtrit

from erc_bench.core.errors import InputError

__all__ = [
    "LEAST",
    "MEDIAN",
    "Estimator",
    "Interval",
    "mean_estimator",
    "mean_interval",
    "median_interval",
    "median_intervals",
    "paired_difference",
    "pooled_share",
    "ratio_interval",
]

Array = NDArray[Any]

#: Below so many seeds no interval is given: six equal signs are the fewest that a two-sided test
#: tells from chance at 5 % (2 / 2^6 = 0.031, 2 / 2^5 = 0.063).
LEAST = 6


@dataclass(frozen=True)
class Interval:
    """An estimate from ``n`` seeds and the ends of its confidence interval.

    The ends are NaN below :data:`LEAST` seeds; without a seed the estimate is NaN too.
    """

    estimate: float
    low: float
    high: float
    n: int

    @property
    def known(self) -> bool:
        """Whether there are ends."""
        return not math.isnan(self.low)

    def overlaps(self, other: Interval) -> bool:
        """Whether two intervals share a point; False if either is unknown."""
        return self.low <= other.high and other.low <= self.high

    def excludes(self, value: float) -> bool:
        """Whether the interval is known and ``value`` lies outside it."""
        return value < self.low or value > self.high


@cache
def _rank(n: int, level: float) -> int:
    """The largest k with P(Binomial(n, 1/2) < k) <= (1 - level) / 2; 0 below ``LEAST`` seeds."""
    if n < LEAST:
        return 0
    below = bdtr(np.arange(n // 2 + 1), n, 0.5)
    return int(np.searchsorted(below, (1 - level) / 2, side="right"))


def median_intervals(values: ArrayLike, level: float = 0.95) -> tuple[Array, Array, Array, Array]:
    """Median, low end, high end and n over axis 0 (seeds), without values that are not finite.

    The ends are the k-th smallest and the k-th largest value, k the largest number with
    P(Binomial(n, 1/2) < k) <= (1 - level) / 2. They cover every median of every distribution at least
    as often as ``level`` says (Thompson 1936, Ann. Math. Stat. 7:122), and are NaN where k is 0.
    """
    x = np.asarray(values, dtype=np.float64)
    x = np.sort(np.where(np.isfinite(x), x, math.nan), axis=0)  # NaN comes last
    n = np.isfinite(x).sum(0)

    def pick(place: Array) -> Array:
        known = (place >= 0) & (place < n)
        found = np.take_along_axis(x, np.where(known, place, 0)[None], axis=0)[0]
        return np.where(known, found, math.nan)

    if not len(x):
        x = np.full((1, *x.shape[1:]), math.nan)
    k = np.vectorize(_rank, otypes=[int])(n, level)
    middle = (pick((n - 1) // 2) + pick(n // 2)) / 2
    return middle, pick(k - 1), np.where(k > 0, pick(n - k), math.nan), n


def median_interval(values: Iterable[float], level: float = 0.95) -> Interval:
    """:func:`median_intervals` of one column.

    >>> median_interval([0.90, 0.91, 0.93, 0.94, 0.97, 0.99])
    Interval(estimate=0.935, low=0.9, high=0.99, n=6)
    >>> median_interval([1.0, 2.0, 3.0])
    Interval(estimate=2.0, low=nan, high=nan, n=3)
    """
    middle, low, high, n = median_intervals(np.asarray([*values], np.float64)[:, None], level)
    return Interval(float(middle[0]), float(low[0]), float(high[0]), int(n[0]))


def _median_tails(values: Array, value: float) -> tuple[float, float]:
    n = len(values)
    return float(bdtr((values <= value).sum(), n, 0.5)), float(
        bdtr((values >= value).sum(), n, 0.5)
    )


def mean_interval(
    values: Iterable[float], bounds: tuple[float, float] = (0.0, 1.0), level: float = 0.95
) -> Interval:
    """Mean of a score that cannot leave ``bounds``, with Gaffke's interval, over the finite values.

    With weights W uniform on the simplex, of n + 1 places, the ends are quantiles of
    ``sum_i W_i x_i + W_0 b``: that of (1 - level) / 2 with b the lower bound, and that of
    (1 + level) / 2 with b the upper bound. For shares (zeros and ones) it is Clopper and Pearson's
    interval, and for differences of two shares (-1, 0, 1) it excludes 0 exactly when McNemar's exact
    test does. Sources: Gaffke 2005, "Three test statistics for a nonparametric one-sided hypothesis
    on the mean of a nonnegative variable"; Learned-Miller and Thomas, arXiv:1905.06208.

    Raises:
        InputError: a value outside the bounds.

    >>> found = mean_interval([1.0] * 20)
    >>> found.estimate, round(found.low, 3), found.high
    (1.0, 0.832, 1.0)
    """
    x = np.asarray([*values], dtype=np.float64)
    x = x[np.isfinite(x)]
    lower, upper = bounds
    if ((x < lower) | (x > upper)).any():
        raise InputError(f"values: {x.min():g} to {x.max():g}; must lie in {lower:g} to {upper:g}")
    mean = float(x.mean()) if len(x) else math.nan
    if len(x) < LEAST:
        return Interval(mean, math.nan, math.nan, len(x))
    half = (1 - level) / 2
    return Interval(mean, _quantile([*x, lower], half), -_quantile([*-x, -upper], half), len(x))


#: Nodes of the integral in :func:`_simplex_cdf`, on a logarithmic axis.
_LOG_T = np.arange(-28.0, 28.0, 0.1)


def _simplex_cdf(points: ArrayLike, value: float) -> float:
    """P(sum_i W_i points_i <= value) for W uniform on the simplex.

    It is P(sum_i E_i (points_i - value) <= 0) for exponential E, by Gil-Pelaez's inversion of the
    characteristic function prod_i (1 - i t c_i)^-1:  1/2 - 1/pi int sin(sum_i atan(t c_i)) /
    (t prod_i sqrt(1 + t^2 c_i^2)) dt  (Imhof 1961, Biometrika 48:419).
    """
    c, count = np.unique(np.asarray(points, np.float64) - value, return_counts=True)
    if c[0] >= 0:
        return float(c[-1] == 0)
    if c[-1] <= 0:
        return 1.0
    tc = np.exp(_LOG_T)[:, None] * (c / np.abs(c).max())
    angle, size = np.arctan(tc) @ count, np.exp(-0.5 * np.log1p(tc * tc) @ count)
    step = float(_LOG_T[1] - _LOG_T[0])
    return min(max(0.5 - float((np.sin(angle) * size).sum()) * step / math.pi, 0.0), 1.0)


def _quantile(points: ArrayLike, probability: float) -> float:
    """The value at which :func:`_simplex_cdf` reaches a probability."""
    from scipy.optimize import brentq  # noqa: PLC0415 - most commands need no root

    points = np.asarray(points, np.float64)
    low, high = float(points.min()), float(points.max())
    if low == high:
        return low
    return float(brentq(lambda m: _simplex_cdf(points, m) - probability, low, high, xtol=1e-9))


@dataclass(frozen=True)
class Estimator:
    """An estimate with its interval, and the same interval turned round into p-values.

    Attributes:
        interval: from values per seed and a level.
        tails: from finite values and a threshold, the one-sided p-values of "it lies above" and "it
            lies below". The interval of level 1 - alpha lies above the threshold exactly when the
            first is at most alpha / 2, and below it when the second is.
    """

    interval: Callable[[Iterable[float], float], Interval]
    tails: Callable[[Array, float], tuple[float, float]]


MEDIAN = Estimator(median_interval, _median_tails)


def mean_estimator(lower: float, upper: float) -> Estimator:
    """:func:`mean_interval` with these bounds."""

    def tails(values: Array, value: float) -> tuple[float, float]:
        return _simplex_cdf([*values, lower], value), _simplex_cdf([*-values, -upper], -value)

    return Estimator(lambda values, level: mean_interval(values, (lower, upper), level), tails)


def pooled_share(part: ArrayLike, whole: ArrayLike, level: float = 0.95) -> Interval:
    """``sum part / sum whole`` over seeds, for shares whose denominators are small or zero in some of them.

    The interval is that of survey sampling's ratio estimator, ``-+ t(n-1) s / (sqrt(n) mean whole)`` with s
    the spread of ``part - share whole`` (Cochran, Sampling Techniques, 1977, eq. 6.13), held inside [0, 1].
    A share of exactly 0 or 1 shows no spread and has no ends, and neither have fewer than ``LEAST`` seeds.

    >>> found = pooled_share([1, 0, 2, 1, 0, 2], [4, 1, 5, 4, 1, 5])
    >>> found.estimate, round(found.high, 3)
    (0.3, 0.423)
    """
    x, y = (np.asarray(z, dtype=np.float64) for z in (part, whole))
    if not y.sum() > 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    share = float(x.sum() / y.sum())
    half = math.nan
    if len(x) >= LEAST and 0 < share < 1:
        spread = float(np.std((x - share * y) / y.mean(), ddof=1))
        half = float(stdtrit(len(x) - 1, (1 + level) / 2)) * spread / math.sqrt(len(x))
    return Interval(share, max(share - half, 0.0), min(share + half, 1.0), len(x))


def paired_difference(base: pd.Series, other: pd.Series, level: float = 0.95) -> Interval:
    """Median of ``other - base`` over the seeds (the index) that have a value in both."""
    base, other = base.align(other, join="inner")
    return median_interval(other - base, level)


def ratio_interval(base: pd.Series, other: pd.Series, level: float = 0.95) -> Interval:
    """Median of ``other / base`` over the seeds that have a value in both.

    It is NaN as soon as one pair holds a value that is not positive, because leaving that seed out would
    hide the seeds with the most extreme ratios.
    """
    joined = pd.concat([base.rename("base"), other.rename("other")], axis=1, join="inner").dropna()
    if joined.empty or (joined <= 0).to_numpy().any():
        return Interval(math.nan, math.nan, math.nan, len(joined))
    return median_interval(joined["other"] / joined["base"], level)
