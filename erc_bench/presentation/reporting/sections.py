"""The report's tables: scorecard, claims, and one section per experiment."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from erc_bench import analysis
from erc_bench.analysis import MEASURES, Interval, Measure
from erc_bench.analysis.claims import Assessment, Verdict, ours, unmeasured_lines
from erc_bench.analysis.tables import interval_of, runs_text, score_rows, scores_note
from erc_bench.presentation.plots import Drawing, Frames, arm_style
from erc_bench.presentation.plots.style import settings_text
from erc_bench.studies.arms import StoredArm, gated_pairs
from erc_bench.studies.records import Results

__all__ = ["Section", "claims", "scorecard", "sections", "sort_keys"]


def sort_keys(values: Iterable[float]) -> str:
    """A row's numbers as the page sorts by: all digits, nothing where there is none.

    >>> sort_keys([0.5, float("nan"), 1e-9])
    '0.5,,1e-09'
    """
    return ",".join(repr(float(v)) if math.isfinite(v) else "" for v in values)


@dataclass(frozen=True)
class Cell:
    """A value in a table; ``best``: its interval overlaps that of the best mean."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """An objective in an experiment's table."""

    name: str
    recipe: str
    settings: str  # what differs from the recipe
    number: int  # of its recipe, which the filter goes by
    color: str
    keys: dict[str, str]  # numbers to sort by, per group of columns
    runs: str
    diverged: int
    cells: list[Cell]


@dataclass(frozen=True)
class Section:
    """An experiment: its question, table, and paired comparisons."""

    name: str
    environment: str
    question: str
    rows: list[Row]
    comparisons: list[dict[str, Any]]
    equations: list[tuple[str, str, str]]


def claims(assessment: Assessment, drawn: Collection[Drawing]) -> dict[str, Any]:
    """Verdicts the records allow, and what the others would need; no rows where none is allowed."""
    return {
        "rows": [
            {
                "id": v.claim.id,
                "anchor": f"claim-{v.claim.id}-{v.regime}",
                "title": v.claim.title,
                "statement": v.claim.statement,
                "regime": v.regime,
                "paper": v.claim.paper or "–",
                "ours": ours(v) or "–",
                "verdict": v.verdict,
                "kind": {True: "better", False: "worse", None: ""}[v.holds],
                "because": v.because,
                "figures": _figures(v, drawn),
            }
            for v in assessment.verdicts
            if v.verdict != "not measured"
        ],
        "missing": unmeasured_lines(assessment),
    }


def _figures(verdict: Verdict, drawn: Collection[Drawing]) -> list[tuple[str, str]]:
    """Number and name of each figure of a claim that is in the report."""
    wanted = [str(number) for number in verdict.claim.figures]
    return [(d.number, d.name) for number in wanted for d in drawn if d.number == number]


def scorecard(results: Results, frames: Frames, numbers: Mapping[str, int]) -> dict[str, Any]:
    """Header, rows and note of the table of scores; without scores, the reason as its note."""
    try:
        scores = analysis.scores(results)
    except LookupError as reason:
        return {"header": [], "rows": [], "note": f"Not shown: {reason.args[0]}."}
    header, rows = score_rows(scores)
    looks = frames.looks(scores.objectives)
    table = []
    for name, *cells, overall in rows:
        means = [scores.mean(experiment, name).estimate for experiment in scores.experiments]
        table.append(
            {
                "name": name,
                "settings": "",
                "number": numbers[looks[name].recipe],
                "color": arm_style(looks[name]).color,
                "keys": sort_keys([scores.iqm(name).value, *means]),
                "cells": [overall, *cells],  # the sum first: many experiments need scrolling
            }
        )
    first, *names, last = header
    return {"header": [first, last, *names], "rows": table, "note": scores_note(scores)}


def sections(
    results: Results, frames: Frames, summary: pd.DataFrame, numbers: Mapping[str, int]
) -> Iterator[Section]:
    """One section per experiment; ``numbers`` are those of recipes."""
    every = frames.looks(summary["objective"].unique())
    comparisons = _comparisons(analysis.per_seed(results), every, numbers)
    for experiment, rows in summary.groupby("experiment", sort=False):
        entry, arms = frames.about(str(experiment)), frames.arms(str(experiment))
        by_name = {str(r["objective"]): r for _, r in rows.iterrows()}
        best = {m.key: _best(m, rows) for m in MEASURES}
        yield Section(
            name=str(experiment),
            environment=str(rows["environment"].iloc[0]),
            question=str(entry.get("question") or ""),
            rows=[
                Row(
                    name=name,
                    recipe=arm.recipe,
                    settings=settings_text(arm),
                    number=numbers[arm.recipe],
                    color=arm_style(arm).color,
                    keys=_keys(by_name[name]),
                    runs=runs_text(by_name[name]),
                    diverged=int(by_name[name]["diverged"]),
                    cells=[_cell(by_name[name], m, best[m.key]) for m in MEASURES],
                )
                for name, arm in arms.items()
            ],
            comparisons=[c for c in comparisons if c["experiment"] == experiment],
            equations=list(_equations(entry, arms)),
        )


def _keys(row: pd.Series) -> dict[str, str]:
    means = {
        group: [float(row[f"{m.key}/estimate"]) for m in MEASURES if m.group == group]
        for group in ("learning", "drift")
    }
    failed = float(row["diverged"]) / float(row["seeds"])
    return {"learning": sort_keys([failed, *means["learning"]]), "drift": sort_keys(means["drift"])}


def _cell(row: pd.Series, measure: Measure, best: Interval | None) -> Cell:
    interval = interval_of(row, measure.key)
    text = analysis.interval_text(interval, measure.metric.scale)
    return Cell(text.replace("-", "−"), best is not None and interval.overlaps(best))


def _best(measure: Measure, rows: pd.DataFrame) -> Interval | None:
    """Interval of the best estimate; None without a direction, or with nothing to compare."""
    intervals = [interval_of(row, measure.key) for _, row in rows.iterrows()]
    known = [i for i in intervals if i.known]
    if measure.metric.better is None or len(known) < 2:
        return None
    return (max if measure.metric.better == "higher" else min)(known, key=lambda i: i.estimate)


def _comparisons(
    runs: pd.DataFrame, arms: Mapping[str, StoredArm], numbers: Mapping[str, int]
) -> list[dict[str, Any]]:
    labels = {m.key: m for m in MEASURES}
    rows: list[dict[str, Any]] = []
    for base, gated in gated_pairs(arms.values()):
        try:
            table = analysis.paired(runs, base, gated)
        except LookupError:
            continue
        for _, row in table[table["verdict"] != ""].iterrows():
            measure = labels[str(row["measure"])]
            interval = interval_of(row, "difference")
            if interval.n == 0:
                continue
            rows.append(
                {
                    "experiment": row["experiment"],
                    "pair": f"{gated} − {base}",
                    "numbers": f"{numbers[arms[gated].recipe]} {numbers[arms[base].recipe]}",
                    "measure": measure.metric.heading,
                    "difference": analysis.interval_text(interval, measure.metric.scale).replace(
                        "-", "−"
                    ),
                    "verdict": row["verdict"],
                }
            )
    return rows


def _equations(entry: dict[str, Any], names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    objectives = entry.get("objectives")
    if not isinstance(objectives, dict):
        return
    for name in names:
        about = objectives.get(name)
        if isinstance(about, dict) and about.get("equation"):
            yield name, str(about["equation"]), str(about.get("source") or "")
