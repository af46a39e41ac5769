"""Verdicts and their rows as text: for the terminal (rich), as Markdown, and as JSON data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from erc_bench.analysis.claims.assess import NO_VALUE, Row
from erc_bench.analysis.claims.verdicts import Assessment, Verdict
from erc_bench.analysis.numbers import UNKNOWN, decimals
from erc_bench.analysis.statistics import Interval
from erc_bench.analysis.tables import markdown_table

__all__ = ["as_data", "claims_markdown", "claims_rich", "interval_text", "ours", "unmeasured_lines"]

NOTE = (
    "Medians over paired seeds with 95 % intervals, and means of differences of scores where the "
    "records do not say which runs collapsed; verdicts after Holm's correction over the rows of a "
    "part (phase diagram: Benjamini-Hochberg). Rules: analysis/claims.toml, fixed before the runs. A "
    "diverged run earns 0."
)
STYLES = {True: "green", False: "bold red", None: ""}
SCALES = {"%": 100.0, "pp": 100.0, "times": 1.0, "": 1.0}


def interval_text(interval: Interval, unit: str, *, signed: bool = False) -> str:
    """An estimate with both ends of its interval, to the digit where the uncertainty starts.

    >>> interval_text(Interval(0.2029, 0.1951, 0.2107, 20), "%")
    '20.29 [19.51, 21.07] %'
    >>> interval_text(Interval(0.0143, 0.0011, 0.0275, 20), "pp", signed=True)
    '+1.4 [+0.1, +2.8] pp'
    """
    if not math.isfinite(interval.estimate):
        return UNKNOWN
    scale, sign = SCALES[unit], "+" if signed else ""
    mean, low, high = (scale * x for x in (interval.estimate, interval.low, interval.high))
    half = (high - low) / 2
    kind = f"{sign}z.{decimals(half, 4) if math.isfinite(half) and half > 0 else 3}f"
    ends = f" [{low:{kind}}, {high:{kind}}]" if math.isfinite(half) else ""
    return f"{mean:{kind}}{ends}{' ' if unit else ''}{unit}".replace("-", "−")


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
            unit, means = rows[0].part.unit, [row.interval.estimate for row in rows]
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
        told = [f"not measured: run erc-bench run {' '.join(absent)} --tier full"] if absent else []
        told += [f"{name}: {why}" for name, why in missing.items() if why != "not run"]
        lines.append(f"{claim} {'; '.join(told)}")
    return lines


def claims_rich(assessment: Assessment) -> Group:
    """The verdicts, then the deciding and informing rows: readable at 120 columns."""
    once = ("claim", "the paper", "fig.")  # the same at every regime of a claim
    parts = [_table("Claims", TERMINAL_VERDICTS, assessment.verdicts, once)]
    shown = [row for row in assessment.rows if row.role != "detail"]
    if shown:
        parts.append(_table("What they rest on", TERMINAL_ROWS, shown))
    lines = [Text(line, style="yellow") for line in unmeasured_lines(assessment)]
    return Group(*parts, *lines, Text(NOTE, style="dim"))


def _table(
    title: str,
    cells: Mapping[str, Callable[[Any], str]],
    items: Sequence[Any],
    once: Sequence[str] = (),
) -> Table:
    """A line for each verdict or row; cells in ``once`` are left empty where the claim is the last line's."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.title_style = "bold"
    for name in cells:
        fixed = name in ("", "n", "fig.", "regime")
        table.add_column(name, no_wrap=fixed, overflow="fold")
    last = ""
    for item in items:
        texts = {name: cell(item) for name, cell in cells.items()}
        if texts[""] == last:
            texts |= dict.fromkeys(once, "")
        last = texts[""]
        styles = {"verdict": STYLES[item.holds]}
        table.add_row(*(Text(text, styles.get(name, "")) for name, text in texts.items()))
    return table


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
            for name in ("level", "collapse", "seeds", "false_discovery_rate")
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
        values = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
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


def _notes(row: Row) -> str:
    return "; ".join(filter(None, (row.note, diverged_text(row))))


def _where(row: Row) -> str:
    return f"{row.experiment} ({row.point})" if row.point else row.experiment


def _figures(verdict: Verdict) -> str:
    return ", ".join(map(str, verdict.claim.figures)) or "–"


#: Heading to cell of the table of verdicts and of the table of rows, in Markdown and in the terminal.
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
    "where": _where,
    "arms": arms_text,
    "role": lambda row: row.role,
    "ours, 95 %": row_text,
    "adjusted": lambda row: row_text(row, row.adjusted),
    "level": lambda row: f"{100 * row.level:.3g} %",
    "n": lambda row: str(row.interval.n),
    "verdict": lambda row: row.verdict,
    "note": _notes,
}
TERMINAL_VERDICTS = {
    name.replace("figure", "fig."): cell for name, cell in VERDICT_CELLS.items() if name != "ours"
}
TERMINAL_ROWS = {name: ROW_CELLS[name] for name in ("", "measure")}
TERMINAL_ROWS["where"] = lambda row: f"{row.regime}: {_where(row)}"
TERMINAL_ROWS |= {name: ROW_CELLS[name] for name in ("arms", "ours, 95 %", "n")}
TERMINAL_ROWS["verdict"] = lambda row: (
    (row.verdict or "measured") + (f" ({_notes(row)})" if _notes(row) else "")
)
