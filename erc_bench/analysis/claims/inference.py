"""From values per seed to a decision: intervals against a criterion, many at once.

Each decision is the inversion of an interval: a criterion holds at level ``1 - alpha`` exactly when
the two-sided interval of that level lies inside its region, so verdict and interval always agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from erc_bench.analysis.claims.rules import Criterion
from erc_bench.analysis.statistics import Estimator, Interval, mean_estimator

__all__ = [
    "DIFFERENCES",
    "Decision",
    "Family",
    "Outcome",
    "collapse_overrules",
    "decide",
    "decide_discoveries",
    "one_seed_decides",
]

#: Of differences in [-1, 1]: of two scores, or of two flags of collapse.
DIFFERENCES = mean_estimator(-1.0, 1.0)
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


@dataclass(frozen=True)
class Family:
    """What the members of a family share.

    Attributes:
        criterion: what is asked of each estimate.
        estimator: of a member's values.
        level: ``1 - alpha``.
        seeds: members with fewer values count in the family, and are inconclusive.
    """

    criterion: Criterion
    estimator: Estimator
    level: float
    seeds: int

    def p_values(self, x: np.ndarray) -> tuple[float, float]:
        """Smallest alpha at which the interval lies where the criterion holds, and where it fails.

        Both are 1 with fewer values than ``seeds``.
        """
        if len(x) < self.seeds:
            return 1.0, 1.0

        def p(side: int, value: float) -> float:
            """Of lying above (0) or below (1) a value, which everything or nothing does if infinite."""
            if math.isinf(value):
                return float((value > 0) == (side == 0))
            return min(1.0, 2 * self.estimator.tails(x, value)[side])

        ask = self.criterion
        return max(p(0, ask.above), p(1, ask.below)), min(
            p(0, ask.fails_above), p(1, ask.fails_below)
        )


def decide(members: Sequence[np.ndarray], family: Family) -> list[Decision]:
    """Holm's step-down method over the members, each against the criterion.

    In order of their p-values, the k-th of m (from 0) is tested at ``alpha / (m - k)``; from the
    first that is not conclusive there, all others keep its level and are inconclusive as well. The
    chance of any wrong decision in the family is at most alpha (Holm 1979, Scand. J. Stat. 6:65).

    Args:
        members: values per seed, one array each, without NaN.
        family: what is asked of each.
    """
    ps = [family.p_values(x) for x in members]
    alphas = _holm([min(p) for p in ps], 1 - family.level)
    return [_decision(x, p, family, alpha) for x, p, alpha in zip(members, ps, alphas, strict=True)]


def decide_discoveries(
    members: Sequence[np.ndarray], family: Family, rate: float
) -> list[Decision]:
    """Benjamini and Hochberg's method: among the conclusive, the expected share of errors <= rate.

    With k of m members found, all are tested at ``rate max(k, 1) / m``, and the intervals of that
    level miss in a share of at most ``rate`` of those found (Benjamini and Hochberg 1995, J. R. Stat.
    Soc. B 57:289; Benjamini and Yekutieli 2005, J. Am. Stat. Assoc. 100:71).
    """
    ps = [family.p_values(x) for x in members]
    adjusted = stats.false_discovery_control([min(p) for p in ps], method="bh") if ps else []
    found = int((np.asarray(adjusted) <= rate).sum())
    return [
        _decision(x, p, family, rate * max(found, 1) / len(ps))
        for x, p in zip(members, ps, strict=True)
    ]


def _decision(x: np.ndarray, p: tuple[float, float], family: Family, alpha: float) -> Decision:
    interval = family.estimator.interval
    plain, adjusted = interval(x, family.level), interval(x, 1 - alpha)
    return Decision(plain, adjusted, 1 - alpha, min(p), _outcome(p, alpha))


def one_seed_decides(x: np.ndarray, decision: Decision, family: Family) -> bool:
    """Whether the outcome, at the level of the decision, is another one without some single seed."""
    if len(x) < family.seeds:
        return False
    fewer, alpha = replace(family, seeds=family.seeds - 1), 1 - decision.level
    without = (_outcome(fewer.p_values(np.delete(x, i)), alpha) for i in range(len(x)))
    return any(outcome != decision.outcome for outcome in without)


def collapse_overrules(excess: np.ndarray, margin: float, level: float) -> bool:
    """Whether an arm may collapse more often than another by ``margin`` or more.

    Non-inferiority, one-sided at ``1 - level`` as is usual for a margin: with equal flags in all pairs, a
    margin of 0.1 is excluded at 95 % from 29 seeds on (0.9^29 = 0.047).

    Args:
        excess: by seed, 1 where only the arm collapsed, -1 where only the other did, else 0, or a mean
            of such numbers over experiments.
        margin: share of seeds.
        level: one minus the chance to miss it.
    """
    _, below = DIFFERENCES.tails(excess, margin)
    return below > 1 - level


def _outcome(p: tuple[float, float], alpha: float) -> Outcome:
    """What the p-values of holding and of failing mean at a level."""
    if min(p) > alpha:
        return "inconclusive"
    return "holds" if p[0] <= alpha else "fails"


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
