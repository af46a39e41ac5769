"""Performance profiles and the probability of improvement, with stratified bootstrap intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from erc_bench.analysis.statistics.bootstrap import (
    REPLICATES,
    Estimate,
    Seed,
    Strata,
    checked,
    ends,
    resampling_counts,
)
from erc_bench.core.errors import InputError

__all__ = ["Profile", "performance_profile", "probability_of_improvement"]

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Profile:
    """Share of runs above each threshold in ``taus``, with pointwise ends; all have one shape."""

    taus: Array
    share: Array
    low: Array
    high: Array


def performance_profile(
    strata: Strata,
    taus: Any,
    *,
    replicates: int = REPLICATES,
    level: float = 0.95,
    seed: Seed = 0,
) -> Profile:
    """Run-score distribution: F(tau) = mean over tasks of the share of runs with score > tau.

    The band is the pointwise percentile interval of the stratified bootstrap, and NaN if a task has
    one run only. Source: Agarwal et al. 2021, arXiv:2108.13264, section 4.2.

    >>> performance_profile([[0.0, 1.0], [1.0, 1.0]], [0.0, 0.5, 1.0]).share.tolist()
    [0.75, 0.75, 0.0]
    """
    runs = checked(strata)
    taus = np.asarray(taus, dtype=np.float64)
    # Thresholds between the same two scores have the same share; it is resampled once.
    below = np.searchsorted(np.sort(np.concatenate(runs)), taus, side="right")
    _, first, place = np.unique(below, return_index=True, return_inverse=True)
    above = [(r[:, None] > taus[first]).astype(np.float64) for r in runs]
    share = np.mean([a.mean(0) for a in above], axis=0)[place]
    if min(len(r) for r in runs) < 2:
        unknown = np.full(share.shape, math.nan)
        return Profile(taus, share, unknown, unknown)
    rng = np.random.default_rng(seed)
    total = np.zeros((replicates, len(first)))
    for a in above:
        total += resampling_counts(len(a), replicates, rng) @ a / len(a)
    low, high = ends(total / len(above), level)
    return Profile(taus, share, low[place], high[place])


def probability_of_improvement(
    x: Strata,
    y: Strata,
    *,
    paired: bool = False,
    replicates: int = REPLICATES,
    level: float = 0.95,
    seed: Seed = 0,
) -> Estimate:
    """P(X > Y), with ties counted as one half, averaged over tasks, with a stratified bootstrap interval.

    Args:
        x: one vector of runs per task.
        y: the same for the other arm, with the tasks in the same order.
        paired: False compares every run of X with every run of Y, which is the Mann-Whitney statistic
            U / (n m), and draws both arms' runs independently. True compares only runs at the same
            place (of the same seed), and draws pairs.
        replicates: number of resamples.
        level: nominal coverage of the interval.
        seed: determines every draw.

    An interval of width 0 means that no replicate can differ, because every comparison came out alike.
    It does not prove certainty. Source: Agarwal et al. 2021, arXiv:2108.13264, section 4.2.

    >>> probability_of_improvement([[1.0, 2.0]], [[1.0, 0.0]], replicates=10).value
    0.875
    >>> probability_of_improvement([[1.0, 2.0]], [[1.0, 0.0]], paired=True, replicates=10).value
    0.75
    """
    xs, ys = checked(x), checked(y)
    if len(xs) != len(ys):
        raise InputError(f"y: {len(ys)} tasks, x has {len(xs)}; both must have the same tasks")
    if paired and [len(a) for a in xs] != [len(b) for b in ys]:
        raise InputError("paired: x and y differ in their numbers of runs")
    wins = [_wins(a, b) if paired else _wins(a[:, None], b) for a, b in zip(xs, ys, strict=True)]
    value = float(np.mean([w.mean() for w in wins]))
    if min(len(r) for r in [*xs, *ys]) < 2:
        return Estimate(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    total = np.zeros(replicates)
    for w in wins:
        drawn = resampling_counts(len(w), replicates, rng) @ w / len(w)
        if not paired:
            drawn = (drawn * resampling_counts(w.shape[1], replicates, rng)).sum(1) / w.shape[1]
        total += drawn
    low, high = ends(total / len(wins), level)
    return Estimate(value, float(low), float(high))


def _wins(a: Array, b: Array) -> Array:
    """1 where a is larger, 1/2 where both are equal."""
    return np.asarray((a > b) + 0.5 * (a == b), dtype=np.float64)
