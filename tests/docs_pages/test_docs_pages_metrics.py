"""The page of the metrics defines every column that records can hold, and none that they cannot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import erc_bench as eb
from erc_bench.adapters.logs import COLUMNS
from erc_bench.analysis.scorecard import MEASURES
from erc_bench.core.metrics import METRICS
from erc_bench.objectives import RECIPES
from erc_bench.studies.records import REQUIRED

pytest.importorskip("latex2mathml", reason="needs erc-bench[docs]")
from tools.docs_pages.metrics import with_tables  # it needs latex2mathml

PAGE = with_tables((Path(__file__).parents[2] / "docs" / "metrics.md").read_text())
PLAIN = PAGE.replace("\\|", "|")
TINY = {"rollouts": 1, "warm_start_steps": 5, "evaluation_episodes": 64, "evaluation_answers": 4}
TABLES = ("runs", "metrics", "tokens")


def defined() -> set[str]:
    """Names in the first column of the page's tables, ``<...>`` standing for anything."""
    cells = re.findall(r"^\| (`[^|]*`) \|", PAGE, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def matches(pattern: str, column: str) -> bool:
    return re.fullmatch(re.sub(r"<[^>]*>", ".+", re.escape(pattern)), column) is not None


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    """Of records of every recipe, with what only some settings bring: pass@k, grids, regularizers."""
    out = tmp_path_factory.mktemp("records")
    extras = ["dapo:positive_nll=0.1", "grpo:beta=0.01"]
    found: set[str] = set()
    for name, options in {
        "all": {"objectives": [*RECIPES, *extras]},
        "grid": {"objectives": ["erc-dapo"], "grid": {"band": [0.02, 0.1], "minibatches": [1, 2]}},
    }.items():
        results = eb.run(
            "forking_tokens",
            seeds=1,
            tier="smoke",
            settings=TINY,
            out=out / name,
            workers=1,
            progress=False,
            **options,
        )
        for table in TABLES:
            found |= set(results.read(table).columns)
    return found


def test_every_column_is_defined(columns):
    """Exactly, or by a pattern with ``<...>``; adapters log under the same names."""
    required = {column for table in TABLES for column in REQUIRED[table]}
    unknown = {
        column
        for column in columns | required | set(COLUMNS)
        if not any(matches(pattern, column) for pattern in defined())
    }
    assert not unknown


def test_every_definition_has_a_column(columns):
    """A metric that is gone leaves the page."""
    assert not {p for p in defined() if not any(matches(p, column) for column in columns)}


def test_patterns_hide_no_metric(columns):
    """Only what is derived may be defined by a pattern."""
    derived = ("mean/", "std/", "jitter/", "hyper/", "pass@")
    for column in columns:
        assert column in defined() or column.startswith(derived), column


def test_shown_measures_are_defined():
    """Each column of the summary stands in the last table, with the metric's heading and definition."""
    shown = PLAIN.partition("## In the tables and the report")[2]
    for measure in MEASURES:
        assert (
            f"| {measure.metric.heading} | `{measure.metric.name}` | {measure.metric.definition}"
            in shown
        )


def test_every_metric_of_the_registry_is_on_the_page():
    """With its definition and its unit."""
    for metric in METRICS.values():
        rows = [
            line
            for line in PLAIN.splitlines()
            if f"`{metric.name}`" in line and metric.definition in line
        ]
        assert rows, metric.name
