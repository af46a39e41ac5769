"""One HTML file that holds everything: findings, tables, figures, definitions, provenance."""

from __future__ import annotations

import base64
import hashlib
import json
import unicodedata
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from erc_bench import analysis
from erc_bench.analysis import MEASURES, NOTE
from erc_bench.analysis.claims import assess
from erc_bench.analysis.tables import GROUPS, RUNS
from erc_bench.core.storage import atomic_write
from erc_bench.presentation.plots import arm_style
from erc_bench.presentation.reporting.captions import Plate
from erc_bench.presentation.reporting.files import Gallery
from erc_bench.presentation.reporting.findings import (
    counts,
    findings,
    headlines,
    known_arms,
    strips,
)
from erc_bench.presentation.reporting.provenance import commands, provenance
from erc_bench.presentation.reporting.sections import claims, scorecard, sections
from erc_bench.presentation.reporting.svg import inline_svg
from erc_bench.studies.records import Results

__all__ = ["headlines", "visible", "write_report"]

#: Largest table of a figure's data that the page carries.
DATA_BYTES = 200_000
PIXELS = 140  # per inch of a figure


@dataclass(frozen=True)
class Figure:
    """A figure in the page; ``data``: its table as a data URI, "" where it is too large.

    ``number`` is that of its name, which claims and files go by: 8b for fig8b_staleness.
    """

    name: str
    number: str
    title: str
    notice: str
    caption: str
    svg: Markup
    width: int
    filtered: bool
    data: str
    size: str


def write_report(results: Results, path: Path | str, gallery: Gallery | None = None) -> Path:
    """Write the report of a results folder as one HTML file that loads nothing from elsewhere."""
    path = Path(path)
    text = render(results, Gallery(results) if gallery is None else gallery)
    atomic_write(path, lambda stream: stream.write(text.encode()))
    return path


def render(results: Results, gallery: Gallery) -> str:
    """The report's HTML."""
    environment = Environment(
        loader=PackageLoader("erc_bench.presentation", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible,
    )
    summary = analysis.summary(results)
    looks = {arm.recipe: arm for arm in known_arms(results, summary).values()}
    numbers = {name: number for number, name in enumerate(looks)}
    assessment = assess(results)
    style, script = (
        files("erc_bench.presentation.reporting").joinpath(f"report.{kind}").read_text()
        for kind in ("css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        style=Markup(style),
        script=Markup(script),
        script_hash=digest,
        recipes=[(numbers[name], name, arm_style(arm).color) for name, arm in looks.items()],
        counts=counts(results, summary),
        findings=findings(results, summary),
        strips=strips(assessment),
        decided=any(v.verdict not in ("not measured", "inconclusive") for v in assessment.verdicts),
        claims=claims(assessment, gallery.drawings),
        sections=list(sections(results, gallery.frames, summary, numbers)),
        scorecard=scorecard(results, gallery.frames, numbers),
        measures=[m.metric for m in MEASURES],
        groups=[
            (
                group,
                what,
                [(i, m.metric.heading) for i, m in enumerate(MEASURES) if m.group == group],
            )
            for group, what in GROUPS.items()
        ],
        directed=[m.metric.label for m in MEASURES if m.metric.better],
        note=NOTE,
        runs_heading=RUNS,
        figures=[_figure(d, gallery, numbers) for d in gallery.drawings],
        skipped=gallery.skipped,
        commands=commands(results),
        provenance=provenance(results),
        configuration=json.dumps(results.config, indent=2, ensure_ascii=False),
    )


def visible(value: Any) -> Any:
    """Text with its invisible controls shown: a name must not reorder what stands beside it.

    >>> print(visible("dapo\u202e"))
    dapo⟨U+202E⟩
    """
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(
        f"⟨U+{ord(c):04X}⟩"
        if unicodedata.category(c) in ("Cf", "Cs", "Cc") and c not in "\n\t"
        else c
        for c in value
    )


def _figure(drawing: Plate, gallery: Gallery, numbers: dict[str, int]) -> Figure:
    svg, shown = inline_svg(gallery.bytes(drawing, "svg"), f"{drawing.name}-", numbers)
    kind, table = gallery.table(drawing)
    small = kind == "csv" and len(table) < DATA_BYTES
    return Figure(
        name=drawing.name,
        number=drawing.number,
        title=drawing.title,
        notice=drawing.notice,
        caption=drawing.caption,
        svg=Markup(svg),
        width=round(drawing.figure.get_figwidth() * PIXELS),
        filtered=bool(shown),
        data="data:text/csv;charset=utf-8," + quote(table, safe=",.:/ ") if small else "",
        size=f"{len(table) / 1000:,.0f} kB",
    )
