"""From values per seed to a decision: Student-t intervals against a criterion, many at once.

Each decision is the inversion of an interval: a criterion holds at level ``1 - alpha`` exactly when
the two-sided interval of that level lies inside its region, so verdict and interval always agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from erc_bench.analysis.claims.rules import Criterion
from erc_bench.analysis.statistics import Interval, mean_interval

__all__ = ["Decision", "Outcome", "decide", "decide_discoveries"]

Outcome = Literal["holds", "fails", "inconclusive"]


@dataclass(frozen=True)
class Decision:
    """What a family's correction makes of one of its members.

    Attributes:
        interval: at the plain level.
        adjusted: at ``level``, the one the correction asks of this member.
        level: of ``adjusted``.
        p: smallest alpha at which the member is conclusive either way, unadjusted.
        outcome: read off ``adjusted``.
    """

    interval: Interval
    adjusted: Interval
    level: float
    p: float
    outcome: Outcome


def decide(
    members: Sequence[np.ndarray], criterion: Criterion, *, level: float, seeds: int
) -> list[Decision]:
    """Holm's step-down method over a family of means, each against the criterion.

    In order of their p-values, the k-th of m (from 0) is tested at ``alpha / (m - k)``; from the
    first that is not conclusive there, all others keep its level and are inconclusive as well. The
    chance of any wrong decision in the family is at most alpha (Holm 1979, Scand. J. Stat. 6:65).

    Args:
        members: values per seed, one array each, without NaN.
        criterion: what is asked of each mean.
        level: ``1 - alpha``.
        seeds: members with fewer values count in the family, and are inconclusive.
    """
    ps = [min(_p_values(x, criterion)) if len(x) >= seeds else 1.0 for x in members]
    alphas = _holm(ps, 1 - level)
    decisions = []
    for x, p, alpha in zip(members, ps, alphas, strict=True):
        outcome: Outcome = "inconclusive"
        if p <= alpha:
            outcome = "holds" if _p_values(x, criterion)[0] <= alpha else "fails"
        decisions.append(
            Decision(mean_interval(x, level), mean_interval(x, 1 - alpha), 1 - alpha, p, outcome)
        )
    return decisions


def decide_discoveries(
    members: Sequence[np.ndarray], criterion: Criterion, *, level: float, seeds: int, rate: float
) -> list[Decision]:
    """Benjamini and Hochberg's method: among the conclusive, the expected share of errors <= rate.

    The interval shown is at the plain level (Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57:289).
    """
    enough = [len(x) >= seeds for x in members]
    ps = [
        min(_p_values(x, criterion)) if ok else 1.0 for x, ok in zip(members, enough, strict=True)
    ]
    adjusted = stats.false_discovery_control(ps, method="bh") if ps else []
    decisions = []
    for x, p, q in zip(members, ps, adjusted, strict=True):
        interval = mean_interval(x, level)
        outcome: Outcome = "inconclusive"
        if q <= rate:
            holding, failing = _p_values(x, criterion)
            outcome = "holds" if holding <= failing else "fails"
        decisions.append(Decision(interval, interval, level, p, outcome))
    return decisions


def _holm(ps: Sequence[float], alpha: float) -> list[float]:
    """The alpha that each member is tested at."""
    order = np.argsort(ps, kind="stable")
    alphas = [alpha] * len(ps)
    stopped: float | None = None
    for k, i in enumerate(order):
        here = alpha / (len(ps) - k) if stopped is None else stopped
        alphas[i] = here
        if stopped is None and ps[i] > here:
            stopped = here
    return alphas


def _p_values(x: np.ndarray, criterion: Criterion) -> tuple[float, float]:
    """Smallest alpha at which the interval lies where the criterion holds, and where it fails."""
    mean = float(x.mean())
    error = float(x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else math.inf
    inside = min(mean - criterion.above, criterion.below - mean)
    outside = max(criterion.fails_below - mean, mean - criterion.fails_above)
    return _p_value(inside, error, len(x)), _p_value(outside, error, len(x))


def _p_value(margin: float, error: float, n: int) -> float:
    """Two-sided p of a mean that lies ``margin`` inside a region; 1 outside it."""
    if not margin > 0 or math.isinf(error):
        return 1.0
    return float(2 * stats.t.sf(margin / error, n - 1)) if error > 0 else 0.0
