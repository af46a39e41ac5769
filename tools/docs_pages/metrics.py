"""The tables of the page of metrics, from the registry of metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable

from erc_bench.analysis.scorecard import MEASURES
from erc_bench.core.metrics import METRICS, Metric
from tools.docs_pages.formulas import formula
from tools.docs_pages.markdown import table

__all__ = ["metric_table", "with_tables"]

_MARK = re.compile(r"^<!-- metrics: (\w+) ?([\w/ ]*) -->$", re.MULTILINE)


def metric_table(metrics: Iterable[Metric]) -> str:
    """One row per metric; the unit behind its label is the one that tables and figures show."""
    header = ("Metric", "Label", "Definition", "Estimator", "Unit")
    rows = []
    for m in metrics:
        equation = f"{formula(m.equation)}. " if m.equation else ""
        better = f" {m.better.capitalize()} is better." if m.better else ""
        definition = f"{equation}{m.definition}{better}"
        rows.append((f"`{m.name}`", m.heading, definition, m.estimator or "-", m.unit))
    return table(header, rows)


def with_tables(text: str) -> str:
    """The page with a table for each line ``<!-- metrics: TABLE PREFIX ... -->``.

    The table holds the metrics of that table of the records whose names start with one of the prefixes. The
    line ``<!-- measures -->`` becomes the columns of the summary.
    """

    def made(match: re.Match[str]) -> str:
        where, prefixes = match[1], tuple(match[2].split()) or ("",)
        return metric_table(
            m for m in METRICS.values() if m.where == where and m.name.startswith(prefixes)
        )

    measures = [(m.metric.heading, f"`{m.metric.name}`", m.metric.definition) for m in MEASURES]
    return _MARK.sub(made, text).replace(
        "<!-- measures -->", table(("Shown", "Metric", "Definition"), measures)
    )
