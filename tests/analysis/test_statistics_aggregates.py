import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from erc_bench.analysis import statistics
from erc_bench.analysis.statistics import (
    interquartile_mean,
    mean_score,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from erc_bench.core.errors import InputError

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "rliable.json").read_text())
CASES = sorted(GOLDEN["cases"])
AGGREGATES = ("interquartile_mean", "mean_score")

scores = arrays(
    np.float64,
    st.tuples(st.integers(1, 9), st.integers(1, 4)),
    elements=st.floats(0, 1),
)


def strata(matrix):
    """The columns of a matrix, runs x tasks."""
    return list(np.asarray(matrix).T)


def assert_ends_agree(estimate, expected):
    """Up to the Monte-Carlo error of two percentile ends: a fifth of the interval's half-width, and
    one step of the estimate where it takes few values.
    """
    tolerance = max(0.1 * (expected[1] - expected[0]), 1e-9)
    np.testing.assert_allclose([estimate.low, estimate.high], expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", AGGREGATES)
def test_aggregates_and_their_intervals_are_rliables(case, name):
    found = GOLDEN["cases"][case]
    got = stratified_bootstrap(strata(found["x"]), getattr(statistics, name))
    assert got.value == pytest.approx(found["aggregates"][name], abs=1e-12)
    assert_ends_agree(got, found["aggregate_ends"][name])


@pytest.mark.parametrize("case", CASES)
def test_performance_profiles_are_rliables(case):
    found = GOLDEN["cases"][case]
    got = performance_profile(strata(found["x"]), GOLDEN["taus"])
    np.testing.assert_allclose(got.share, found["profile"], atol=1e-12)
    runs = np.asarray(found["x"]).size
    np.testing.assert_allclose([got.low, got.high], found["profile_ends"], atol=1.01 / runs)


@pytest.mark.parametrize("case", CASES)
def test_the_probability_of_improvement_is_rliables(case):
    found = GOLDEN["cases"][case]
    got = probability_of_improvement(strata(found["x"]), strata(found["y"]))
    assert got.value == pytest.approx(found["improvement"], abs=1e-12)
    assert_ends_agree(got, found["improvement_ends"])


@settings(deadline=None, max_examples=60)
@given(scores)
def test_the_interquartile_mean_is_scipys_trimmed_mean_within_the_range(matrix):
    got = interquartile_mean(*strata(matrix))
    assert got == pytest.approx(stats.trim_mean(matrix, 0.25, axis=None))
    assert matrix.min() - 1e-12 <= got <= matrix.max() + 1e-12


@settings(deadline=None, max_examples=60)
@given(scores, st.randoms(use_true_random=False))
def test_aggregates_do_not_depend_on_the_order_of_runs_or_tasks(matrix, random):
    columns = [
        random.sample(list(c), len(c)) for c in random.sample(strata(matrix), matrix.shape[1])
    ]
    for name in AGGREGATES:
        aggregate = getattr(statistics, name)
        assert aggregate(*columns) == pytest.approx(aggregate(*strata(matrix)))


@settings(deadline=None, max_examples=60)
@given(scores)
def test_leading_axes_are_kept(matrix):
    """Many replicates in one call give what each gives alone."""
    stacked = np.stack([matrix, matrix**2])
    for name in AGGREGATES:
        aggregate = getattr(statistics, name)
        together = aggregate(*np.moveaxis(stacked, -1, 0))
        np.testing.assert_allclose(together, [aggregate(*strata(m)) for m in stacked])


def test_tasks_weigh_the_same_whatever_their_number_of_runs():
    assert mean_score([1.0], [0.0, 0.0, 0.0]) == 0.5


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    runs = strata(np.random.default_rng(0).random((10, 3)))
    assert stratified_bootstrap(runs, seed=3) == stratified_bootstrap(runs, seed=3)
    assert stratified_bootstrap(runs, seed=3) != stratified_bootstrap(runs, seed=4)


def test_runs_are_drawn_within_their_task():
    """Tasks differ, runs of a task do not: no replicate can differ from the estimate."""
    got = stratified_bootstrap([[0.125] * 5, [0.875] * 5], mean_score)
    assert (got.value, got.low, got.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_for_one_task_the_interval_is_scipys(method):
    runs = np.random.default_rng(5).gamma(1.0, size=25)
    got = stratified_bootstrap([runs], mean_score, method=method, seed=1)
    expected = stats.bootstrap(
        (runs,),
        np.mean,
        n_resamples=20_000,
        rng=np.random.default_rng(2),
        method={"percentile": "percentile", "bca": "BCa"}[method],
    ).confidence_interval
    assert_ends_agree(got, tuple(expected))


def test_bca_leans_towards_the_long_tail():
    runs = [np.random.default_rng(5).gamma(0.5, size=25)]
    plain = stratified_bootstrap(runs, mean_score)
    corrected = stratified_bootstrap(runs, mean_score, method="bca")
    assert corrected.low > plain.low
    assert corrected.high > plain.high


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_equal_runs_have_an_interval_of_no_width(method):
    got = stratified_bootstrap([[0.5] * 4, [0.25] * 4], mean_score, method=method)
    assert (got.value, got.low, got.high) == (0.375, 0.375, 0.375)


def test_one_run_of_a_task_says_nothing_about_its_spread():
    got = stratified_bootstrap([[0.5], [0.1, 0.2]])
    assert np.isnan([got.low, got.high]).all()
    assert not got.excludes(99.0)


@pytest.mark.parametrize("bad", [[], [[]], [[0.1, np.nan]], [[[0.1]]]])
def test_bad_strata_are_refused(bad):
    with pytest.raises(InputError, match="strata"):
        stratified_bootstrap(bad)


def test_the_interval_of_the_interquartile_mean_covers_it():
    """5 tasks x 20 runs of shifted uniform scores, 400 repetitions: 95 % nominal. The binomial
    standard error is 0.011; percentile intervals of few runs cover a little less than they say.
    """
    rng = np.random.default_rng(0)
    shifts = np.linspace(-0.5, 0.5, 5)
    hits = 0
    for repetition in range(400):
        runs = strata(rng.uniform(-1, 1, (20, 5)) + shifts)
        got = stratified_bootstrap(runs, replicates=500, seed=repetition)
        hits += got.low <= 0.0 <= got.high  # the pooled distribution is symmetric about 0
    assert 0.91 <= hits / 400 <= 0.98
