"""From records to verdicts: every claim by its rule, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import pandas as pd

from erc_bench.analysis.claims.evidence import COLLAPSED, Evidence
from erc_bench.analysis.claims.inference import (
    DIFFERENCES,
    Decision,
    Family,
    collapse_overrules,
    decide,
    decide_discoveries,
    one_seed_decides,
)
from erc_bench.analysis.claims.rules import REWARD, Claim, Criterion, Part, Regime, Thresholds
from erc_bench.analysis.claims.statistics import (
    auroc_by_seed,
    difference,
    dropped_below_kept,
    log_ratio,
    precision,
    recall,
    share,
)
from erc_bench.analysis.statistics import Interval, mean_interval

__all__ = ["Question", "Role", "Row"]

Role = Literal["deciding", "detail", "information"]
NO_VALUE = "no value"
NOTHING = "nothing to steady here"
#: Those of sampled tokens; the others are of runs.
TOKEN_STATISTICS = ("auroc", "auroc-difference", "recall", "precision", "dropped-below-kept")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a number was measured on.

    Attributes:
        experiment: name of the experiment, or over how many a mean is taken.
        arms: labels in the records; base first.
        recipes: names of the recipes of these arms.
        point: of the experiment's grid.
        diverged: how many runs of each arm diverged.
        runs: number of runs of each arm.
        note: what a reader must know to understand the number.
    """

    experiment: str
    arms: tuple[str, ...]
    recipes: tuple[str, ...]
    point: str
    diverged: tuple[int, ...]
    runs: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row(Compared):
    """One number behind a claim, with what follows from it.

    Attributes:
        claim, part, regime: what the number is about.
        role: whether it decides the claim, is an experiment inside a deciding mean, or informs.
        interval: the part's estimate over seeds with its 95 % interval.
        adjusted: the interval at ``level``, the one its family's correction asks for.
        p: the unadjusted p-value.
        verdict: the claim's word for holding or failing, "inconclusive", or "no value"; for
            information "yes", "no", "inconclusive", or nothing for a mere measurement.
        holds: None while inconclusive.
        without: number of runs (or pairs) that have no value.
    """

    claim: str
    part: Part
    regime: Regime
    role: Role
    interval: Interval
    adjusted: Interval
    level: float
    p: float
    verdict: str
    holds: bool | None
    without: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample(Compared):
    """Values of one comparison by seed, before any decision; for a ratio, its logarithms.

    Attributes:
        values: of the part's statistic.
        excess: of paired scores, 1 where only the second arm collapsed, -1 where only its base did,
            else 0; None where the records do not say.
        calm: the part is about steadying, and the base is not shown to collapse in more than
            ``rules.collapse`` of the seeds.
    """

    values: pd.Series
    excess: pd.Series | None = None
    calm: bool = False

    @property
    def known(self) -> np.ndarray:
        """The values of the seeds that have one."""
        values = self.values.to_numpy(dtype=np.float64)
        return np.asarray(values[np.isfinite(values)])


@dataclass(frozen=True)
class Question:
    """A part of a claim in one regime, put to the records."""

    claim: Claim
    part: Part
    regime: Regime
    evidence: Evidence
    rules: Thresholds

    def rows(self) -> tuple[list[Row], dict[str, str]]:
        """The rows of the part, and why the records lack some of what it asks for."""
        samples: dict[tuple[str, ...], list[Sample]] = {}
        missing: dict[str, str] = {}
        for recipes in self.part.arms:
            for experiment in self.part.experiments[self.regime]:
                found, why = self._samples(experiment, recipes)
                samples.setdefault(recipes, []).extend(found)
                if why:
                    missing[experiment] = why
        groups = [group for group in samples.values() if group]
        singles = [sample for group in groups for sample in group]
        if self.part.decides == "mean":
            means = [_mean(group, missing) for group in groups]
            return self._rows("deciding", means) + self._rows("detail", singles), missing
        if self.part.decides == "cells":  # the cells of one comparison are one family
            return [row for group in groups for row in self._rows("deciding", group)], missing
        role: Role = "deciding" if self.part.decides == "every" else "information"
        return self._rows(role, singles), missing

    def _samples(self, experiment: str, recipes: tuple[str, ...]) -> tuple[list[Sample], str]:
        """A sample for each point of the experiment's grid, or why there is none."""
        part, evidence = self.part, self.evidence
        if experiment not in evidence.labels:
            return [], "not run"
        if part.reference and not evidence.comparisons(part.reference, recipes, {}):
            return [], f"needs {recipes[0]} in {part.reference}, which was not run"
        found = evidence.comparisons(experiment, recipes, part.at)
        if not found:
            return [], f"no arms {' and '.join(recipes)}" + (" at these points" if part.at else "")
        samples = []
        single = [axis for axis, values in part.at.items() if len(values) == 1]
        for arms in found:
            runs = [evidence.arm(experiment, label) for label in arms]
            try:
                values = self._values(experiment, arms[0], recipes, runs)
            except KeyError as error:
                return [], f"no column {error.args[0]} in its records"
            samples.append(
                Sample(
                    experiment=experiment,
                    arms=arms,
                    recipes=recipes,
                    point=evidence.point(experiment, arms, without=single),
                    values=values,
                    excess=_excess(runs) if part.compares_scores else None,
                    calm=part.steadies and not self._collapses(runs[0]),
                    diverged=tuple(int(r["diverged"].astype(bool).sum()) for r in runs),
                    runs=max(len(r) for r in runs),
                )
            )
        return samples, ""

    def _collapses(self, base: pd.DataFrame) -> bool:
        """Whether a base is shown to collapse in more than ``rules.collapse`` of the seeds."""
        return mean_interval(base[COLLAPSED], level=self.rules.level).low > self.rules.collapse

    def _values(
        self, experiment: str, label: str, recipes: tuple[str, ...], runs: Sequence[pd.DataFrame]
    ) -> pd.Series:
        """The part's statistic by seed; ``label`` is that of the first arm, of which tokens are read."""
        evidence, statistic = self.evidence, self.part.statistic
        first, *others = self.part.columns
        if statistic in TOKEN_STATISTICS:
            tokens, least = evidence.off_policy_tokens(experiment, label), self.rules.tokens
            bounds = evidence.bounds(experiment)
            if statistic == "dropped-below-kept":
                found = dropped_below_kept(tokens, first, least)
            elif statistic in ("recall", "precision"):
                measure = recall if statistic == "recall" else precision
                found = measure(tokens, first, others[0], bounds, least)
            else:
                scores, delta = (first, *others), bounds.delta
                by_score = [auroc_by_seed(tokens, score, delta, least) for score in scores]
                found = by_score[0] if len(by_score) == 1 else difference(*by_score)
            return found.reindex(runs[0].index)
        if statistic in ("value", "mean"):
            return runs[0][first].astype(np.float64)
        if statistic == "share":
            return share(runs[0], first, *others)
        if statistic == "value-to-reference":
            (reference,) = evidence.comparisons(self.part.reference, recipes, {})[0]
            whole = evidence.arm(self.part.reference, reference)[others[0]]
            return share(runs[0][[first]].join(whole.rename("whole")), first, "whole")
        pair = log_ratio if statistic == "ratio" else difference
        return pair(*(arm[first].astype(np.float64) for arm in runs))

    def _rows(self, role: Role, samples: Sequence[Sample]) -> list[Row]:
        """Decide a family; members without a value or with nothing to steady are shown and left out."""
        known = [s for s in samples if len(s.known) and not s.calm]
        family = self._family(known)
        members = [s.known for s in known]
        if self.part.decides == "cells":
            found = decide_discoveries(members, family, self.rules.false_discovery_rate)
        else:
            found = decide(members, family)
        decisions = iter(found)
        return [
            self._row(role, s, family, next(decisions) if s in known else None) for s in samples
        ]

    def _family(self, samples: Sequence[Sample]) -> Family:
        part, rules = self.part, self.rules
        asked = part.holds or Criterion()
        estimator = part.estimator
        if part.compares_scores and any(s.excess is None for s in samples):
            estimator = DIFFERENCES  # what does not say who collapsed is judged by its mean
        criterion = asked.logarithm() if part.logarithmic else asked
        return Family(criterion, estimator, rules.level, rules.seeds)

    def _row(self, role: Role, sample: Sample, family: Family, decision: Decision | None) -> Row:
        part, rules, n = self.part, self.rules, len(sample.known)
        notes = [part.note, sample.note]
        holds: bool | None = None
        if decision is None:
            verdict = NOTHING if sample.calm else NO_VALUE
        elif part.holds is None:
            verdict = ""
        else:
            holds = {"holds": True, "fails": False, "inconclusive": None}[decision.outcome]
            if n < rules.seeds:
                notes.append(f"{n} of {rules.seeds} seeds")
            elif holds is None and decision.p <= 1 - rules.level:
                notes.append("conclusive before correction")
            objection = self._objection(role, sample, holds)
            if objection:
                holds = None
                notes.append(objection)
            elif one_seed_decides(sample.known, decision, family):
                notes.append("one seed decides")
            verdict = _word(self.claim, part, role, holds)
        without = len(sample.values) - n
        if without:
            notes.append(f"{without} of {len(sample.values)} without a value")
        nothing = Interval(math.nan, math.nan, math.nan, 0)
        if sample.calm and n:
            nothing = family.estimator.interval(sample.known, rules.level)
        found = decision or Decision(nothing, nothing, rules.level, math.nan, "inconclusive")
        shown = [_exp(i) if part.logarithmic else i for i in (found.interval, found.adjusted)]
        measured = {f.name: getattr(sample, f.name) for f in fields(Compared)}
        return Row(
            **measured | {"note": "; ".join(filter(None, notes))},
            claim=self.claim.id,
            part=part,
            regime=self.regime,
            role=role,
            interval=shown[0],
            adjusted=shown[1],
            level=found.level,
            p=found.p,
            verdict=verdict,
            holds=holds,
            without=without,
        )

    def _objection(self, role: Role, sample: Sample, holds: bool | None) -> str:
        """Why a row decides nothing although its interval does; empty where it may."""
        if holds is None:
            return ""
        if sample.note and role == "deciding":
            return "a mean over all its experiments is asked for"
        if sample.excess is not None:
            margin, better = self.rules.collapse, sample.recipes[int(holds)]
            excess = sample.excess.dropna().to_numpy(np.float64) * (1 if holds else -1)
            if collapse_overrules(excess, margin, self.rules.level):
                return f"{better} may collapse in {100 * margin:g} % more of the seeds"
        if holds and len(sample.diverged) == 2 and self.part.columns != (REWARD,):
            base, other = sample.diverged
            if other > base:
                return f"{sample.recipes[1]} diverged in {other} runs, its base in {base}"
        return ""


def _mean(samples: Sequence[Sample], missing: Mapping[str, str]) -> Sample:
    """The average over experiments within each seed; none for a seed that lacks one of them."""

    def by_seed(found: Sequence[pd.Series]) -> pd.Series:
        return pd.concat(found, axis=1).mean(axis=1, skipna=False)

    excess = [s.excess for s in samples if s.excess is not None]
    return replace(
        samples[0],
        experiment=f"mean of {len(samples)}" if len(samples) > 1 else samples[0].experiment,
        point="",
        values=by_seed([s.values for s in samples]),
        excess=by_seed(excess) if len(excess) == len(samples) else None,
        diverged=tuple(map(sum, zip(*(s.diverged for s in samples), strict=True))),
        runs=sum(s.runs for s in samples),
        note=f"without {', '.join(missing)}" if missing else "",
    )


def _excess(runs: Sequence[pd.DataFrame]) -> pd.Series | None:
    """By how much the second arm collapsed more often than the first, by seed."""
    if any(COLLAPSED not in arm or arm[COLLAPSED].isna().any() for arm in runs):
        return None
    return difference(*(arm[COLLAPSED] for arm in runs))


def _word(claim: Claim, part: Part, role: Role, holds: bool | None) -> str:
    if holds is None:
        return "inconclusive"
    if part.decides == "cells":
        return "better" if holds else "worse"
    return ("yes" if holds else "no") if role == "information" else claim.words[0 if holds else 1]


def _exp(interval: Interval) -> Interval:
    return Interval(
        math.exp(interval.estimate), math.exp(interval.low), math.exp(interval.high), interval.n
    )
