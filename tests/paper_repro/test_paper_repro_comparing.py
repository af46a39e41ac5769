"""A run beside the papers' numbers: what is inside, outside, assumed, missing or not run."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from erc_bench.core.errors import InputError
from paper_repro import comparing
from paper_repro.comparing import as_markdown, compare
from paper_repro.data import PROBLEMS
from paper_repro.targets import targets

FIVE = tuple(PROBLEMS)


def evaluation(path, average=None, *, only=FIVE, right=None, samples=32):
    """An evaluation file: every benchmark at ``average``, or with ``right[name]`` answers of each problem."""
    found = {}
    for name in only:
        one = {"avg": average, "low": (average or 0) - 3, "high": (average or 0) + 3}
        if right is not None:
            counts = right[name]
            value = 100 * sum(counts) / len(counts) / samples
            one = {
                "avg": value,
                "low": value - 1,
                "high": value + 1,
                "samples": samples,
                "correct": {str(i): int(c) for i, c in enumerate(counts)},
            }
        found[name] = one
    path.write_text(json.dumps({"benchmarks": found}))
    return path


def named(rows, part):
    (row,) = [row for row in rows if part in row.what and "arXiv:2512" in row.source]
    return row


def test_inside_outside_and_the_assumption_is_said(tmp_path):
    """The interval of the average is that of independent benchmarks: 3 / sqrt(5)."""
    row = named(compare("1.5b", "erc-dapo", evaluation(tmp_path / "a.json", 55)), "average")
    assert row.finding == "inside our interval, if these are the paper's benchmarks"
    assert row.high - row.value == pytest.approx(math.sqrt(5 * 9) / 5)
    row = named(compare("1.5b", "erc-dapo", evaluation(tmp_path / "b.json", 20)), "average")
    assert row.finding == "outside our interval, if these are the paper's benchmarks"


def test_another_papers_average_is_a_row_of_its_own(tmp_path):
    ours, other = (
        row
        for row in compare("1.5b", "dapo", evaluation(tmp_path / "a.json", 53))
        if "average" in row.what
    )
    assert (ours.target, other.target) == (53.4, 52.4)
    assert "another paper" in other.note
    assert other.finding == "inside our interval"


def test_nothing_comes_from_nothing(tmp_path):
    rows = compare("7b", "erc-dapo")
    assert [row.finding for row in rows] == ["not run"] * 3
    assert "inside" not in as_markdown(rows)
    partly = evaluation(tmp_path / "c.json", 55, only=("aime24", "amc23"))
    row = named(compare("1.5b", "erc-dapo", partly), "average")
    assert (row.finding, row.note) == ("not run", "missing: aime25, hmmt25, math500")


def test_an_interval_that_is_not_known_decides_nothing(tmp_path):
    path = evaluation(tmp_path / "a.json", 55)
    data = json.loads(path.read_text())
    data["benchmarks"]["amc23"] |= {"low": None, "high": None}
    path.write_text(json.dumps(data))
    assert named(compare("1.5b", "erc-dapo", path), "average").finding == "no interval"


def test_the_difference_is_paired_by_problem(tmp_path):
    """Problems differ widely, the gain is one answer of 32 on each: the interval is a point."""
    rng = np.random.default_rng(0)
    base = {name: rng.integers(0, 31, count) for name, count in PROBLEMS.items()}
    more = {name: counts + 1 for name, counts in base.items()}
    plain = evaluation(tmp_path / "plain.json", right=base)
    ours = evaluation(tmp_path / "ours.json", right=more)
    row = named(compare("1.5b", "erc-dapo", ours, baseline=plain), "erc-dapo - dapo")
    assert row.target == pytest.approx(1.7)
    assert (row.value, row.low, row.high) == pytest.approx((100 / 32,) * 3)
    assert row.finding.startswith("outside our interval")


def test_the_difference_covers_what_it_estimates(tmp_path):
    """Of 40 pairs of runs with a true gain of 3 points, about 38 intervals should hold it."""
    inside = 0
    for repeat in range(40):
        rng = np.random.default_rng(repeat)
        chance = {name: rng.uniform(0.1, 0.9, count) for name, count in PROBLEMS.items()}
        base = {n: rng.binomial(32, p) for n, p in chance.items()}
        more = {n: rng.binomial(32, p + 0.03) for n, p in chance.items()}
        row = named(
            compare(
                "1.5b",
                "erc-dapo",
                evaluation(tmp_path / "o.json", right=more),
                baseline=evaluation(tmp_path / "p.json", right=base),
            ),
            "erc-dapo - dapo",
        )
        inside += row.low <= 3.0 <= row.high
    assert 34 <= inside <= 40


def test_part_of_a_benchmark_is_said(tmp_path):
    right = {name: [16] * count for name, count in PROBLEMS.items()} | {"math500": [16] * 10}
    row = named(compare("1.5b", "dapo", evaluation(tmp_path / "a.json", right=right)), "average")
    assert "math500: 10 of 500 problems" in row.note


def test_different_problems_are_not_paired(tmp_path):
    one = evaluation(tmp_path / "a.json", right={name: [1, 2] for name in FIVE})
    other = evaluation(tmp_path / "b.json", right={name: [1, 2, 3] for name in FIVE})
    with pytest.raises(InputError, match="baseline: aime24 does not have the same problems"):
        compare("1.5b", "erc-dapo", one, baseline=other)


def test_arms_without_a_target_are_refused_only_where_there_is_none(tmp_path):
    assert [row.what for row in compare("1.5b", "erc-gppo")] == ["gate/dropped_fraction"]
    path = tmp_path / "t.toml"
    path.write_text(
        '[x]\nsource="s"\nunit="u"\nbenchmarks=["a"]\nbenchmarks_known=true\naverage={}'
    )
    with pytest.raises(InputError, match="targets: none for gppo"):
        compare("1.5b", "gppo", papers=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x", "is not TOML"),
        ("[erc]", "erc.source: missing key"),
        ("erc = 1", "erc: 1 is not allowed; must be a table"),
    ],
)
def test_foreign_targets_are_refused(tmp_path, content, message):
    path = tmp_path / "t.toml"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"^targets: .*t\.toml.* {message}"):
        targets(path)
    with pytest.raises(InputError, match="cannot be read"):
        targets(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[]", "must be a table"),
        ("{}", "benchmarks: missing key"),
        ('{"benchmarks": {"aime24": {"avg": "x"}}}', "benchmarks.aime24.avg: 'x' is not allowed"),
        (
            '{"benchmarks": {"aime24": {"avg": 1, "low": 1, "high": 1, "samples": 0}}}',
            "benchmarks.aime24.samples: 0 is not allowed; must be at least 1",
        ),
    ],
)
def test_foreign_evaluations_are_refused(tmp_path, content, message):
    path = tmp_path / "e.json"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"^evaluation: .*e\.json.* {message}"):
        comparing.compare("1.5b", "dapo", path)
