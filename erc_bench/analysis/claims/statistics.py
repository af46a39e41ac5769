"""One number per run, or per pair of runs with the same seed: pure functions of the records' rows.

Every function returns values by seed, NaN where a run has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import rankdata

__all__ = ["auroc", "auroc_by_seed", "difference", "dropped_below_kept", "log_ratio", "share"]


def share(runs: pd.DataFrame, part: str, whole: str) -> pd.Series:
    """``part / whole`` by seed; none where the whole is 0, as there is nothing to share."""
    return runs[part] / runs[whole].where(runs[whole] > 0)


def difference(base: pd.Series, other: pd.Series) -> pd.Series:
    """``other - base`` on the seeds of both."""
    base, other = base.align(other, join="inner")
    return other - base


def log_ratio(base: pd.Series, other: pd.Series) -> pd.Series:
    """``log(other / base)`` on the seeds of both; none where either is not positive."""
    base, other = base.align(other, join="inner")
    return np.log(other.where(other > 0)) - np.log(base.where(base > 0))


def auroc(score: np.ndarray, label: np.ndarray, least: int = 1) -> float:
    """P(score of a positive > score of a negative), ties count half: Mann-Whitney's U / (n1 n0).

    NaN with fewer than ``least`` tokens in either class.

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875
    """
    positives, negatives = int(label.sum()), int((~label).sum())
    if min(positives, negatives) < max(least, 1):
        return math.nan
    ranks = rankdata(score)
    u = ranks[label].sum() - positives * (positives + 1) / 2
    return float(u / (positives * negatives))


def auroc_by_seed(tokens: pd.DataFrame, score: str, delta: float, least: int) -> pd.Series:
    """AUROC of ``|score|`` for the label exact KL > delta (nats), over each run's sampled tokens."""
    known = tokens.dropna(subset=[score, "kl_exact"])
    return _by_seed(
        tokens,
        known,
        lambda t: auroc(t[score].abs().to_numpy(), t["kl_exact"].to_numpy() > delta, least),
    )


def dropped_below_kept(tokens: pd.DataFrame, column: str, least: int) -> pd.Series:
    """P(column of a dropped token < that of a kept one), ties half, over each run's tokens."""
    known = tokens.dropna(subset=[column])
    return _by_seed(
        tokens,
        known,
        lambda t: auroc(-t[column].to_numpy(), t["gate_dropped"].to_numpy(dtype=bool), least),
    )


def _by_seed(
    tokens: pd.DataFrame, known: pd.DataFrame, measure: Callable[[pd.DataFrame], float]
) -> pd.Series:
    values = {seed: measure(rows) for seed, rows in known.groupby("seed")}
    seeds = pd.Index(sorted(tokens["seed"].unique()), name="seed")
    return pd.Series(values, dtype=np.float64).reindex(seeds)
