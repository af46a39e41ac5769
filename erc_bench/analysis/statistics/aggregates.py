"""One number for all runs on all tasks: interquartile mean and mean.

Every function takes one array of runs per task and reduces ``axis``. Leading axes are kept, so that
thousands of bootstrap replicates cost one call. The arrays may differ in their numbers of runs.

Source: Agarwal et al. 2021, arXiv:2108.13264, section 4.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from erc_bench.core.errors import InputError

__all__ = ["interquartile_mean", "mean_score"]

Array = np.ndarray[Any, np.dtype[np.float64]]


def _floats(strata: tuple[Any, ...], axis: int) -> list[Array]:
    if not strata:
        raise InputError("strata: none given; one array of runs per task is needed")
    arrays = [np.asarray(runs, dtype=np.float64) for runs in strata]
    for place, runs in enumerate(arrays):
        if runs.ndim == 0 or runs.shape[axis] == 0:
            raise InputError(f"strata[{place}]: no runs; at least one is needed")
    return arrays


def interquartile_mean(*strata: Any, axis: int = -1) -> Any:
    """IQM: the mean of the middle half of the pooled runs of all tasks.

    Of n sorted runs, floor(n / 4) are left out at either end.

    >>> float(interquartile_mean([0.0, 0.4, 0.6, 1.0]))
    0.5
    """
    pooled = np.moveaxis(np.concatenate(_floats(strata, axis), axis=axis), axis, -1)
    cut = pooled.shape[-1] // 4
    return np.sort(pooled, axis=-1)[..., cut : pooled.shape[-1] - cut].mean(-1)


def mean_score(*strata: Any, axis: int = -1) -> Any:
    """Mean over tasks of the mean over a task's runs, so that every task weighs the same.

    >>> float(mean_score([0.0, 1.0], [1.0, 1.0]))
    0.75
    """
    return np.stack([runs.mean(axis) for runs in _floats(strata, axis)], axis=-1).mean(-1)
