"""Aggregates over tasks: estimates against scipy's, intervals by what they must be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from erc_bench.analysis.statistics import (
    interquartile_mean,
    mean_interval,
    performance_profile,
    probability_of_improvement,
    stratified_mean,
)
from erc_bench.core.errors import InputError

scores = arrays(
    np.float64,
    st.tuples(st.integers(1, 9), st.integers(1, 4)),
    elements=st.integers(0, 8).map(lambda i: i / 8),
)
few = {"replicates": 400}


def strata(matrix):
    """The columns of a matrix, runs x tasks."""
    return list(np.asarray(matrix).T)


@settings(deadline=None, max_examples=60)
@given(scores, st.randoms(use_true_random=False))
def test_the_interquartile_mean_is_scipys_trimmed_mean_in_any_order(matrix, random):
    tasks = [random.sample(list(c), len(c)) for c in random.sample(strata(matrix), matrix.shape[1])]
    got = interquartile_mean(tasks, **few)
    assert got.value == pytest.approx(stats.trim_mean(matrix, 0.25, axis=None))
    assert np.isnan(got.low) == (len(matrix) < 6)
    if len(matrix) >= 6:
        assert 0 <= got.low < got.high <= 1


@settings(deadline=None, max_examples=60)
@given(scores)
def test_a_profile_falls_from_all_to_none_within_its_band_and_its_area_is_the_mean(matrix):
    taus = (np.arange(10) - 0.5) / 8  # between the scores
    got = performance_profile(strata(matrix), taus, **few)
    assert (np.diff(got.share) <= 1e-12).all()
    assert (got.share[0], got.share[-1]) == (1.0, 0.0)
    assert got.share[1:-1].mean() == pytest.approx(matrix.mean())
    if len(matrix) >= 6:
        assert (got.low <= got.share + 1e-12).all()
        assert (got.share <= got.high + 1e-12).all()
        assert (got.low < got.high).all()


def test_improvement_compares_runs_of_the_same_seed():
    """A small gain on every seed is certain in pairs; twenty of them allow one loss in six."""
    base = np.linspace(0, 0.9, 20)
    got = probability_of_improvement([base + 0.01], [base])
    expected = stats.binomtest(20, 20).proportion_ci()
    assert (got.value, got.high) == pytest.approx((1.0, 1.0))
    assert got.low == pytest.approx(expected.low, abs=0.01)
    back = probability_of_improvement([base], [base + 0.01])
    assert (back.value, back.low, back.high) == pytest.approx((0, 0, 1 - got.low))
    assert probability_of_improvement([base], [base]).value == 0.5


def test_the_interval_for_one_task_is_that_of_a_bounded_mean():
    """A profile at one threshold is a share, whose interval has a closed form."""
    runs = np.random.default_rng(5).random(25)
    got = performance_profile([runs], [0.5], replicates=100_000)
    expected = mean_interval(runs > 0.5)
    np.testing.assert_allclose([got.low[0], got.high[0]], [expected.low, expected.high], atol=0.005)


def test_the_stratified_mean_weighs_tasks_and_has_scipys_interval():
    runs = np.random.default_rng(5).gamma(1.0, size=25)
    got = stratified_mean([runs], seed=1)
    expected = stats.bootstrap(
        (runs,), np.mean, n_resamples=20_000, rng=np.random.default_rng(2), method="percentile"
    ).confidence_interval
    tolerance = 0.1 * (expected.high - expected.low)
    np.testing.assert_allclose([got.low, got.high], expected, atol=tolerance, rtol=0)
    uneven = stratified_mean([[1.0, 1.0], [0.0, 0.0, 0.0]])
    assert (uneven.value, uneven.low, uneven.high) == (0.5, 0.5, 0.5)
    assert np.isnan(stratified_mean([[0.5], [0.1, 0.2]]).low)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    runs = strata(np.random.default_rng(0).random((10, 3)))
    for found in (interquartile_mean, stratified_mean):
        assert found(runs, seed=3) == found(runs, seed=3)
        assert found(runs, seed=3) != found(runs, seed=4)


@pytest.mark.parametrize("bad", [[], [[]], [[0.1, np.nan]], [[[0.1]]], [[0.1, 1.5]]])
def test_bad_strata_are_refused(bad):
    with pytest.raises(InputError, match="strata"):
        interquartile_mean(bad)


def test_other_tasks_or_other_seeds_cannot_be_compared():
    with pytest.raises(InputError, match="same tasks"):
        probability_of_improvement([[1.0, 2.0]], [[1.0], [2.0]])
    with pytest.raises(InputError, match="paired"):
        probability_of_improvement([[1.0, 2.0]], [[1.0]])
