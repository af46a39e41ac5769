"""One HTML file that holds everything: findings, tables, figures, definitions, provenance."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from erc_bench import analysis
from erc_bench.analysis import MEASURES, NOTE, Interval, Measure
from erc_bench.analysis.claims import Assessment, Verdict, assess, ours, unmeasured_lines
from erc_bench.analysis.tables import (
    GROUPS,
    RUNS,
    heading,
    interval_of,
    runs_text,
    score_rows,
    scores_note,
)
from erc_bench.plots import arm_style, ordered
from erc_bench.records import Results
from erc_bench.report.files import Gallery
from erc_bench.storage import atomic_write

__all__ = ["headlines", "write_report"]


@dataclass(frozen=True)
class Cell:
    """A value in a table; ``best``: its interval overlaps that of the best mean."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """An objective in an experiment's table."""

    name: str
    color: str
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


def write_report(results: Results, path: Path | str, gallery: Gallery | None = None) -> Path:
    """Write the report of a results folder as one HTML file that loads nothing from elsewhere."""
    path = Path(path)
    text = render(results, Gallery(results) if gallery is None else gallery)
    atomic_write(path, lambda stream: stream.write(text.encode()))
    return path


def render(results: Results, gallery: Gallery) -> str:
    """The report's HTML."""
    environment = Environment(
        loader=PackageLoader("erc_bench", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    summary = analysis.summary(results)
    figures = [
        {
            "name": d.name,
            "title": d.title,
            "caption": d.caption,
            "source": "data:image/svg+xml;base64,"
            + base64.b64encode(gallery.bytes(d, "svg")).decode(),
            "width": round(d.figure.get_figwidth() * 110),
        }
        for d in gallery.drawings
    ]
    return environment.get_template("report.html.j2").render(
        headlines=headlines(results, summary),
        claims=_claims(assess(results), {d.name for d in gallery.drawings}),
        sections=list(_sections(results, summary)),
        scorecard=_scorecard(results),
        counts=_counts(summary),
        measures=[(heading(m), m) for m in MEASURES],
        groups=[
            (what, [(i, heading(m)) for i, m in enumerate(MEASURES) if m.group == group])
            for group, what in GROUPS.items()
        ],
        directed=[m.label for m in MEASURES if m.better],
        note=NOTE,
        runs_heading=RUNS,
        figures=figures,
        skipped=gallery.skipped,
        provenance=_provenance(results),
        configuration=json.dumps(results.config, indent=2, ensure_ascii=False),
    )


def headlines(results: Results, summary: pd.DataFrame) -> list[str]:
    """The findings first: each sentence computed from the records."""
    experiments = list(dict.fromkeys(summary["experiment"]))
    sentences = []
    for experiment in experiments:
        try:
            sentences.append(analysis.out_of_band_to_bound(results, experiment).sentence())
        except LookupError:
            continue
    for base, erc in _pairs(summary["objective"]):
        try:
            table = analysis.paired(results, base, erc)
        except LookupError:
            continue
        sentences.append(_verdicts(base, erc, table))
    return [sentence for sentence in sentences if sentence]


_ASKED = {
    "final_reward": "final reward",
    "grad_norm_spread": "gradient-norm spread",
    "hidden_violations": "share of hidden violations",
}


def _verdicts(base: str, erc: str, table: pd.DataFrame) -> str:
    """One sentence on a pair: numbers for one experiment, counts of verdicts for several."""
    parts = []
    for key, what in _ASKED.items():
        rows = table[(table["measure"] == key) & table["difference/mean"].notna()]
        if rows.empty:
            continue
        if len(rows) > 1:
            counts = rows["verdict"].value_counts()
            found = [f"{word} in {counts[word]}" for word in ("better", "worse", "unclear")
                     if word in counts]  # fmt: skip
            parts.append(f"{what} {', '.join(found)}")
            continue
        row, measure = rows.iloc[0], next(m for m in MEASURES if m.key == key)
        unit = f" {measure.unit}" if measure.unit else ""
        low, high = (measure.scale * row[f"difference/{end}"] for end in ("low", "high"))
        other, than = (measure.scale * row[f"{arm}/mean"] for arm in ("other", "base"))
        text = f"{what} {other:.3g}{unit} against {than:.3g}{unit}"
        if int(row["difference/n"]) > 1:
            text += f" (difference {low:+.2g} to {high:+.2g}: {row['verdict']})".replace("-", "−")
        parts.append(text)
    if not parts:
        return ""
    experiments = list(dict.fromkeys(table["experiment"]))
    if len(experiments) > 1:
        where = f"{erc} against {base} in {len(experiments)} experiments"
    else:
        where = f"{experiments[0]}, {erc} against {base}"
    seeds = int(table["difference/n"].max())
    basis = "paired seeds, 95 % intervals" if seeds > 1 else "one seed, no interval"
    return f"{where}: {'; '.join(parts)} ({basis})."


def _claims(assessment: Assessment, drawn: Collection[str]) -> dict[str, Any]:
    """Verdicts the records allow, and what the others would need; no rows where none is allowed."""
    return {
        "rows": [
            {
                "id": v.claim.id,
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


def _figures(verdict: Verdict, drawn: Collection[str]) -> list[tuple[int, str]]:
    """Number and name of each figure of a claim that is in the report."""
    return [
        (number, name)
        for number in verdict.claim.figures
        for name in sorted(drawn)
        if name.startswith(f"fig{number}_")
    ]


def _scorecard(results: Results) -> dict[str, Any]:
    """Header, rows and note of the table of scores; without scores, the reason as its note."""
    try:
        scores = analysis.scores(results)
    except LookupError as reason:
        return {"header": [], "rows": [], "note": f"Not shown: {reason.args[0]}."}
    header, rows = score_rows(scores, " ± ")
    rows = [[arm_style(row[0]).color, *row] for row in rows]
    return {"header": header, "rows": rows, "note": scores_note(scores)}


def _counts(summary: pd.DataFrame) -> str:
    runs, failed = int(summary["seeds"].sum()), int(summary["diverged"].sum())
    return (
        f"{_count(runs, 'run')} of {_count(summary['objective'].nunique(), 'objective')} in "
        f"{_count(summary['experiment'].nunique(), 'experiment')}; "
        + (f"{failed} diverged, counted as failures." if failed else "none diverged.")
    )


def _sections(results: Results, summary: pd.DataFrame) -> Iterator[Section]:
    found = results.config.get("experiments")
    configured: dict[str, Any] = found if isinstance(found, dict) else {}
    comparisons = _comparisons(results, summary)
    for experiment, rows in summary.groupby("experiment", sort=False):
        entry = configured.get(str(experiment))
        entry = entry if isinstance(entry, dict) else {}
        by_name = {str(r["objective"]): r for _, r in rows.iterrows()}
        best = {m.key: _best(m, rows) for m in MEASURES}
        yield Section(
            name=str(experiment),
            environment=str(rows["environment"].iloc[0]),
            question=str(entry.get("question") or ""),
            rows=[
                Row(
                    name=name,
                    color=arm_style(name).color,
                    runs=runs_text(by_name[name]),
                    diverged=int(by_name[name]["diverged"]),
                    cells=[_cell(by_name[name], m, best[m.key]) for m in MEASURES],
                )
                for name in ordered(by_name)
            ],
            comparisons=[c for c in comparisons if c["experiment"] == experiment],
            equations=list(_equations(entry, ordered(by_name))),
        )


def _cell(row: pd.Series, measure: Measure, best: Interval | None) -> Cell:
    interval = interval_of(row, measure.key)
    text = analysis.format_interval(interval, measure.scale, separator=" ± ")
    return Cell(text.replace("-", "−"), best is not None and interval.overlaps(best))


def _best(measure: Measure, rows: pd.DataFrame) -> Interval | None:
    """Interval of the best mean; None without a direction, or with nothing to compare."""
    intervals = [interval_of(row, measure.key) for _, row in rows.iterrows()]
    known = [i for i in intervals if i.n > 1]
    if measure.better is None or len(known) < 2:
        return None
    return (max if measure.better == "higher" else min)(known, key=lambda i: i.mean)


def _comparisons(results: Results, summary: pd.DataFrame) -> list[dict[str, Any]]:
    labels = {m.key: m for m in MEASURES}
    rows: list[dict[str, Any]] = []
    for base, erc in _pairs(summary["objective"]):
        try:
            table = analysis.paired(results, base, erc)
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
                    "pair": f"{erc} − {base}",
                    "measure": heading(measure),
                    "difference": analysis.format_interval(
                        interval, measure.scale, separator=" ± "
                    ).replace("-", "−"),
                    "verdict": row["verdict"],
                }
            )
    return rows


def _pairs(names: pd.Series) -> list[tuple[str, str]]:
    present = set(names)
    return [(n, f"erc-{n}") for n in ordered(present) if f"erc-{n}" in present]


def _equations(entry: dict[str, Any], names: list[str]) -> Iterator[tuple[str, str, str]]:
    objectives = entry.get("objectives")
    if not isinstance(objectives, dict):
        return
    for name in names:
        about = objectives.get(name)
        if isinstance(about, dict) and about.get("equation"):
            yield name, str(about["equation"]), str(about.get("source") or "")


def _provenance(results: Results) -> list[tuple[str, str]]:
    made = results.provenance
    packages = made.get("packages")
    machine = made.get("machine")
    seeds = results.read("runs", columns=["seed"])["seed"]
    rows = [
        ("started", made.get("created")),
        ("git revision", made.get("git_revision") or "not a checkout"),
        ("python", made.get("python")),
        (
            "packages",
            ", ".join(f"{k} {v}" for k, v in packages.items() if v)
            if isinstance(packages, dict)
            else None,
        ),
        (
            "machine",
            ", ".join(f"{k} {v}" for k, v in machine.items())
            if isinstance(machine, dict)
            else None,
        ),
        ("seed", results.config.get("seed")),
        ("seeds", f"{seeds.nunique()} ({seeds.min()} to {seeds.max()})"),
        ("command line", " ".join(map(str, made.get("arguments") or []))),
    ]
    return [(key, str(value)) for key, value in rows if value not in (None, "")]


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")
