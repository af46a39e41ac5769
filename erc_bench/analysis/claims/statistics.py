"""One number per run, or per pair of runs with the same seed: pure functions of the records' rows.

Every function returns values by seed, NaN where a run has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata

from erc_bench.analysis.bounds import Bounds
from erc_bench.core.drift import clip_kl

__all__ = [
    "RULES",
    "VIOLATIONS",
    "auroc",
    "auroc_by_seed",
    "counts",
    "difference",
    "dropped_below_kept",
    "found_by",
    "log_ratio",
    "precision",
    "recall",
    "share",
    "violating",
]

#: Rules that single tokens out, see :func:`found_by`.
RULES = ("clip", "band", "gate")
#: What they are asked to find, see :func:`violating`.
VIOLATIONS = ("delta", "clip_kl")


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


def found_by(tokens: pd.DataFrame, rule: str, bounds: Bounds) -> pd.Series:
    """Tokens that a rule singles out at its own threshold.

    ``clip``: ratio outside ``[1 - low, 1 + high]``; ``band``: entropy ratio not inside ``(1 - low, 1 +
    high)``; ``gate``: dropped by the arm's own gates. ``KeyError`` for any other rule.
    """
    rules: dict[str, Callable[[], pd.Series]] = {
        "clip": lambda: ~_inside(tokens["log_ratio"], bounds.clip, "both"),
        "band": lambda: ~_inside(tokens["log_entropy_ratio"], bounds.band, "neither"),
        "gate": lambda: tokens["gate_dropped"].astype(bool),
    }
    return rules[rule]()


def _inside(
    log: pd.Series, distances: tuple[float, float], inclusive: Literal["both", "neither"]
) -> pd.Series:
    return np.exp(log).between(1 - distances[0], 1 + distances[1], inclusive=inclusive)


def violating(tokens: pd.DataFrame, violation: str, bounds: Bounds) -> pd.Series:
    """Tokens with more exact KL than delta, or than ``clip_kl`` permits at the token's probability."""
    if violation == "delta":
        return tokens["kl_exact"] > bounds.delta
    p = torch.from_numpy(tokens["prob/old"].to_numpy(dtype=np.float64, copy=True))
    permitted = clip_kl(torch.stack([p, 1 - p], -1).log(), *bounds.clip)
    return tokens["kl_exact"] > pd.Series(permitted.numpy(), index=tokens.index)


def recall(
    tokens: pd.DataFrame, rule: str, violation: str, bounds: Bounds, least: int
) -> pd.Series:
    """P(found by the rule | violation) over each run's tokens; NaN with fewer than ``least`` violations."""
    found = found_by(tokens, rule, bounds)
    return _enough(counts(tokens, found, violating(tokens, violation, bounds)), least)


def precision(
    tokens: pd.DataFrame, rule: str, violation: str, bounds: Bounds, least: int
) -> pd.Series:
    """P(violation | found by the rule) over each run's tokens; NaN where it found fewer than ``least``."""
    found = found_by(tokens, rule, bounds)
    return _enough(counts(tokens, violating(tokens, violation, bounds), found), least)


def counts(tokens: pd.DataFrame, part: pd.Series, among: pd.Series) -> pd.DataFrame:
    """By seed, how many tokens are ``among`` some (``whole``), and how many of those in a ``part``."""
    known = among & tokens["kl_exact"].notna()
    flags = pd.DataFrame({"part": known & part, "whole": known})
    return flags.groupby(tokens["seed"]).sum()


def _enough(counted: pd.DataFrame, least: int) -> pd.Series:
    return (counted["part"] / counted["whole"]).where(counted["whole"] >= max(least, 1))


def _by_seed(
    tokens: pd.DataFrame, known: pd.DataFrame, measure: Callable[[pd.DataFrame], float]
) -> pd.Series:
    values = {seed: measure(rows) for seed, rows in known.groupby("seed")}
    seeds = pd.Index(sorted(tokens["seed"].unique()), name="seed")
    return pd.Series(values, dtype=np.float64).reindex(seeds)
