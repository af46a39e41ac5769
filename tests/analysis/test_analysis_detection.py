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
    hidden_share,
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


def test_what_the_clip_does_not_find_is_hidden():
    """The hidden share at delta is one minus the clip's recall there."""
    tokens = sample(0, 400)
    hidden = hidden_share(tokens, BOUNDS.delta, BOUNDS, 5)
    found = recall(tokens, "clip", "delta", BOUNDS, 5)
    np.testing.assert_allclose(hidden, 1 - found)


def test_the_tables_have_every_arm_and_hold_back_what_too_few_tokens_tell(tmp_path):
    """Shares in [0, 1] with intervals; none at a delta that no token exceeds, or where no gate drops."""
    results = make_world(tmp_path / "world", only=["stress", "forking_tokens"], seeds=4)
    table = detection(results)
    keys = ["experiment", "objective", "rule", "violation", "measure"]
    assert not table.duplicated(keys).any()
    gate = table[(table.rule == "gate") & (table.measure == "precision")]
    assert (gate.seeds > 0).equals(gate.objective.str.startswith("erc-"))
    known = table[table.seeds > 1]  # one seed has no interval
    assert known["mean"].between(0, 1).all()
    assert (known["mean_low"] <= known["mean"]).all()
    curve = hidden_curve(results)
    assert set(curve.delta) == set(DELTAS)
    assert (
        curve[curve.delta > 0.02].seeds == 0
    ).all()  # the world's tokens have 0.001 or 0.02 nats
    assert (curve[curve.delta < 0.02].violations > 0).all()
    arm = curve[(curve.experiment == "stress") & (curve.objective == "dapo")]
    assert (np.diff(arm.violations) <= 0).all()
