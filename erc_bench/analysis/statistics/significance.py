"""Tests of paired differences, and control of how many are found by chance."""

from __future__ import annotations

from typing import Any

import numpy as np

from erc_bench.analysis.statistics.bootstrap import Seed
from erc_bench.core.errors import InputError

__all__ = ["holm", "sign_flip_test"]

Array = np.ndarray[Any, np.dtype[np.float64]]

#: With up to this many pairs all sign patterns are counted (half a million, by symmetry). With more
#: pairs, patterns are drawn at random.
EXACT_PAIRS = 20
_DRAWN = 20_000


def sign_flip_test(differences: Any, *, replicates: int = _DRAWN, seed: Seed = 0) -> float:
    """Two-sided p-value of paired differences whose signs are exchangeable under the null.

    p = share of sign patterns s with |sum_i s_i d_i| >= |sum_i d_i| (Fisher 1935). It is exact up to
    ``EXACT_PAIRS`` pairs. With more pairs, patterns are drawn and p = (hits + 1) / (replicates + 1),
    with which the test never exceeds its nominal level (Phipson and Smyth 2010).

    >>> sign_flip_test([1.0, 2.0, 3.0])
    0.25
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or d.size == 0 or not np.isfinite(d).all():
        raise InputError(f"differences: {differences}; a vector of finite numbers is needed")
    observed = (
        abs(d.sum()) - 1e-12 * np.abs(d).sum()
    )  # sums in another order are rounded differently
    if len(d) <= EXACT_PAIRS:
        sums = d[:1]  # |sum| is the same for a pattern and its mirror image
        for value in d[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float((np.abs(sums) >= observed).mean())
    rng = np.random.default_rng(seed)
    hits, left = 0, replicates
    while left > 0:
        count = min(left, 5_000)
        signs = rng.integers(0, 2, size=(count, len(d))) * 2 - 1
        hits += int((np.abs(signs @ d) >= observed).sum())
        left -= count
    return (hits + 1) / (replicates + 1)


def holm(p_values: Any) -> Array:
    """Adjusted p-values that control the probability of any false finding (Holm 1979), in their order.

    Sorted ascending, adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)).

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise InputError(f"p-values: {p_values}; a vector of probabilities is needed")
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
