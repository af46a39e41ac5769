"""Recall, precision and the hidden share of violations, against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.synthetic_claims import make_world
from erc_bench.analysis.bounds import Bounds
from erc_bench.analysis.claims.statistics import (
    RULES,
    VIOLATIONS,
    precision,
    recall,
)
from erc_bench.analysis.detection import DELTAS, detection, hidden_curve

BOUNDS = Bounds(clip=(0.2, 0.28), band=(0.05, 0.1), delta=0.02)


def sample(seed: int, count: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "seed": rng.integers(0, 3, count),
            "prob/old": rng.uniform(0.01, 0.99, count),
            "log_ratio": 0.3 * rng.normal(size=count),
            "log_entropy_ratio": 0.1 * rng.normal(size=count),
            "kl_exact": rng.exponential(0.02, count),
            "gate_dropped": rng.random(count) < 0.3,
        }
    )


def finds(rule, token):
    if rule == "gate":
        return token["gate_dropped"]
    if rule == "clip":
        return not 0.8 <= math.exp(token["log_ratio"]) <= 1.28
    return not 0.95 < math.exp(token["log_entropy_ratio"]) < 1.1


def violates(violation, token):
    if violation == "delta":
        return token["kl_exact"] > 0.02
    p = token["prob/old"]

    def d(q):
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    return 1.28 * p < 1 and token["kl_exact"] > max(d(0.8 * p), d(1.28 * p))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16))
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("violation", VIOLATIONS)
def test_recall_and_precision_are_counts(rule, violation, seed):
    """Of every run's tokens: found violations by violations, and by what was found; too few have none."""
    tokens = sample(seed)
    got = [f(tokens, rule, violation, BOUNDS, 5) for f in (recall, precision)]
    for run, here in tokens.groupby("seed"):
        rows = here.to_dict("records")
        found = [bool(finds(rule, t)) for t in rows]
        wrong = [violates(violation, t) for t in rows]
        both = sum(f and w for f, w in zip(found, wrong, strict=True))
        for series, among in zip(got, (wrong, found), strict=True):
            expected = both / sum(among) if sum(among) >= 5 else math.nan
            assert series[run] == pytest.approx(expected, nan_ok=True)


def test_the_tables_pool_the_seeds_and_what_the_clip_does_not_find_is_hidden(tmp_path):
    """Shares of all seeds' tokens; the hidden share at delta is one minus the clip's recall there."""
    results = make_world(tmp_path / "world", only=["stress", "forking_tokens"], seeds=6)
    table = detection(results)
    keys = ["experiment", "objective", "rule", "violation", "measure"]
    assert not table.duplicated(keys).any()
    gate = table[(table.rule == "gate") & (table.measure == "precision")]
    assert (gate.tokens > 0).equals(gate.objective.str.startswith("erc-"))
    known = table[table.share.between(0, 1, inclusive="neither")]
    assert (known.share_low <= known.share).all()
    assert known.share_high.between(known.share, 1).all()
    curve = hidden_curve(results, [*DELTAS, 0.0101])
    arm = {"experiment": "stress", "objective": "dapo"}
    tokens = results.read("tokens")
    tokens = tokens[(tokens.experiment == "stress") & (tokens.objective == "dapo")]
    here = curve[(curve.experiment == "stress") & (curve.objective == "dapo")].set_index("delta")
    for delta, row in here.iterrows():
        assert row.tokens == (tokens.kl_exact > delta).sum()
    one = table[(table[[*arm]] == arm).all(axis=1) & (table.measure == "recall")]
    clip = one[(one.rule == "clip") & (one.violation == "delta")].iloc[0]
    assert clip.share == pytest.approx(1 - here.loc[0.01, "hidden"])
    assert clip.tokens == here.loc[0.01, "tokens"]
