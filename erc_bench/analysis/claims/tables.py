"""Verdicts and their rows as text: for the terminal (rich), as Markdown, and as JSON data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from erc_bench.analysis.claims.assess import NO_VALUE, Row
from erc_bench.analysis.claims.verdicts import Assessment, Verdict
from erc_bench.analysis.statistics import Interval
from erc_bench.analysis.tables import markdown_table

__all__ = ["as_data", "claims_markdown", "claims_rich", "interval_text", "ours", "unmeasured_lines"]

NOTE = (
    "Means over paired seeds with 95 % Student-t intervals; verdicts after Holm's correction over "
    "the rows of a part (phase diagram: Benjamini-Hochberg). Rules: analysis/claims.toml, fixed "
    "before the runs. A diverged run earns 0."
)
STYLES = {True: "green", False: "bold red", None: ""}
SCALES = {"%": 100.0, "pp": 100.0, "times": 1.0, "": 1.0}


def interval_text(interval: Interval, unit: str, *, signed: bool = False) -> str:
    """A mean with both ends of its interval, to the digit where the uncertainty starts.

    >>> interval_text(Interval(0.2029, 0.1951, 0.2107, 20), "%")
    '20.29 [19.51, 21.07] %'
    >>> interval_text(Interval(0.0143, 0.0011, 0.0275, 20), "pp", signed=True)
    '+1.4 [+0.1, +2.8] pp'
    """
    if not math.isfinite(interval.mean):
        return "–"
    scale, sign = SCALES[unit], "+" if signed else ""
    mean, low, high = (scale * x for x in (interval.mean, interval.low, interval.high))
    width = (high - low) / 2
    known = math.isfinite(width) and width > 0
    decimals = min(max(1 - math.floor(math.log10(width)), 0), 4) if known else 3
    ends = f" [{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]" if math.isfinite(width) else ""
    text = f"{mean:{sign}.{decimals}f}{ends}{' ' if unit else ''}{unit}"
    return text.replace("-", "−")


def row_text(row: Row, interval: Interval | None = None) -> str:
    """The number of a row with its interval (or another one) and unit."""
    signed = "difference" in row.part.statistic
    return interval_text(interval or row.interval, row.part.unit, signed=signed)


def arms_text(row: Row) -> str:
    """The arms compared, by the recipes' names: ``erc-dapo − dapo``."""
    sign = " / " if row.part.statistic == "ratio" else " − "
    return sign.join(reversed(row.recipes))


def diverged_text(row: Row) -> str:
    """How many runs of each arm diverged, in the order of :func:`arms_text`; empty for none."""
    if not any(row.diverged):
        return ""
    return ", ".join(map(str, reversed(row.diverged))) + f" of {row.runs} diverged"


def ours(verdict: Verdict) -> str:
    """The deciding numbers in one line: the row itself, or the range of several."""
    texts = []
    by_part: dict[str, list[Row]] = {}
    for row in verdict.deciding:
        if row.verdict != NO_VALUE:
            by_part.setdefault(row.part.name, []).append(row)
    for name, rows in by_part.items():
        if len(rows) == 1:
            number = row_text(rows[0])
        else:
            unit, means = rows[0].part.unit, [row.interval.mean for row in rows]
            ends = [
                row_text(rows[0], Interval(mean, math.nan, math.nan, 1))
                for mean in (min(means), max(means))
            ]
            number = f"{ends[0].removesuffix(unit).strip()} to {ends[1]} in {len(rows)} rows"
        texts.append(f"{name}: {number}")
    return "; ".join(texts)


def unmeasured_lines(assessment: Assessment) -> list[str]:
    """For each claim that lacks records, what is missing and the command that makes it."""
    lines = []
    for claim, missing in assessment.not_measured().items():
        absent = [name for name, why in missing.items() if why == "not run"]
        lacking = [f"{name}: {why}" for name, why in missing.items() if why != "not run"]
        told = []
        if absent:
            told.append(f"not measured: run erc-bench run {' '.join(absent)} --tier full")
        lines.append(f"{claim} {'; '.join([*told, *lacking])}")
    return lines


def claims_rich(assessment: Assessment) -> Group:
    """The verdicts, then the deciding and informing rows: readable at 120 columns."""
    verdicts = _table("Claims", ("", "claim", "regime", "the paper", "verdict", "because", "fig."))
    last = ""
    for v in assessment.verdicts:
        new, last = v.claim.id != last, v.claim.id  # a claim's name and figures stand once
        title, paper, figures = (
            (v.claim.title, v.claim.paper or "–", _figures(v)) if new else [""] * 3
        )
        word = Text(v.verdict, style=STYLES[v.holds])
        verdicts.add_row(
            v.claim.id, escape(title), v.regime, escape(paper), word, escape(v.because), figures
        )
    shown = [row for row in assessment.rows if row.role != "detail"]
    rows = _table(
        "What they rest on", ("", "measure", "where", "arms", "ours, 95 %", "n", "verdict")
    )
    for row in shown:
        texts = (row.part.name, _where(row), arms_text(row), row_text(row), str(row.interval.n))
        verdict = Text(_verdict_text(row), style=STYLES[row.holds])
        rows.add_row(row.claim, *map(escape, texts), verdict)
    lines = [Text(line, style="yellow") for line in unmeasured_lines(assessment)]
    return Group(verdicts, *([rows] if shown else []), *lines, Text(NOTE, style="dim"))


def claims_markdown(assessment: Assessment) -> str:
    """Everything as Markdown: the verdicts, every row, and what is missing."""
    first = [[cell(v) for cell in VERDICT_CELLS.values()] for v in assessment.verdicts]
    second = [[cell(row) for cell in ROW_CELLS.values()] for row in assessment.rows]
    missing = [f"- {line}" for line in unmeasured_lines(assessment)]
    blocks = ["## Claims", markdown_table([*VERDICT_CELLS], first)]
    blocks += ["## What they rest on", markdown_table([*ROW_CELLS], second)]
    blocks += ["\n".join(missing)] if missing else []
    return "\n\n".join([*blocks, NOTE]) + "\n"


def as_data(assessment: Assessment, folder: Path | None = None) -> dict[str, Any]:
    """Everything as JSON-ready data; with a folder of figures, their files by number."""
    return {
        "rules": {
            name: getattr(assessment.rules.rules, name)
            for name in ("level", "seeds", "false_discovery_rate")
        },
        "claims": [
            {
                "claim": v.claim.id,
                **{name: getattr(v.claim, name) for name in ("title", "statement", "paper")},
                **{name: getattr(v, name) for name in ("regime", "verdict", "because")},
                "ours": ours(v),
                "figures": figure_files(v, folder),
                "missing": v.missing,
            }
            for v in assessment.verdicts
        ],
        "rows": [_row_data(row) for row in assessment.rows],
    }


def figure_files(verdict: Verdict, folder: Path | None) -> list[str]:
    """Names of the figures' files where they were drawn, else ``fig1``."""
    names = []
    for number in verdict.claim.figures:
        drawn = sorted(folder.glob(f"fig{number}_*.png")) if folder else []
        names += [p.name for p in drawn] or [f"fig{number}"]
    return names


def _row_data(row: Row) -> dict[str, Any]:
    def ends(interval: Interval) -> dict[str, float | None]:
        values = {"mean": interval.mean, "low": interval.low, "high": interval.high}
        return {k: v if math.isfinite(v) else None for k, v in values.items()}

    return {
        "claim": row.claim,
        "measure": row.part.name,
        **{name: getattr(row, name) for name in ("regime", "role", "experiment", "point")},
        "arms": list(row.arms),
        **ends(row.interval),
        "n": row.interval.n,
        "without_value": row.without,
        "unit": "share" if row.part.unit in ("%", "pp") else row.part.unit,
        "adjusted": ends(row.adjusted),
        "level": row.level,
        "p": row.p if math.isfinite(row.p) else None,
        "verdict": row.verdict,
        "diverged": list(row.diverged),
        "runs": row.runs,
        "note": row.note,
    }


def _verdict_text(row: Row) -> str:
    notes = _notes(row)
    return f"{row.verdict or 'measured'}{f' ({notes})' if notes else ''}"


def _notes(row: Row) -> str:
    return "; ".join(filter(None, (row.note, diverged_text(row))))


def _where(row: Row, *, regime: bool = True) -> str:
    place = f"{row.experiment} ({row.point})" if row.point else row.experiment
    return f"{row.regime}: {place}" if regime else place


def _figures(verdict: Verdict) -> str:
    return ", ".join(map(str, verdict.claim.figures)) or "–"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.title_style = "bold"
    for name in columns:
        fixed = name in ("", "n", "fig.", "regime")
        table.add_column(name, no_wrap=fixed, overflow="fold")
    return table


#: Heading to cell of the table of verdicts, and of the table of rows, in Markdown.
VERDICT_CELLS: dict[str, Callable[[Verdict], str]] = {
    "": lambda v: v.claim.id,
    "claim": lambda v: v.claim.title,
    "regime": lambda v: v.regime,
    "the paper": lambda v: v.claim.paper or "–",
    "ours": lambda v: ours(v) or "–",
    "verdict": lambda v: v.verdict,
    "because": lambda v: v.because,
    "figure": _figures,
}
ROW_CELLS: dict[str, Callable[[Row], str]] = {
    "": lambda row: row.claim,
    "measure": lambda row: row.part.name,
    "regime": lambda row: row.regime,
    "where": lambda row: _where(row, regime=False),
    "arms": arms_text,
    "role": lambda row: row.role,
    "ours, 95 %": row_text,
    "adjusted": lambda row: row_text(row, row.adjusted),
    "level": lambda row: f"{100 * row.level:.3g} %",
    "n": lambda row: str(row.interval.n),
    "verdict": lambda row: row.verdict,
    "note": _notes,
}
