"""Intervals against scipy's and exact tests; their coverage is in test_statistics_coverage.py."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from erc_bench.analysis.statistics import (
    LEAST,
    MEDIAN,
    Interval,
    mean_estimator,
    mean_interval,
    median_interval,
    median_intervals,
    paired_difference,
    pooled_share,
    ratio_interval,
)
from erc_bench.core.errors import InputError

coarse = st.integers(-4, 4).map(lambda i: i / 4)  # many ties
levels = st.sampled_from([0.8, 0.9, 0.95, 0.99])
DIFFERENCES = mean_estimator(-1.0, 1.0)


@settings(deadline=None, max_examples=60)
@given(st.lists(coarse, min_size=LEAST, max_size=40), levels)
def test_the_interval_of_the_median_is_that_of_scipys_quantile_test(values, level):
    got = median_interval(values, level)
    result = stats.quantile_test(values, q=0, p=0.5)
    expected = result.confidence_interval(level)
    np.testing.assert_equal((got.low, got.high), (expected.low, expected.high))
    assert got.estimate == np.median(values)


@settings(deadline=None, max_examples=60)
@given(st.integers(LEAST, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), levels)
def test_the_interval_of_a_share_is_clopper_and_pearsons(counts, level):
    k, n = counts
    got = mean_interval([1.0] * k + [0.0] * (n - k), level=level)
    expected = stats.binomtest(k, n).proportion_ci(level, method="exact")
    np.testing.assert_allclose((got.low, got.high), (expected.low, expected.high), atol=1e-7)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_a_paired_difference_of_shares_is_tested_as_mcnemar_does(more, less, same):
    """One-sided binomial tests of the discordant pairs, both ways."""
    values = np.repeat([1.0, -1.0, 0.0], [more, less, same])
    if more + less == 0:
        return
    above, below = DIFFERENCES.tails(values, 0.0)
    for got, count in ((above, less), (below, more)):
        expected = stats.binomtest(count, more + less, alternative="less").pvalue
        assert got == pytest.approx(expected, abs=1e-8)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(LEAST, 20))
def test_the_interval_of_a_bounded_mean_is_the_quantile_of_its_weighted_means(seed, n):
    """Against 200,000 draws of the weights, within five standard errors of their levels."""
    rng = np.random.default_rng(seed)
    x = rng.beta(0.5, 0.2, n)
    got = mean_interval(x)
    weights = rng.dirichlet(np.ones(n + 1), 200_000)
    for end, unseen, share in ((got.low, 0.0, 0.025), (got.high, 1.0, 0.975)):
        assert (weights @ [*x, unseen] <= end).mean() == pytest.approx(share, abs=0.0018)


@settings(deadline=None, max_examples=60)
@given(st.lists(coarse, min_size=LEAST, max_size=30), coarse, levels)
def test_tails_are_the_intervals_turned_round(values, threshold, level):
    """An interval lies above a threshold exactly when the first tail is at most half of 1 - level."""
    x, half = np.array(values), (1 - level) / 2
    for estimator in (MEDIAN, DIFFERENCES):
        got = estimator.interval(x, level)
        above, below = estimator.tails(x, threshold)
        if min(abs(above - half), abs(below - half)) > 1e-6:
            assert (got.low > threshold) == (above < half)
            assert (got.high < threshold) == (below < half)


@settings(deadline=None, max_examples=60)
@given(st.lists(coarse.map(abs), min_size=LEAST, max_size=30))
def test_ends_enclose_the_estimate_and_stay_within_the_bounds(values):
    mean, median = mean_interval(values), median_interval(values)
    assert 0 <= mean.low <= mean.estimate + 1e-9
    assert mean.estimate - 1e-9 <= mean.high <= 1
    assert min(values) <= median.low <= median.estimate <= median.high <= max(values)


@pytest.mark.parametrize("n", range(8))
def test_fewer_than_six_seeds_have_an_estimate_and_no_interval(n):
    for interval in (mean_interval, median_interval):
        got = interval([0.5] * n)
        assert got.known == (n >= LEAST)
        assert math.isnan(got.low) == math.isnan(got.high) == (n < LEAST)
        assert got.n == n
        assert math.isnan(got.estimate) if n == 0 else got.estimate == 0.5
        assert not got.known or not got.excludes(0.5)
    assert not median_interval([0.5]).excludes(99.0)


def test_values_that_are_not_finite_are_left_out_and_not_counted():
    columns = np.array([[1.0, math.nan], [math.nan, math.inf], [3.0, 5.0]])
    estimate, _, _, n = median_intervals(columns)
    assert (estimate.tolist(), n.tolist()) == ([2.0, 5.0], [2, 1])
    assert mean_interval([1.0, math.nan]).n == 1


def test_a_pooled_share_of_equal_wholes_is_the_mean_of_the_shares():
    """And otherwise each seed weighs as much as it has; nothing to divide by is no value."""
    part = np.array([2.0, 5.0, 3.0, 7.0, 4.0, 4.0])
    got, expected = (
        pooled_share(part, np.full(6, 10.0)),
        stats.t.interval(0.95, 5, np.mean(part / 10), stats.sem(part / 10)),
    )
    assert (got.low, got.high) == pytest.approx(expected)
    assert got.estimate == pytest.approx(np.mean(part / 10))
    assert pooled_share([1, 0, 9], [1, 0, 19]).estimate == 0.5
    assert math.isnan(pooled_share([0, 0], [0, 0]).estimate)
    assert math.isnan(pooled_share([1], [2]).low)
    assert math.isnan(pooled_share([3] * 6, [3] * 6).low)


def test_a_pooled_share_covers_the_truth():
    """Twenty seeds with about nine tokens each to divide by: 95 % intervals hold the truth 93 to 97 %."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(1500):
        whole = rng.poisson(rng.gamma(3, 3, 20))  # seeds differ in how many, and in their share
        part = rng.binomial(whole, rng.beta(6, 4, 20))
        got = pooled_share(part, whole)
        held.append(got.low <= 0.6 <= got.high)
    assert 0.93 <= np.mean(held) <= 0.97


def test_a_score_outside_its_bounds_is_refused():
    with pytest.raises(InputError, match=r"0\.5 to 1\.2; must lie in 0 to 1"):
        mean_interval([0.5, 1.2])


def test_pairing_is_by_seed_and_uses_shared_seeds_only():
    seeds = range(9)
    base = pd.Series(np.arange(9.0), index=seeds)
    other = pd.Series(np.arange(9.0) + 0.5, index=seeds).sample(frac=1, random_state=1)
    assert paired_difference(base, other) == Interval(0.5, 0.5, 0.5, 9)
    assert paired_difference(base[:3], other.drop(0)).n == 2


def test_the_ratio_is_the_median_ratio_and_undefined_with_a_zero():
    base = pd.Series([0.1, 0.2, 0.4, 0.1, 0.2, 0.4])
    got = ratio_interval(base, 7 * base)
    np.testing.assert_allclose((got.estimate, got.low, got.high), 7.0)
    assert math.isnan(ratio_interval(pd.Series([0.0, 0.1]), pd.Series([0.2, 0.2])).estimate)


def test_overlap_is_false_where_an_interval_is_unknown():
    known, unknown = Interval(1.0, 0.5, 1.5, 6), median_interval([1.0])
    assert known.overlaps(Interval(2.0, 1.5, 2.5, 6))
    assert not known.overlaps(Interval(2.0, 1.6, 2.4, 6))
    assert not known.overlaps(unknown)
