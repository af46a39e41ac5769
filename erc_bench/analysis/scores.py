"""The scores of a results folder, by arm and over all experiments.

A run's score lies in [0, 1]. A diverged run scores 0 and is never left out. An arm that ran at several
settings (a grid) has no single score, so sweeps are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from erc_bench.analysis.statistics import (
    Estimate,
    Interval,
    holm,
    interquartile_mean,
    mean_interval,
    probability_of_improvement,
    sign_flip_test,
)
from erc_bench.studies.arms import gated_pairs, stored_arm, stored_arms, table

__all__ = ["OVERALL", "Scores", "improvements"]

Array = np.ndarray[Any, np.dtype[np.float64]]

#: Name of the row over all experiments in :func:`improvements`.
OVERALL = "overall"
_COLUMNS = ["experiment", "objective", "seed", "score"]


def _single_setting(runs: pd.DataFrame, config: dict[str, Any]) -> pd.DataFrame:
    """The rows of arms that ran at one setting, in experiments without a grid, named by their recipe."""
    entries = table(config, "experiments")
    swept = [e for e in runs["experiment"].unique() if table(entries, str(e)).get("grid")]
    runs = runs[~runs["experiment"].isin(swept)]
    stored = {e: stored_arms(config, str(e)) for e in runs["experiment"].unique()}
    arms = zip(runs["experiment"], runs["objective"], strict=True)
    recipe = pd.Series([stored[e][label].recipe for e, label in arms], runs.index, dtype=object)
    settings = runs.groupby([runs["experiment"], recipe])["objective"].transform("nunique")
    kept = (recipe == runs["objective"]) | (settings == 1)
    return runs.assign(objective=recipe)[kept]


@dataclass(frozen=True)
class Scores:
    """One score per run.

    Attributes:
        frame: one row per run, with the columns experiment, objective, seed and score.
    """

    frame: pd.DataFrame

    @classmethod
    def of(cls, runs: pd.DataFrame, config: dict[str, Any]) -> Scores:
        """The scores in table ``runs`` of every arm that ran at one setting.

        Raises:
            LookupError: the records have no scores (an older erc-bench wrote them) or only grids, or
                a run that did not diverge has no score.
        """
        if "score" not in runs or runs["score"].isna().all():
            raise LookupError("the records have no scores; run the experiments again")
        runs = _single_setting(runs, config)
        if runs.empty:
            raise LookupError("every arm ran at several settings; such sweeps have no one score")
        score = runs["score"].astype(np.float64).where(~runs["diverged"].astype(bool), 0.0)
        frame = runs.assign(score=score)[_COLUMNS]
        scored = frame.groupby("experiment")["score"].transform(lambda s: s.notna().any())
        frame = frame[scored].reset_index(drop=True)
        bad = frame[~np.isfinite(frame["score"])]
        if len(bad):
            first = bad.iloc[0]
            raise LookupError(
                f"score: {first['score']} in {first['experiment']}, {first['objective']}, seed "
                f"{first['seed']}, which did not diverge"
            )
        return cls(frame)

    @cached_property
    def experiments(self) -> list[str]:
        """In the records' order."""
        return list(dict.fromkeys(self.frame["experiment"]))

    @cached_property
    def objectives(self) -> list[str]:
        """In the records' order."""
        return list(dict.fromkeys(self.frame["objective"]))

    @cached_property
    def _runs(self) -> dict[tuple[str, str], pd.Series]:
        by_arm = self.frame.sort_values("seed").groupby(["experiment", "objective"], sort=False)
        return {(str(e), str(o)): g.set_index("seed")["score"] for (e, o), g in by_arm}

    def ran(self, objective: str) -> list[str]:
        """The experiments that an objective ran in."""
        return self.shared([objective])

    def shared(self, objectives: Sequence[str]) -> list[str]:
        """The experiments that all of some objectives ran in."""
        return [e for e in self.experiments if all((e, o) in self._runs for o in objectives)]

    @cached_property
    def common(self) -> list[str]:
        """The experiments that every objective with at least half of the experiments ran in.

        Aggregates over other sets would compare objectives on different work.
        """
        core = [o for o in self.objectives if 2 * len(self.ran(o)) >= len(self.experiments)]
        return self.shared(core) if core else []

    @cached_property
    def ranked(self) -> list[str]:
        """The objectives that ran in every common experiment, which are those with an aggregate."""
        return [o for o in self.objectives if self.common and set(self.common) <= set(self.ran(o))]

    def strata(self, objective: str, experiments: Sequence[str]) -> list[Array]:
        """Scores of an objective, one vector per experiment, ordered by seed."""
        return [self._runs[e, objective].to_numpy(np.float64) for e in experiments]

    def matrix(self, objective: str) -> pd.DataFrame:
        """Seeds x experiments of an objective; NaN where a seed did not run in an experiment."""
        columns = {e: self._runs[e, objective] for e in self.ran(objective)}
        return pd.DataFrame(columns).sort_index()

    def mean(self, experiment: str, objective: str) -> Interval:
        """Mean over seeds with the interval of a bounded score; NaN with n = 0 if there is no run."""
        return mean_interval(self._runs.get((experiment, objective), ()))

    def iqm(self, objective: str) -> Estimate:
        """Interquartile mean over all runs of the common experiments, with its interval.

        NaN for an objective that did not run in all of them.
        """
        if objective not in self.ranked:
            return Estimate(math.nan, math.nan, math.nan)
        return interquartile_mean(self.strata(objective, self.common))

    def paired(self, base: str, other: str, experiment: str) -> tuple[Array, Array]:
        """Scores of two objectives on the seeds that both ran."""
        both = pd.concat(
            [self._runs[experiment, base], self._runs[experiment, other]], axis=1, join="inner"
        ).to_numpy(np.float64)
        return both[:, 0], both[:, 1]


def improvements(scores: Scores) -> pd.DataFrame:
    """P(ERC arm > its base) per experiment that ran both, and over all of them.

    Columns: ``base``; ``objective``; ``experiment``, :data:`OVERALL` for all; ``n``, the number of
    pairs; ``value``, ``low`` and ``high``, which compare runs of the same seed; ``difference``, the mean
    of the paired differences; ``p``, their two-sided sign-flip test; ``p_holm``, adjusted over the whole
    table.
    """
    rows = []
    for base, other in gated_pairs(map(stored_arm, scores.objectives)):
        pairs = {e: scores.paired(base, other, e) for e in scores.shared([base, other])}
        pairs = {e: pair for e, pair in pairs.items() if len(pair[0])}
        parts = [(e, [pair]) for e, pair in pairs.items()]
        if len(parts) > 1:
            parts.append((OVERALL, list(pairs.values())))
        for experiment, chosen in parts:
            rows.append(
                {"base": base, "objective": other, "experiment": experiment} | _improvement(chosen)
            )
    frame = pd.DataFrame(rows)
    if rows:
        frame["p_holm"] = holm(frame["p"])
    return frame


def _improvement(pairs: list[tuple[Array, Array]]) -> dict[str, float]:
    """The numbers of one row. Every experiment weighs the same, whatever its number of seeds."""
    bases, others = [a for a, _ in pairs], [b for _, b in pairs]
    found = probability_of_improvement(others, bases)
    row: dict[str, float] = {"n": sum(len(a) for a in bases)}
    row |= {"value": found.value, "low": found.low, "high": found.high}
    weighted = np.concatenate([(b - a) / (len(a) * len(pairs)) for a, b in pairs])
    return row | {"difference": float(weighted.sum()), "p": sign_flip_test(weighted)}
