"""Statistics against scipy, and corrections against their definitions."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from erc_bench.analysis.claims.inference import decide, decide_discoveries
from erc_bench.analysis.claims.rules import Criterion
from erc_bench.analysis.claims.statistics import auroc, auroc_by_seed, log_ratio, share

scores = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40)
POSITIVE = Criterion(above=0.0, fails_below=0.0)


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
def test_holm_decides_as_the_closed_test_of_scipys_t_tests(seed, m):
    """An oracle that knows no step-down; and each verdict is read off the adjusted interval."""
    rng = np.random.default_rng(seed)
    members = [rng.normal(rng.uniform(-1, 1), 1, 20) for _ in range(m)]
    decisions = decide(members, POSITIVE, level=0.95, seeds=20)
    expected = closed([stats.ttest_1samp(x, 0).pvalue for x in members], 0.05)
    assert [d.outcome != "inconclusive" for d in decisions] == expected
    for x, d in zip(members, decisions, strict=True):
        assert (d.outcome == "holds") == (d.adjusted.low > 0)
        assert (d.outcome == "fails") == (d.adjusted.high < 0)
        plain = stats.ttest_1samp(x, 0).confidence_interval(0.95)
        np.testing.assert_allclose((d.interval.low, d.interval.high), tuple(plain))
        assert d.adjusted.half >= d.interval.half - 1e-12


def test_a_family_makes_each_of_its_members_harder_to_decide():
    """p = 0.03 decides alone, and not beside another that is not clear."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=20)
    x = (x - x.mean()) / x.std(ddof=1) + stats.t.isf(0.015, 19) / math.sqrt(20)
    assert stats.ttest_1samp(x, 0).pvalue == pytest.approx(0.03)
    assert decide([x], POSITIVE, level=0.95, seeds=20)[0].outcome == "holds"
    both = decide([x, x - x.mean()], POSITIVE, level=0.95, seeds=20)
    assert [d.outcome for d in both] == ["inconclusive", "inconclusive"]
    few = decide([x, np.ones(5)], POSITIVE, level=0.95, seeds=20)  # counts, and decides nothing
    assert [d.outcome for d in few] == ["inconclusive", "inconclusive"]


def test_a_region_with_two_ends_needs_the_interval_inside_both():
    region = Criterion(above=0.05, below=0.4, fails_below=0.05, fails_above=0.4)
    noise = np.linspace(-1, 1, 20)
    for mean, spread, expected in [
        (0.2, 0.1, "holds"),
        (0.6, 0.1, "fails"),
        (0.01, 0.01, "fails"),
        (0.39, 0.1, "inconclusive"),
        (0.06, 0.1, "inconclusive"),
        (0.2, 1.0, "inconclusive"),
        (0.2, 0.0, "holds"),
    ]:
        (got,) = decide([mean + spread * noise], region, level=0.95, seeds=20)
        assert got.outcome == expected, (mean, spread)


def test_discoveries_are_benjamini_and_hochbergs():
    """The largest k with p(k) <= k/m q is found and everything below it, signs included."""
    rng = np.random.default_rng(3)
    members = [rng.normal(m, 1, 20) for m in (1, -1, 0.55, 0, 0, 0.1, -0.6, 0)]
    decisions = decide_discoveries(members, POSITIVE, level=0.95, seeds=20, rate=0.05)
    ps = np.array([stats.ttest_1samp(x, 0).pvalue for x in members])
    ranked = np.sort(ps)
    below = np.flatnonzero(ranked <= 0.05 * np.arange(1, 9) / 8)
    cut = ranked[below[-1]] if len(below) else -1
    for x, p, d in zip(members, ps, decisions, strict=True):
        expected = "inconclusive" if p > cut else "holds" if x.mean() > 0 else "fails"
        assert d.outcome == expected
    assert {d.outcome for d in decisions} == {"holds", "fails", "inconclusive"}
    few = decide_discoveries([x[:19] for x in members], POSITIVE, level=0.95, seeds=20, rate=0.05)
    assert {d.outcome for d in few} == {"inconclusive"}
    assert decide_discoveries([], POSITIVE, level=0.95, seeds=20, rate=0.05) == []


def test_a_claim_at_its_threshold_is_rarely_decided_wrongly():
    """Family of four at the threshold: any decision in at most 5 % of 1000 worlds."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(1000):
        members = list(rng.normal(0, 1, (4, 20)))
        found = decide(members, POSITIVE, level=0.95, seeds=20)
        wrong += any(d.outcome != "inconclusive" for d in found)
    assert wrong / 1000 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
