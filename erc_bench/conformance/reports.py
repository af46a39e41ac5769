"""Reports of a check, by level: a table for the terminal, JSON, JUnit XML and Markdown.

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
from erc_bench.conformance.registry import LEVELS, Level

__all__ = ["Extra", "as_json", "as_junit", "as_markdown", "as_table", "badge", "headline"]

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
    """The outcome of each level in one line."""
    return f"{report.loss} ({report.kind}): {'; '.join(_counts(report, level) for level in LEVELS)}"


def _counts(report: Report, level: Level) -> str:
    counts = (f"{n} {status}" for status in _LOOKS if (n := report.count(status, level)))
    return f"{level} {', '.join(counts)}"


def badge(report: Report) -> str:
    """A Markdown image that shows the outcome by level, from shields.io.

    >>> from erc_bench.conformance import check, load_loss
    >>> badge(check(load_loss("dapo"))).rpartition("/")[2]
    'erc--bench_check-objective_right,_robust-brightgreen)'
    """
    failed = {level: report.count("failed", level) for level in LEVELS}
    told = (
        "objective right" if not failed["objective"] else f"objective {failed['objective']} failed"
    )
    if not failed["objective"]:
        told += (
            ", robust" if not failed["robustness"] else f", robustness {failed['robustness']} open"
        )
    colour = (
        "red" if failed["objective"] else "yellowgreen" if failed["robustness"] else "brightgreen"
    )
    text = told.replace(" ", "_")
    return f"![erc-bench check](https://img.shields.io/badge/erc--bench_check-{text}-{colour})"


def _told(result: Result) -> str:
    reason = f" [waived: {result.reason}]" if result.reason else ""
    return result.message + reason


def _advice(result: Result) -> str:
    return f"rule: {result.property.rule}\nmend: {result.property.mend}"


def as_table(report: Report) -> Table:
    """One row per property, the levels one after the other; failures with their rule and how to mend them."""
    table = _plain_table(headline(report), ("property", "outcome", "measured"))
    for level in LEVELS:
        table.add_row(Text(f"{level}:", style="bold"), "", "")
        for result in report.at(level):
            style, _ = _LOOKS[result.status]
            told = Text(_told(result))
            if result.status == "failed":
                told.append(f"\n{_advice(result)}", style="dim")
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


def as_json(*done: tuple[Report, Extra | None]) -> str:
    """The whole reports with versions, as strict JSON: one object, or a list where there are several."""
    content = [_content(report, extra) for report, extra in done]
    whole = content[0] if len(content) == 1 else content
    return json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _content(report: Report, extra: Extra | None) -> dict[str, Any]:
    return {
        "loss": report.loss,
        "signature": report.kind,
        "passed": report.passed,
        "strict": report.strict,
        "badge": badge(report),
        "versions": {"erc-bench": metadata.version("erc-bench"), "torch": torch.__version__},
        "properties": [
            {
                "name": r.property.name,
                "level": r.property.level,
                "rule": r.property.rule,
                "status": r.status,
                "message": r.message,
                "mend": r.property.mend if r.status == "failed" else None,
                "waiver": r.reason or None,
                "seconds": round(r.seconds, 4),
            }
            for r in report.results
        ],
        "drift": None if extra is None else extra.records,
    }


def as_junit(*reports: Report) -> str:
    """JUnit XML with a suite for each loss and level, and a test case for each property.

    Failures that do not count for the verdict are skipped, as waived ones are, and say what failed.
    """
    suites = ElementTree.Element("testsuites")
    for report in reports:
        for level in LEVELS:
            suites.append(_suite(report, level))
    ElementTree.indent(suites)
    body = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def _suite(report: Report, level: Level) -> ElementTree.Element:
    results = report.at(level)
    failures = sum(map(report.decides, results))
    suite = ElementTree.Element(
        "testsuite",
        name=_xml(f"erc-bench check {report.loss}: {level}"),
        tests=str(len(results)),
        failures=str(failures),
        errors="0",
        skipped=str(len(results) - failures - report.count("passed", level)),
        time=f"{sum(r.seconds for r in results):.4f}",
    )
    for r in results:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_xml(f"{report.loss}.{level}"),
            name=r.property.name,
            time=f"{r.seconds:.4f}",
        )
        if report.decides(r):
            failure = ElementTree.SubElement(case, "failure", message=_xml(r.message))
            failure.text = _xml(f"{r.message}\n{_advice(r)}")
        elif r.status != "passed":
            ElementTree.SubElement(case, "skipped", message=_xml(f"{r.status}: {_told(r)}"))
    return suite


def _xml(text: str) -> str:
    """The text without the control characters that XML 1.0 forbids; the writer escapes the rest."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)


def as_markdown(report: Report, extra: Extra | None = None) -> str:
    """Markdown for a CI job's summary: failures and waivers of each level first, the rest folded away."""
    verdict = "passed" if report.passed else "failed"
    lines = [f"## erc-bench check: {_cell(report.loss)} {verdict}", "", _cell(headline(report)), ""]
    for level in LEVELS:
        urgent = [r for r in report.at(level) if r.status in ("failed", "waived")]
        if urgent:
            rows = [(*_row(r), r.property.mend) for r in urgent]
            lines += [f"### {level}", "", *_grid(("", "property", "measured", "mend"), rows), ""]
    rest = [_row(r) for r in report.results if r.status not in ("failed", "waived")]
    lines += ["<details><summary>Passed and skipped</summary>", ""]
    lines += [*_grid(("", "property", "measured"), rest), "", "</details>"]
    if extra is not None:
        lines += ["", f"### {_cell(extra.title)}", "", *_grid(extra.columns, extra.rows)]
        lines += ["", _cell(extra.note)]
    return "\n".join(lines) + "\n"


def _row(result: Result) -> tuple[str, str, str]:
    mark = _LOOKS[result.status][1]
    return f"{mark} {result.status}", result.property.name, _told(result)


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = [" | ".join(columns), " | ".join("---" for _ in columns)]
    body = [" | ".join(_cell(cell) for cell in row) for row in rows]
    return [f"| {line} |" for line in (*head, *body)]


def _cell(text: str) -> str:
    """Escape a text for a Markdown table: it can make no markup, no HTML, no new cell and no line."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]|~#])", r"\\\1", flat)
