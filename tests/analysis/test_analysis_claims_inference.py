"""Statistics against scipy, and corrections against their definitions."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from erc_bench.analysis.claims.inference import (
    Family,
    collapse_overrules,
    decide,
    decide_discoveries,
    one_seed_decides,
)
from erc_bench.analysis.claims.rules import Criterion
from erc_bench.analysis.claims.statistics import auroc, auroc_by_seed, log_ratio, share
from erc_bench.analysis.statistics import MEDIAN, mean_estimator

scores = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40)
POSITIVE = Criterion(above=0.0, fails_below=0.0)
FAMILY = Family(POSITIVE, MEDIAN, level=0.95, seeds=20)


def sign_test(x):
    """Two-sided, of the median 0, by scipy."""
    return stats.binomtest(int((np.asarray(x) > 0).sum()), len(x)).pvalue


@given(scores)
def test_auroc_is_mann_whitneys_u_of_scipy(pairs):
    """U / (n1 n0), ties half; NaN where a class is empty."""
    score, label = np.array([s for s, _ in pairs], float), np.array([x for _, x in pairs])
    got = auroc(score, label)
    if label.all() or not label.any():
        assert math.isnan(got)
        return
    u = stats.mannwhitneyu(score[label], score[~label]).statistic
    assert got == pytest.approx(u / (label.sum() * (~label).sum()))
    assert auroc(-score, label) == pytest.approx(1 - got)


def test_auroc_needs_enough_tokens_of_both_classes_per_run():
    """Four violations are not five; absolute scores; tokens without a value are left out."""
    n = 20
    tokens = pd.DataFrame(
        {
            "seed": np.repeat([0, 1, 2], n),
            "kl_exact": 0.0,
            "log_ratio": np.tile(np.arange(n) * 1.0, 3),
        }
    )
    tokens.loc[tokens.index[:4], "kl_exact"] = 1.0
    tokens.loc[tokens.index[n : n + 5], "kl_exact"] = 1.0
    tokens.loc[tokens.index[2 * n : 2 * n + 5], "kl_exact"] = 1.0
    tokens.loc[tokens.index[2 * n : 2 * n + 5], "log_ratio"] = -99.0
    got = auroc_by_seed(tokens, "log_ratio", 0.01, 5)
    assert math.isnan(got[0])
    assert got.tolist()[1:] == [0.0, 1.0]
    tokens.loc[tokens.index[n], "log_ratio"] = np.nan
    assert math.isnan(auroc_by_seed(tokens, "log_ratio", 0.01, 5)[1])


def test_shares_and_ratios_have_no_value_without_a_whole():
    """0 / 0 is no share; the logarithm of 0 no ratio."""
    runs = pd.DataFrame({"part": [0.0, 0.1], "whole": [0.0, 0.4]})
    assert share(runs, "part", "whole").isna().tolist() == [True, False]
    assert share(runs, "part", "whole")[1] == 0.25
    got = log_ratio(pd.Series([1.0, 0.0, 2.0]), pd.Series([2.0, 1.0, 0.0]))
    assert got.isna().tolist() == [False, True, True]
    assert got[0] == pytest.approx(math.log(2))


def closed(ps, alpha):
    """Closure of Bonferroni: rejected if every subset with it has a p below alpha / its size."""
    indices = range(len(ps))
    subsets = [s for k in indices for s in itertools.combinations(indices, k + 1)]
    return [
        all(min(ps[j] for j in s) <= alpha / len(s) for s in subsets if i in s) for i in indices
    ]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_holm_decides_as_the_closed_test_of_scipys_sign_tests(seed, m):
    """An oracle that knows no step-down; and each verdict is read off the adjusted interval."""
    rng = np.random.default_rng(seed)
    members = [rng.normal(rng.uniform(-1, 1), 1, 20) for _ in range(m)]
    decisions = decide(members, FAMILY)
    expected = closed([sign_test(x) for x in members], 0.05)
    assert [d.outcome != "inconclusive" for d in decisions] == expected
    for d in decisions:
        assert (d.outcome == "holds") == (d.adjusted.low > 0)
        assert (d.outcome == "fails") == (d.adjusted.high < 0)
        assert d.adjusted.low <= d.interval.low
        assert d.adjusted.high >= d.interval.high


def signs(positive, n=20):
    """Values of which so many are positive."""
    return np.where(np.arange(n) < positive, 1.0, -1.0) * (1 + np.arange(n) / 100)


def test_a_family_makes_each_of_its_members_harder_to_decide():
    """p = 0.041 decides alone, and not beside another that is not clear."""
    x = signs(15)
    assert sign_test(x) == pytest.approx(0.041, abs=5e-4)
    assert decide([x], FAMILY)[0].outcome == "holds"
    both = decide([x, signs(10)], FAMILY)
    assert [d.outcome for d in both] == ["inconclusive", "inconclusive"]
    few = decide([x, np.ones(5)], FAMILY)  # counts, and decides nothing
    assert [d.outcome for d in few] == ["inconclusive", "inconclusive"]


@pytest.mark.parametrize("estimator", [MEDIAN, mean_estimator(0.0, 1.0)])
def test_a_region_with_two_ends_needs_the_interval_inside_both(estimator):
    region = Criterion(above=0.05, below=0.6, fails_below=0.05, fails_above=0.6)
    noise = np.linspace(-1, 1, 60)
    for mean, spread, expected in [
        (0.3, 0.1, "holds"),
        (0.9, 0.1, "fails"),
        (0.6, 0.1, "inconclusive"),
        (0.055, 0.05, "inconclusive"),
        (0.3, 0.0, "holds"),
    ]:
        (got,) = decide([mean + spread * noise], Family(region, estimator, 0.95, 20))
        assert got.outcome == expected, (mean, spread)
    (low,) = decide([np.zeros(80)], Family(region, estimator, 0.95, 20))
    assert low.outcome == "fails"


def test_discoveries_are_benjamini_and_hochbergs():
    """The largest k with p(k) <= k/m q is found and everything below it, signs included."""
    members = [signs(k) for k in (18, 2, 16, 10, 11, 9, 4, 12)]
    decisions = decide_discoveries(members, FAMILY, rate=0.05)
    ps = np.array([sign_test(x) for x in members])
    ranked = np.sort(ps)
    below = np.flatnonzero(ranked <= 0.05 * np.arange(1, 9) / 8)
    for x, p, d in zip(members, ps, decisions, strict=True):
        found = "holds" if x.mean() > 0 else "fails"
        assert d.outcome == (found if p <= ranked[below[-1]] else "inconclusive")
        assert (d.adjusted.excludes(0.0)) == (d.outcome != "inconclusive")
    assert {d.outcome for d in decisions} == {"holds", "fails", "inconclusive"}
    few = decide_discoveries([x[:19] for x in members], FAMILY, rate=0.05)
    assert {d.outcome for d in few} == {"inconclusive"}
    assert decide_discoveries([], FAMILY, rate=0.05) == []


def test_a_claim_at_its_threshold_is_rarely_decided_wrongly():
    """Family of four at the threshold: any decision in at most 5 % of 1000 worlds."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(1000):
        found = decide(list(rng.normal(0, 1, (4, 20))), FAMILY)
        wrong += any(d.outcome != "inconclusive" for d in found)
    assert wrong / 1000 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize(
    ("positive", "n", "expected"),
    [(15, 20, True), (17, 20, False), (14, 20, False), (10, 20, False)],
)
def test_an_outcome_that_hangs_on_one_seed_is_known(positive, n, expected):
    """15 of 20 signs are conclusive and 14 of 19 are not; 17 of 20 bear the loss of any."""
    x = signs(positive, n)
    (decision,) = decide([x], FAMILY)
    assert one_seed_decides(x, decision, FAMILY) == expected


@pytest.mark.parametrize(
    ("only_it", "only_other", "n", "expected"),
    [(0, 0, 28, True), (0, 0, 29, False), (1, 0, 30, True), (0, 8, 20, False), (1, 0, 50, False)],
)
def test_collapse_overrules_until_the_margin_is_excluded(only_it, only_other, n, expected):
    excess = np.repeat([1.0, -1.0, 0.0], [only_it, only_other, n - only_it - only_other])
    assert collapse_overrules(excess, 0.1, 0.95) == expected
