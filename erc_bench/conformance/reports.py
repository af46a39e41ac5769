"""Reports of a check: a table for the terminal, JSON, JUnit XML and Markdown.

Names, reasons and messages may come from anyone, so every writer escapes them for its format.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from xml.etree import ElementTree

import torch
from rich.table import Table
from rich.text import Text

from erc_bench.conformance.checking import Report, Result, Status

__all__ = ["Extra", "as_json", "as_junit", "as_markdown", "as_table", "headline"]

#: The style of an outcome in the terminal, and its mark in Markdown.
_LOOKS: Mapping[Status, tuple[str, str]] = {
    "passed": ("green", "✅"),
    "failed": ("bold red", "❌"),
    "skipped": ("dim", "➖"),
    "waived": ("yellow", "⚠️"),
}


@dataclass(frozen=True)
class Extra:
    """A further table, such as that of the drift comparison; ``records`` is its content for JSON."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    records: Any


def headline(report: Report) -> str:
    """The outcome in one line."""
    counts = ", ".join(f"{count} {s}" for s in _LOOKS if (count := report.count(s)))
    return f"{report.loss} ({report.kind}): {counts}"


def _told(result: Result) -> str:
    reason = f" [waived: {result.reason}]" if result.reason else ""
    return result.message + reason


def as_table(report: Report) -> Table:
    """One row per property."""
    table = _plain_table(headline(report), ("property", "outcome", "measured"))
    for result in report.results:
        style, _ = _LOOKS[result.status]
        told = Text(_told(result))
        if result.status == "failed":
            told.append(f"\nrule: {result.property.rule}", style="dim")
        table.add_row(result.property.name, Text(result.status, style=style), told)
    return table


def extra_table(extra: Extra) -> Table:
    """The further table for the terminal."""
    table = _plain_table(extra.title, extra.columns)
    for row in extra.rows:
        table.add_row(*map(Text, row))
    return table


def _plain_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def as_json(report: Report, extra: Extra | None = None) -> str:
    """The whole report with versions, as strict JSON."""
    content = {
        "loss": report.loss,
        "signature": report.kind,
        "passed": report.passed,
        "versions": {"erc-bench": metadata.version("erc-bench"), "torch": torch.__version__},
        "properties": [
            {
                "name": r.property.name,
                "rule": r.property.rule,
                "status": r.status,
                "message": r.message,
                "waiver": r.reason or None,
                "seconds": round(r.seconds, 4),
            }
            for r in report.results
        ],
        "drift": None if extra is None else extra.records,
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_junit(report: Report) -> str:
    """JUnit XML with one test case per property; waived ones count as skipped and give the reason."""
    skipped = report.count("skipped") + report.count("waived")
    suite = ElementTree.Element(
        "testsuite",
        name=_xml(f"erc-bench check {report.loss}"),
        tests=str(len(report.results)),
        failures=str(report.count("failed")),
        errors="0",
        skipped=str(skipped),
        time=f"{sum(r.seconds for r in report.results):.4f}",
    )
    for r in report.results:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_xml(report.loss),
            name=r.property.name,
            time=f"{r.seconds:.4f}",
        )
        if r.status == "failed":
            failure = ElementTree.SubElement(case, "failure", message=_xml(r.message))
            failure.text = _xml(f"{r.message}\nrule: {r.property.rule}")
        elif r.status != "passed":
            told = _told(r) if r.status == "waived" else r.message
            ElementTree.SubElement(case, "skipped", message=_xml(f"{r.status}: {told}"))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    body = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def _xml(text: str) -> str:
    """The text without the control characters that XML 1.0 forbids; the writer escapes the rest."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)


def as_markdown(report: Report, extra: Extra | None = None) -> str:
    """Markdown for a CI job's summary: failures and waivers first, the rest folded away."""
    verdict = "passed" if report.passed else "failed"
    lines = [f"## erc-bench check: {_cell(report.loss)} {verdict}", "", _cell(headline(report)), ""]
    urgent = [r for r in report.results if r.status in ("failed", "waived")]
    rest = [r for r in report.results if r.status not in ("failed", "waived")]
    if urgent:
        lines += [*_rows(urgent), ""]
    lines += ["<details><summary>Passed and skipped</summary>", "", *_rows(rest), "", "</details>"]
    if extra is not None:
        lines += ["", f"### {_cell(extra.title)}", "", *_grid(extra.columns, extra.rows)]
        lines += ["", _cell(extra.note)]
    return "\n".join(lines) + "\n"


def _rows(results: Sequence[Result]) -> list[str]:
    rows = [(f"{_LOOKS[r.status][1]} {r.status}", r.property.name, _told(r)) for r in results]
    return _grid(("", "property", "measured"), rows)


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = [" | ".join(columns), " | ".join("---" for _ in columns)]
    body = [" | ".join(_cell(cell) for cell in row) for row in rows]
    return [f"| {line} |" for line in (*head, *body)]


def _cell(text: str) -> str:
    """Escape a text for a Markdown table: it can make no markup, no HTML, no new cell and no line."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~#])", r"\\\1", flat)
