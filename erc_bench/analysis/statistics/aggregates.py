"""One number for all runs on all tasks, with intervals that allow for failures nobody has seen.

Scores lie in [0, 1] and come as strata: one vector of runs per task. The definitions of the interquartile
mean, the profile and the probability of improvement are those of Agarwal et al. 2021, arXiv:2108.13264,
sections 4.2 and 4.3. Their intervals are not: the percentile bootstrap covers the interquartile mean of
five unequal tasks in 79 % of draws at 6 seeds and in 91 % at 20, and is zero wide where all runs agree.
Here, as in :func:`.mean_interval`, the runs of a task get random weights, uniform on the simplex,
together with one run that nobody has seen: of score 0 for the lower end, of 1 for the upper end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
)
from erc_bench.analysis.statistics.intervals import LEAST
from erc_bench.core.errors import InputError

__all__ = ["Profile", "interquartile_mean", "performance_profile", "probability_of_improvement"]

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Profile:
    """Share of runs above each threshold in ``taus``, with pointwise ends; all have one shape."""

    taus: Array
    share: Array
    low: Array
    high: Array


def interquartile_mean(
    strata: Strata, *, replicates: int = REPLICATES, level: float = 0.95, seed: Seed = 0
) -> Estimate:
    """IQM: the mean of the middle half of the pooled runs of all tasks, with its interval.

    Of n sorted runs, floor(n / 4) are left out at either end; a weighted draw leaves out a quarter of
    the weight at either end. The ends are NaN if a task has fewer than ``LEAST`` runs.

    Args:
        strata: one vector of runs per task, of equal or different lengths.
        replicates: number of draws of the weights.
        level: nominal coverage of the interval.
        seed: determines every draw.

    >>> interquartile_mean([[0.0, 0.4, 0.6, 1.0]])
    Estimate(value=0.5, low=nan, high=nan)
    """
    runs = _scores(strata)
    pooled = np.sort(np.concatenate(runs))
    cut = len(pooled) // 4
    value = float(pooled[cut : len(pooled) - cut].mean())
    if not _enough(runs):
        return Estimate(value, math.nan, math.nan)
    weights = np.concatenate(_weights(runs, replicates, seed), axis=1)
    found = []
    for unseen in (0.0, 1.0):
        points = np.concatenate([[*r, unseen] for r in runs])
        order = np.argsort(points, kind="stable")
        below = np.clip(np.cumsum(weights[:, order], axis=1), 0.25, 0.75)
        found.append(np.diff(below, axis=1, prepend=0.25) @ points[order] / 0.5)
    return Estimate(value, *map(float, (ends(found[0], level)[0], ends(found[1], level)[1])))


def performance_profile(
    strata: Strata,
    taus: Any,
    *,
    replicates: int = REPLICATES,
    level: float = 0.95,
    seed: Seed = 0,
) -> Profile:
    """Run-score distribution: F(tau) = mean over tasks of the share of runs with score > tau.

    The band is pointwise, and NaN if a task has fewer than ``LEAST`` runs.

    >>> performance_profile([[0.0, 1.0], [1.0, 1.0]], [0.0, 0.5, 1.0]).share.tolist()
    [0.75, 0.75, 0.0]
    """
    runs = _scores(strata)
    taus = np.asarray(taus, dtype=np.float64)
    # Thresholds between the same two scores have the same share; it is resampled once.
    below = np.searchsorted(np.sort(np.concatenate(runs)), taus, side="right")
    _, first, place = np.unique(below, return_index=True, return_inverse=True)
    above = [(r[:, None] > taus[first]).astype(np.float64) for r in runs]
    share, low, high = _mean_over_tasks(above, replicates, level, seed)
    return Profile(taus, share[place], low[place], high[place])


def probability_of_improvement(
    x: Strata,
    y: Strata,
    *,
    replicates: int = REPLICATES,
    level: float = 0.95,
    seed: Seed = 0,
) -> Estimate:
    """P(X > Y) for runs of the same seed, with ties counted as one half, averaged over tasks.

    Args:
        x: one vector of runs per task.
        y: the same for the other arm, with the tasks and the seeds in the same order.
        replicates: number of draws of the weights.
        level: nominal coverage of the interval, whose ends are NaN below ``LEAST`` pairs of a task.
        seed: determines every draw.

    >>> probability_of_improvement([[1.0, 2.0]], [[1.0, 0.0]]).value
    0.75
    """
    xs, ys = checked(x), checked(y)
    if len(xs) != len(ys):
        raise InputError(f"y: {len(ys)} tasks, x has {len(xs)}; both must have the same tasks")
    if [len(a) for a in xs] != [len(b) for b in ys]:
        raise InputError("y: x and y differ in their numbers of runs; runs are paired by seed")
    wins = [((a > b) + 0.5 * (a == b))[:, None] for a, b in zip(xs, ys, strict=True)]
    return Estimate(*(float(found[0]) for found in _mean_over_tasks(wins, replicates, level, seed)))


def _mean_over_tasks(
    tasks: Sequence[Array], replicates: int, level: float, seed: Seed
) -> tuple[Array, Array, Array]:
    """Mean over tasks of the mean over runs (axis 0) of values in [0, 1], and the ends of its interval."""
    value = np.mean([task.mean(0) for task in tasks], axis=0)
    if not _enough(tasks):
        return value, np.full_like(value, math.nan), np.full_like(value, math.nan)
    weights = _weights(tasks, replicates, seed)
    low = np.sum([w[:, :-1] @ task for w, task in zip(weights, tasks, strict=True)], axis=0)
    unseen = np.sum([w[:, -1:] for w in weights], axis=0)
    return value, ends(low, level)[0], ends(low + unseen, level)[1]


def _weights(tasks: Sequence[Array], replicates: int, seed: Seed) -> list[Array]:
    """Weights of a task's runs and of one more, for every replicate; over all tasks they sum to 1."""
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_exponential((replicates, len(task) + 1)) for task in tasks]
    return [w / (w.sum(1, keepdims=True) * len(tasks)) for w in drawn]


def _enough(tasks: Sequence[Array]) -> bool:
    return min(len(task) for task in tasks) >= LEAST


def _scores(strata: Strata) -> list[Array]:
    runs = checked(strata)
    for place, scores in enumerate(runs):
        if scores.min() < 0 or scores.max() > 1:
            raise InputError(f"strata[{place}]: {scores}; a score must lie in 0 to 1")
    return runs
