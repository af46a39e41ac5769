"""A finished run beside the papers' numbers, with intervals; what was not run is marked as such."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from erc_bench.adapters.logs import read_log
from erc_bench.analysis.statistics import stratified_mean
from erc_bench.analysis.tables import markdown_table
from erc_bench.core.errors import InputError
from erc_bench.core.validation import Count, Size, checked_dataclass, checked_file
from erc_bench.objectives import recipe
from paper_repro.data import PROBLEMS
from paper_repro.targets import Paper, targets

__all__ = ["Row", "as_markdown", "compare"]

NOTE = (
    "Intervals of scores are 95 %, over problems and their sampled answers; of a difference, over problems "
    "paired; of shares of tokens, over the run's steps in blocks. One training run each: what another seed "
    "of the training would change is in none of them, and the papers give no intervals."
)


@dataclass(frozen=True)
class Row:
    """One number of a paper, and ours beside it.

    Attributes:
        what: what it is.
        target: the paper's number.
        source: where the paper reports it.
        value: our number; None if nothing was run.
        low: lower end of our 95 % interval.
        high: upper end of it.
        note: in what respect the two numbers are not the same thing.
        assumed: what the comparison assumes about the paper; empty if nothing.
    """

    what: str
    target: float
    source: str
    value: float | None = None
    low: float = math.nan
    high: float = math.nan
    note: str = ""
    assumed: str = ""

    @property
    def finding(self) -> str:
        """Whether the paper's number lies in our interval. More than that is never claimed."""
        if self.value is None:
            return "not run"
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return "no interval"
        where = "inside" if self.low <= self.target <= self.high else "outside"
        return f"{where} our interval" + (f", if {self.assumed}" if self.assumed else "")


@checked_dataclass
class Score:
    """A benchmark of an evaluation, as ``paper_repro.evaluation score`` writes it.

    ``avg`` and its interval are in percent, None where they are not known; ``correct`` has the number
    of right answers of each problem, out of ``samples``.
    """

    avg: float | None
    low: float | None
    high: float | None
    samples: Count = 1
    correct: Mapping[str, Size] = field(default_factory=dict)
    problems: Size = 0
    judge_failed: Size = 0
    pass_at_k: Annotated[Mapping[str, Any], Field(alias="pass@k")] = field(default_factory=dict)


@checked_dataclass
class Evaluation:
    """A file of ``paper_repro.evaluation score``."""

    benchmarks: Mapping[str, Score]


def compare(
    model: str,
    objective: str,
    evaluation: Path | None = None,
    log: Path | None = None,
    *,
    baseline: Path | None = None,
    papers: Path | None = None,
) -> list[Row]:
    """Every target of this run.

    Args:
        model: ``1.5b`` or ``7b``.
        objective: that was trained.
        evaluation: what ``paper_repro.evaluation score`` wrote.
        log: of the training, as ``erc_bench.adapters.logs`` reads it.
        baseline: evaluation of the same model trained without ERC, for the difference.
        papers: targets in place of ours.

    Raises:
        InputError: a file that is not what it should be, or nothing to compare with.
    """
    known = targets(papers)
    scores, plain = _scores(evaluation), _scores(baseline)
    base = recipe(objective).base or objective
    rows = []
    for paper in known.values():
        arms = paper.average.get(model, {})
        if objective in arms:
            what = f"average of {', '.join(paper.benchmarks)}"
            rows.append(_score_row(paper, what, arms[objective], [scores], paper.unit, _average))
        if base != objective and {base, objective} <= set(arms):
            target, unit = arms[objective] - arms[base], "points, paired by problem"
            both = (scores, plain)
            what = f"{objective} - {base}"
            rows.append(_score_row(paper, what, target, both, unit, _difference))
        if base == objective:
            metric, share = "clip/ratio_bound_fraction", paper.tokens.clip_bound
        else:
            metric, share = "gate/dropped_fraction", paper.tokens.dropped
        if share is not None:
            rows.append(_share_row(metric, 100 * share, paper.tokens.source or paper.source, log))
    if not rows:
        raise InputError(f"targets: none for {objective} at {model}")
    return rows


def _score_row(
    paper: Paper,
    what: str,
    target: float,
    evaluations: Sequence[Mapping[str, Score]],
    unit: str,
    found: Callable[..., tuple[float, float, float]],
) -> Row:
    """A row about scores; ``found`` makes our number of the benchmarks of each evaluation."""
    row = Row(what, target, paper.source)
    for scores in filter(None, evaluations):
        lacking = [name for name in paper.benchmarks if name not in scores]
        if lacking:
            return replace(row, note=f"missing: {', '.join(lacking)}")
    if not all(evaluations):
        paired = "needs both evaluations: --evaluation and --baseline"
        return replace(row, note=unit if len(evaluations) == 1 else paired)
    chosen = [[scores[name] for name in paper.benchmarks] for scores in evaluations]
    incomplete = [
        f"{name}: {len(score.correct)} of {PROBLEMS[name]} problems"
        for name, score in zip(paper.benchmarks, chosen[0], strict=True)
        if score.correct and len(score.correct) != PROBLEMS.get(name)
    ]
    assumed = "" if paper.benchmarks_known else "these are the paper's benchmarks"
    note = "; ".join([unit, *incomplete])
    return Row(what, target, paper.source, *found(paper, *chosen), note=note, assumed=assumed)


def _average(paper: Paper, scores: Sequence[Score]) -> tuple[float, float, float]:
    """Mean over benchmarks; their errors are independent, so half-widths add in squares."""
    table = np.array([(s.low, s.avg, s.high) for s in scores], dtype=float)  # None becomes NaN
    below, above = np.sqrt((np.diff(table, axis=1) ** 2).sum(axis=0)) / len(scores)
    mean = float(table[:, 1].mean())
    return mean, mean - float(below), mean + float(above)


def _difference(
    paper: Paper, scores: Sequence[Score], plain: Sequence[Score]
) -> tuple[float, float, float]:
    """The difference of two trainings, paired by problem, so that a problem's difficulty cancels."""
    strata = []
    for name, ours, theirs in zip(paper.benchmarks, scores, plain, strict=True):
        if not ours.correct or ours.correct.keys() != theirs.correct.keys():
            raise InputError(f"baseline: {name} does not have the same problems as the evaluation")
        strata.append(
            [
                100 * (count / ours.samples - theirs.correct[key] / theirs.samples)
                for key, count in ours.correct.items()
            ]
        )
    found = stratified_mean(strata)
    return found.value, found.low, found.high


def _share_row(metric: str, target: float, source: str, log: Path | None) -> Row:
    if log is None:
        return Row(metric, target, source, note="percent of tokens")
    # verl logs a step's mean; at the first of its updates every ratio is 1 and nothing is dropped.
    note = "percent of tokens, mean over steps, each step's first update included"
    return Row(metric, target, source, *_share(log, metric), note=note)


def _scores(path: Path | None) -> Mapping[str, Score]:
    """The benchmarks of an evaluation; none without a file."""
    if path is None:
        return {}
    found: Evaluation = checked_file(Evaluation, path, "evaluation")
    return found.benchmarks


def _share(path: Path, metric: str) -> tuple[float, float, float]:
    """Mean over the run's steps, in percent, with a block-bootstrap interval: steps are correlated.

    Blocks of length ``n^(1/3)`` on a circle (Politis and Romano 1992).
    """
    values = read_log(path).metrics[metric].dropna().to_numpy(dtype=float) * 100
    if len(values) == 0:
        raise InputError(f"log: {path} has no {metric}")
    if len(values) < 2:
        return float(values[0]), math.nan, math.nan
    size = max(1, round(len(values) ** (1 / 3)))
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(values), (2000, math.ceil(len(values) / size)))
    index = (starts[..., None] + np.arange(size)) % len(values)
    means = values[index.reshape(2000, -1)[:, : len(values)]].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def as_markdown(rows: list[Row]) -> str:
    """The rows as a Markdown table with a note."""
    head = ("number", "paper", "ours (95 % interval)", "the paper's is", "note", "source")
    lines = []
    for row in rows:
        ours = "not run"
        if row.value is not None:
            ours = f"{row.value:.2f} ({row.low:.2f} to {row.high:.2f})"
        lines.append((row.what, f"{row.target:.2f}", ours, row.finding, row.note, row.source))
    return f"{markdown_table(head, lines)}\n\n{NOTE}\n"
