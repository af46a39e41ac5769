"""The scorecard and the scores as text, for the terminal (rich) and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from erc_bench.analysis.numbers import estimate_text, interval_text
from erc_bench.analysis.scorecard import MEASURES, NOTE
from erc_bench.analysis.scores import Scores
from erc_bench.analysis.statistics import LEAST, Interval

__all__ = [
    "as_markdown",
    "as_rich",
    "markdown_table",
    "score_rows",
    "scores_as_markdown",
    "scores_as_rich",
    "scores_note",
]

RUNS = "diverged / runs"
GROUPS = {"learning": "what was learned", "drift": "how far an update went"}


def interval_of(row: pd.Series, key: str) -> Interval:
    """The interval of a measure in a row of the summary."""
    return Interval(
        float(row[f"{key}/estimate"]),
        float(row[f"{key}/low"]),
        float(row[f"{key}/high"]),
        int(row[f"{key}/n"]),
    )


def runs_text(row: pd.Series) -> str:
    """How many of a row's runs diverged, as 1/5."""
    return f"{row['diverged']}/{row['seeds']}"


def _rich_table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )


def as_rich(summary: pd.DataFrame) -> Group:
    """Two tables per experiment, for learning and for drift, that fit 100 columns."""
    tables: list[Table | Text] = []
    for experiment, rows in summary.groupby("experiment", sort=False):
        for group, what in GROUPS.items():
            measures = [m for m in MEASURES if m.group == group]
            table = _rich_table(f"{escape(str(experiment))}: {what}")
            table.add_column("objective", overflow="fold")
            for measure in measures:
                table.add_column(
                    measure.metric.heading, justify="right", min_width=8, overflow="fold"
                )
            if group == "learning":
                table.add_column(RUNS, justify="right", min_width=8)
            for _, row in rows.iterrows():
                cells = [_stacked(interval_of(row, m.key), m.metric.scale) for m in measures]
                if group == "learning":
                    failed = int(row["diverged"]) > 0
                    runs = runs_text(row)
                    cells.append(f"[bold red]{runs}[/]" if failed else runs)
                table.add_row(escape(str(row["objective"])), *cells)
            tables.append(table)
    return Group(*tables, Text(NOTE, style="dim"))


def _stacked(interval: Interval, scale: float) -> str:
    """The estimate and, below it, the ends, so that no number is broken in a narrow column."""
    return interval_text(interval, scale).replace(" [", "\n[")


def as_markdown(summary: pd.DataFrame) -> str:
    """The whole scorecard as Markdown tables, one per experiment, and the note below them."""
    head = ["objective", *(m.metric.heading for m in MEASURES), RUNS]
    blocks = []
    for experiment, runs in summary.groupby("experiment", sort=False):
        rows = []
        for _, row in runs.iterrows():
            intervals = [(interval_of(row, m.key), m.metric.scale) for m in MEASURES]
            cells = [interval_text(*found) for found in intervals]
            rows.append([row["objective"], *cells, runs_text(row)])
        blocks += [f"### {plain(str(experiment))}", _numbers_table(head, rows)]
    return "\n\n".join([*blocks, NOTE]) + "\n"


def plain(text: str) -> str:
    """Text that stays text in a Markdown table, even if the reader's program renders HTML."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lines of a Markdown table whose cells stay text, without a line break at the end."""
    return "\n".join([_line(head), _line([":--"] * len(head)), *_lines(rows)])


def _numbers_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """:func:`markdown_table` with numbers, aligned right, in all columns but the first."""
    rule = [":--", *["--:"] * (len(head) - 1)]
    return "\n".join([_line(head), _line(rule), *_lines(rows)])


def _lines(rows: Iterable[Sequence[object]]) -> list[str]:
    return [_line([plain(str(cell)) for cell in row]) for row in rows]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def score_rows(scores: Scores) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of scores, with one column per experiment and one for the IQM.

    Rows with an aggregate come first; otherwise rows keep the order of the records.
    """
    header = ["objective", *scores.experiments, "IQM"]
    rows = []
    for name in sorted(scores.objectives, key=lambda n: n not in scores.ranked):
        cells = [interval_text(scores.mean(e, name)) for e in scores.experiments]
        rows.append([name, *cells, estimate_text(scores.iqm(name))])
    return header, rows


def scores_note(scores: Scores) -> str:
    """What the table of scores shows."""
    text = (
        "Score in [0, 1], 1 is best: mean over seeds with its 95 % interval, which allows for failures "
        f"not seen (n=3: three seeds, no interval below {LEAST}); a diverged run counts as 0."
    )
    if scores.ranked:
        text += (
            f" IQM: interquartile mean over all runs of {', '.join(scores.common)}, with its 95 % "
            "interval; – for objectives that did not run in all of them."
        )
    return text


def scores_as_rich(scores: Scores) -> Group:
    """The table of scores for the terminal, whose heads are folded to the width."""
    header, rows = score_rows(scores)
    table = _rich_table("scores")
    table.add_column(header[0], overflow="fold")
    for name in header[1:]:
        table.add_column(escape(name.replace("_", " ")), justify="right", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return Group(table, Text(scores_note(scores), style="dim"))


def scores_as_markdown(scores: Scores) -> str:
    """The table of scores as Markdown, and the note below it."""
    header, rows = score_rows(scores)
    return f"{_numbers_table([*map(plain, header)], rows)}\n\n{plain(scores_note(scores))}\n"
