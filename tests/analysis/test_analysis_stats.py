import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from erc_bench.analysis import Interval, mean_interval, paired_difference, ratio_interval
from erc_bench.analysis.statistics import exact_share, pooled_share

floats = st.floats(-1e3, 1e3, allow_nan=False)


@given(st.lists(floats, min_size=2, max_size=30))
def test_the_interval_is_the_students_t_interval_of_scipy(values):
    spread = np.std(values, ddof=1)
    if spread < 1e-9:
        return
    got = mean_interval(values)
    expected = stats.t.interval(
        0.95, len(values) - 1, np.mean(values), spread / math.sqrt(len(values))
    )
    np.testing.assert_allclose((got.low, got.high), expected, rtol=1e-9, atol=1e-9)
    assert got.n == len(values)


def test_a_closed_form_three_seeds():
    got = mean_interval([1.0, 2.0, 3.0])
    assert got.half == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert got.mean == 2.0


def test_one_seed_has_a_mean_and_no_interval_none_has_neither():
    one = mean_interval([0.5])
    assert one.mean == 0.5
    assert one.n == 1
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    none = mean_interval([math.nan])
    assert math.isnan(none.mean)
    assert none.n == 0


def test_values_that_are_not_finite_are_left_out_and_not_counted():
    assert mean_interval([1.0, math.nan, 3.0, math.inf]).n == 2


def test_a_pooled_share_of_equal_wholes_is_the_mean_of_the_shares():
    """And otherwise each seed weighs as much as it has; nothing to divide by is no value."""
    part = np.array([2.0, 5.0, 3.0, 7.0])
    got, expected = pooled_share(part, np.full(4, 10.0)), mean_interval(part / 10)
    assert (got.mean, got.low, got.high) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert pooled_share([1, 0, 9], [1, 0, 19]).mean == 0.5
    assert math.isnan(pooled_share([0, 0], [0, 0]).mean)
    assert math.isnan(pooled_share([1], [2]).low)
    assert math.isnan(pooled_share([3, 4], [3, 4]).low)


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


@given(st.integers(0, 30), st.integers(1, 30))
def test_an_exact_share_is_scipys(part, whole):
    """Clopper and Pearson's interval."""
    part = min(part, whole)
    got = exact_share(part, whole)
    expected = stats.binomtest(part, whole).proportion_ci(0.95, method="exact")
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert math.isnan(exact_share(0, 0).mean)


def test_paired_differences_are_the_paired_t_test_of_scipy():
    rng = np.random.default_rng(0)
    base = pd.Series(rng.normal(size=9), index=range(9))
    other = base + 0.3 + 0.1 * pd.Series(rng.normal(size=9), index=range(9))
    got = paired_difference(base, other.sample(frac=1, random_state=1))  # order does not matter
    expected = stats.ttest_rel(other, base).confidence_interval(0.95)
    np.testing.assert_allclose((got.low, got.high), (expected.low, expected.high))


def test_pairing_uses_shared_seeds_only():
    got = paired_difference(pd.Series([1.0, 2.0], [0, 1]), pd.Series([4.0, 9.0], [1, 2]))
    assert (got.mean, got.n) == (2.0, 1)


def test_ratio_interval_is_exact_for_a_constant_ratio_and_undefined_with_a_zero():
    base = pd.Series([0.1, 0.2, 0.4])
    got = ratio_interval(base, 7 * base)
    np.testing.assert_allclose((got.mean, got.low, got.high), 7.0)
    assert math.isnan(ratio_interval(pd.Series([0.0, 0.1]), pd.Series([0.2, 0.2])).mean)


def test_coverage_is_the_stated_level():
    rng = np.random.default_rng(1)
    hits = [not mean_interval(rng.normal(size=5)).excludes(0.0) for _ in range(2000)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)


def test_overlap_is_false_where_an_interval_is_unknown():
    known, unknown = Interval(1.0, 0.5, 1.5, 3), mean_interval([1.0])
    assert known.overlaps(Interval(2.0, 1.5, 2.5, 3))
    assert not known.overlaps(Interval(2.0, 1.6, 2.4, 3))
    assert not known.overlaps(unknown)
    assert not unknown.excludes(0.0)
