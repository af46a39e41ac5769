"""pass@k of problems with several sampled answers each."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from erc_bench.analysis.statistics.bootstrap import (
    REPLICATES,
    Estimate,
    Seed,
    ends,
    resampling_counts,
)
from erc_bench.core.errors import InputError

__all__ = ["pass_at_k", "pass_at_k_estimate"]


def pass_at_k(correct: Any, samples: Any, k: int) -> Any:
    """Probability that k of the n answers, drawn without replacement, include a correct one.

        pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{j < k} (n - c - j) / (n - j)

    It is an unbiased estimate of 1 - (1 - p)^k, elementwise over problems. Source: Chen et al. 2021,
    arXiv:2107.03374, equation 1.

    Args:
        correct: c, the number of correct answers to a problem.
        samples: n, the number of answers to it.
        k: the number of answers drawn, at most n.

    >>> pass_at_k([0, 1, 3], 4, 2).tolist()
    [0.0, 0.5, 1.0]
    """
    c, n = np.broadcast_arrays(np.asarray(correct, np.float64), np.asarray(samples, np.float64))
    if not ((n >= 1) & (n == np.floor(n))).all():
        raise InputError(f"samples: {samples}; a whole number of at least 1 is needed")
    if not ((c >= 0) & (c <= n) & (c == np.floor(c))).all():
        raise InputError(f"correct: {correct}; a whole number from 0 to the number of samples")
    if isinstance(k, bool) or int(k) != k or not 1 <= k <= n.min(initial=math.inf):
        raise InputError(f"k: {k}; a whole number from 1 to the number of samples is needed")
    miss = np.ones_like(c)
    for j in range(int(k)):
        miss *= np.maximum(n - c - j, 0.0) / (n - j)
    return 1.0 - miss


def pass_at_k_estimate(
    correct: Any,
    samples: int,
    k: int,
    *,
    over: Literal["seeds", "prompts", "both"] = "seeds",
    replicates: int = REPLICATES,
    level: float = 0.95,
    seed: Seed = 0,
) -> Estimate:
    """Mean pass@k over seeds and prompts, with a percentile bootstrap interval.

    Args:
        correct: number of correct answers, shape (seeds, prompts).
        samples: number of answers per prompt.
        k: number of answers that may be tried.
        over: what is resampled. "seeds" describes other trainings on these prompts, "prompts" these
            policies on other prompts. "both" draws the two independently, which is conservative (Owen
            2007, arXiv:0712.1111).
        replicates: number of resamples.
        level: nominal coverage of the interval.
        seed: determines every draw.

    The ends are NaN if an axis that is resampled has length 1.
    """
    table = np.asarray(pass_at_k(correct, samples, k))
    if table.ndim != 2 or table.size == 0:
        raise InputError(f"correct: shape {table.shape}; (seeds, prompts) is needed")
    if over not in ("seeds", "prompts", "both"):
        raise InputError(f"over: {over!r}; seeds, prompts or both")
    value = float(table.mean())
    axes = {"seeds": (0,), "prompts": (1,), "both": (0, 1)}[over]
    if any(table.shape[axis] < 2 for axis in axes):
        return Estimate(value, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    weights = [
        resampling_counts(count, replicates, rng) if axis in axes else np.ones((replicates, count))
        for axis, count in enumerate(table.shape)
    ]
    drawn = (weights[0] @ table * weights[1]).sum(1) / table.size
    low, high = ends(drawn, level)
    return Estimate(value, float(low), float(high))
