"""Stratified bootstrap of a mean: values are resampled within each task, and tasks are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from erc_bench.core.errors import InputError

__all__ = [
    "REPLICATES",
    "Estimate",
    "Seed",
    "Strata",
    "checked",
    "ends",
    "resampling_counts",
    "stratified_mean",
]

Array = np.ndarray[Any, np.dtype[np.float64]]
#: One vector of runs per task.
Strata = Sequence[Any]
#: Anything that :func:`numpy.random.default_rng` takes. The same seed gives the same interval.
Seed = int | np.random.SeedSequence | np.random.Generator

#: Number of replicates. The Monte-Carlo error of an end of a 95 % interval is then about 0.03 of the
#: estimate's standard error: sqrt(0.025 x 0.975 / 10,000) over the normal density at that end.
REPLICATES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A statistic and the ends of its interval, which are NaN where there is none."""

    value: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Whether the interval is known and ``value`` lies outside it."""
        return value < self.low or value > self.high


def checked(strata: Strata) -> list[Array]:
    """The strata as finite float vectors.

    Raises:
        InputError: no stratum, an empty one, one that is not a vector, or a value that is not finite
            (a diverged run must not be left out: its score is 0).
    """
    arrays = [np.asarray(runs, dtype=np.float64) for runs in strata]
    if not arrays:
        raise InputError("strata: none given; one vector of runs per task is needed")
    for place, runs in enumerate(arrays):
        if runs.ndim != 1 or runs.size == 0:
            raise InputError(f"strata[{place}]: shape {runs.shape}; a vector of runs is needed")
        if not np.isfinite(runs).all():
            raise InputError(f"strata[{place}]: {runs} holds a value that is not finite")
    return arrays


def ends(replicates: Array, level: float) -> tuple[Array, Array]:
    """Percentile interval of replicates along their first axis."""
    if not 0 < level < 1:
        raise InputError(f"level: {level}; a probability between 0 and 1 is needed")
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def resampling_counts(runs: int, replicates: int, rng: np.random.Generator) -> Array:
    """How often each run is drawn in each replicate, as multinomial counts (replicates, runs).

    A statistic that is linear in the runs is a matrix product with these counts.
    """
    drawn = rng.integers(0, runs, size=(replicates, runs))
    drawn += runs * np.arange(replicates)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=replicates * runs)
    return counts.reshape(replicates, runs).astype(np.float64)


def stratified_mean(
    strata: Strata, *, replicates: int = REPLICATES, level: float = 0.95, seed: Seed = 0
) -> Estimate:
    """Mean over tasks of the mean over a task's values, so that every task weighs the same.

    The interval is the percentile interval of the stratified bootstrap. It is for the many problems of
    a benchmark, not for a few seeds, of which it covers too little; :func:`.mean_interval` is for those.

    Args:
        strata: one vector of values per task, of equal or different lengths.
        replicates: number of resamples.
        level: nominal coverage of the interval.
        seed: determines every draw.

    >>> stratified_mean([[0.25, 0.25], [0.75, 0.75]], replicates=100)
    Estimate(value=0.5, low=0.5, high=0.5)
    """
    tasks = checked(strata)
    value = float(np.mean([task.mean() for task in tasks]))
    if min(len(task) for task in tasks) < 2:
        return Estimate(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    total = np.zeros(replicates)
    for task in tasks:
        total += resampling_counts(len(task), replicates, rng) @ task / (len(task) * len(tasks))
    return Estimate(value, *map(float, ends(total, level)))
