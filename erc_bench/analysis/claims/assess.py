"""From records to verdicts: every claim by its rule, row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import pandas as pd

from erc_bench.analysis.claims.evidence import REWARD, Evidence
from erc_bench.analysis.claims.inference import Decision, decide, decide_discoveries
from erc_bench.analysis.claims.rules import Claim, Criterion, Part, Regime, Thresholds
from erc_bench.analysis.claims.statistics import (
    auroc_by_seed,
    difference,
    dropped_below_kept,
    log_ratio,
    share,
)
from erc_bench.analysis.statistics import Interval, mean_interval

__all__ = ["Role", "Row", "rows_of"]

Role = Literal["deciding", "detail", "information"]
NO_VALUE = "no value"


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
        interval: 95 % interval over seeds; for a ratio, that of its geometric mean.
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


@dataclass(frozen=True, kw_only=True)
class Sample(Compared):
    """Values of one comparison by seed, before any decision; for a ratio, its logarithms."""

    values: pd.Series

    @property
    def known(self) -> np.ndarray:
        """The values of the seeds that have one."""
        values = self.values.to_numpy(dtype=np.float64)
        return np.asarray(values[np.isfinite(values)])


def rows_of(
    claim: Claim, part: Part, regime: Regime, evidence: Evidence, rules: Thresholds
) -> tuple[list[Row], dict[str, str]]:
    """The rows of a part in a regime, and why the records lack some of what it asks for."""
    samples: dict[tuple[str, ...], list[Sample]] = {}
    missing: dict[str, str] = {}
    for recipes in part.arms:
        for experiment in part.experiments[regime]:
            found, why = _samples(part, experiment, recipes, evidence, rules)
            samples.setdefault(recipes, []).extend(found)
            if why:
                missing[experiment] = why
    singles = [sample for group in samples.values() for sample in group]
    if part.decides == "mean":
        means = [_mean(group, part, missing) for group in samples.values() if group]
        return [
            *_rows(claim, part, regime, "deciding", means, rules),
            *_rows(claim, part, regime, "detail", singles, rules),
        ], missing
    if part.decides == "cells":  # the cells of one comparison are one family
        families = samples.values()
        return [
            row for f in families for row in _rows(claim, part, regime, "deciding", f, rules)
        ], missing
    role: Role = "deciding" if part.decides == "every" else "information"
    return _rows(claim, part, regime, role, singles, rules), missing


def _samples(
    part: Part, experiment: str, recipes: tuple[str, ...], evidence: Evidence, rules: Thresholds
) -> tuple[list[Sample], str]:
    """A sample for each point of the experiment's grid, or why there is none."""
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
        try:
            values = _values(part, experiment, arms, recipes, evidence, rules)
        except KeyError as error:
            return [], f"no column {error.args[0]} in its records"
        runs = [evidence.arm(experiment, label) for label in arms]
        samples.append(
            Sample(
                experiment=experiment,
                arms=arms,
                recipes=recipes,
                point=evidence.point(experiment, arms, without=single),
                values=values,
                diverged=tuple(int(r["diverged"].astype(bool).sum()) for r in runs),
                runs=max(len(r) for r in runs),
            )
        )
    return samples, ""


def _values(
    part: Part,
    experiment: str,
    arms: tuple[str, ...],
    recipes: tuple[str, ...],
    evidence: Evidence,
    rules: Thresholds,
) -> pd.Series:
    """The part's statistic by seed."""
    columns = part.columns
    if part.statistic in ("auroc", "auroc-difference", "dropped-below-kept"):
        tokens = evidence.off_policy_tokens(experiment, arms[0])
        if part.statistic == "dropped-below-kept":
            found = dropped_below_kept(tokens, columns[0], rules.tokens)
        else:
            delta = evidence.delta(experiment)
            by_score = [auroc_by_seed(tokens, c, delta, rules.tokens) for c in columns]
            found = by_score[0] if len(by_score) == 1 else difference(*by_score)
        return found.reindex(evidence.arm(experiment, arms[0]).index)
    runs = [evidence.arm(experiment, label) for label in arms]
    if part.statistic == "value":
        return runs[0][columns[0]]
    if part.statistic == "share":
        return share(runs[0], *columns)
    if part.statistic == "value-to-reference":
        (reference,) = evidence.comparisons(part.reference, recipes, {})[0]
        whole = evidence.arm(part.reference, reference)[columns[1]]
        return share(runs[0][[columns[0]]].join(whole.rename("whole")), columns[0], "whole")
    pair = difference if part.statistic == "difference" else log_ratio
    return pair(runs[0][columns[0]], runs[1][columns[0]])


def _mean(samples: Sequence[Sample], part: Part, missing: dict[str, str]) -> Sample:
    """The average over experiments within each seed; none for a seed that lacks one of them."""
    table = pd.concat([s.values for s in samples], axis=1)
    lacking = ", ".join(missing)
    return Sample(
        experiment=f"mean of {len(samples)}" if len(samples) > 1 else samples[0].experiment,
        arms=samples[0].arms,
        recipes=samples[0].recipes,
        point="",
        values=table.mean(axis=1, skipna=False),
        diverged=tuple(map(sum, zip(*(s.diverged for s in samples), strict=True))),
        runs=sum(s.runs for s in samples),
        note=f"without {lacking}" if lacking else "",
    )


def _rows(
    claim: Claim,
    part: Part,
    regime: Regime,
    role: Role,
    samples: Sequence[Sample],
    rules: Thresholds,
) -> list[Row]:
    """Decide a family; members without a single value are shown and left out of it."""
    family = [s for s in samples if len(s.known)]
    decisions = dict(zip(map(id, family), _decisions(part, family, rules), strict=True))
    return [
        _row(claim, part, regime, role, sample, decisions.get(id(sample)), rules)
        for sample in samples
    ]


def _decisions(part: Part, family: Sequence[Sample], rules: Thresholds) -> list[Decision]:
    members = [s.known for s in family]
    if part.holds is None:
        plain = [mean_interval(x, rules.level) for x in members]
        return [Decision(i, i, rules.level, math.nan, "inconclusive") for i in plain]
    criterion: Criterion = part.holds.logarithm() if part.logarithmic else part.holds
    if part.decides == "cells":
        rate = rules.false_discovery_rate
        return decide_discoveries(
            members, criterion, level=rules.level, seeds=rules.seeds, rate=rate
        )
    return decide(members, criterion, level=rules.level, seeds=rules.seeds)


def _row(
    claim: Claim,
    part: Part,
    regime: Regime,
    role: Role,
    sample: Sample,
    decision: Decision | None,
    rules: Thresholds,
) -> Row:
    n = len(sample.known)
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    notes = [part.note, sample.note]
    holds: bool | None = None
    if decision is None:
        verdict = NO_VALUE
    elif part.holds is None:
        verdict = ""
    else:
        holds = {"holds": True, "fails": False, "inconclusive": None}[decision.outcome]
        if n < rules.seeds:
            notes.append(f"{n} of {rules.seeds} seeds")
        elif holds is None and decision.p <= 1 - rules.level:
            notes.append("conclusive before correction")
        objection = _objection(part, role, sample, holds)
        if objection:
            holds = None
            notes.append(objection)
        verdict = _word(claim, part, role, holds)
    if len(sample.values) > n:
        notes.append(f"{len(sample.values) - n} of {len(sample.values)} without a value")
    found = decision or Decision(nothing, nothing, rules.level, math.nan, "inconclusive")
    shown = [_exp(i) if part.logarithmic else i for i in (found.interval, found.adjusted)]
    measured = {f.name: getattr(sample, f.name) for f in fields(Compared)}
    return Row(
        **measured | {"note": "; ".join(filter(None, notes))},
        claim=claim.id,
        part=part,
        regime=regime,
        role=role,
        interval=shown[0],
        adjusted=shown[1],
        level=found.level,
        p=found.p,
        verdict=verdict,
        holds=holds,
        without=len(sample.values) - n,
    )


def _objection(part: Part, role: Role, sample: Sample, holds: bool | None) -> str:
    """Why a row decides nothing although its interval does; empty where it may."""
    if holds is not None and sample.note and role == "deciding":
        return "a mean over all its experiments is asked for"
    if holds and len(sample.diverged) == 2 and part.columns != (REWARD,):
        base, other = sample.diverged
        if other > base:
            return f"{sample.recipes[1]} diverged in {other} runs, its base in {base}"
    return ""


def _word(claim: Claim, part: Part, role: Role, holds: bool | None) -> str:
    if holds is None:
        return "inconclusive"
    if part.decides == "cells":
        return "better" if holds else "worse"
    return ("yes" if holds else "no") if role == "information" else claim.words[0 if holds else 1]


def _exp(interval: Interval) -> Interval:
    return Interval(
        math.exp(interval.mean), math.exp(interval.low), math.exp(interval.high), interval.n
    )
