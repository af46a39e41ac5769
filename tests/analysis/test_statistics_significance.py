import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from erc_bench.analysis.statistics import (
    holm,
    pass_at_k,
    sign_flip_test,
)
from erc_bench.core.errors import InputError

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-9, 9).map(float), min_size=1, max_size=8))
def test_the_sign_flip_test_counts_every_pattern(differences):
    patterns = itertools.product([-1, 1], repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(p, differences, strict=True))) for p in patterns]
    expected = np.mean([s >= abs(sum(differences)) for s in sums])
    assert sign_flip_test(differences) == pytest.approx(expected)


def test_the_sign_flip_test_is_scipys_permutation_test():
    d = np.random.default_rng(3).normal(0.4, 1, 12)
    expected = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf
    ).pvalue
    assert sign_flip_test(d) == pytest.approx(expected)


def test_drawn_patterns_agree_with_the_normal_limit_and_never_give_zero():
    d = np.random.default_rng(0).normal(0.2, 1, 200)
    z = abs(d.sum()) / np.sqrt((d**2).sum())
    assert sign_flip_test(d) == pytest.approx(2 * stats.norm.sf(z), abs=0.02)
    assert sign_flip_test(np.ones(50)) == 1 / 20_001


def test_order_does_not_matter_to_a_sign_flip_where_sums_round():
    d = np.array([0.1, 0.2, 0.3, -0.6, 0.7])
    assert len({sign_flip_test(np.array(p)) for p in itertools.permutations(d)}) == 1


@pytest.mark.parametrize("bad", [[], [math.nan, 1.0], [[1.0]]])
def test_differences_must_be_numbers(bad):
    with pytest.raises(InputError, match="differences"):
        sign_flip_test(bad)


@settings(deadline=None, max_examples=60)
@given(p_values)
def test_holm_is_never_below_and_keeps_the_order(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-15).all()  # Bonferroni is coarser
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


@settings(deadline=None, max_examples=60)
@given(p_values, st.floats(0.01, 0.5))
def test_holm_rejects_what_stepping_down_rejects(p, alpha):
    """The procedure as Holm states it: go on while the smallest p left is at most alpha / left."""
    rejected = np.zeros(len(p), bool)
    for step, i in enumerate(np.argsort(p, kind="stable")):
        if p[i] * (len(p) - step) > alpha:
            break
        rejected[i] = True
    assert ((holm(p) <= alpha) == rejected).all()


def test_a_worked_example_of_holms_correction():
    """As statsmodels 0.15 ``multipletests`` gives it."""
    p = [0.01, 0.005, 0.03, 0.04, 0.5]
    np.testing.assert_allclose(holm(p), [0.04, 0.025, 0.09, 0.09, 0.5])


def test_p_values_must_be_probabilities():
    assert holm([]).size == 0
    for bad in ([1.2], [math.nan], [[0.1]]):
        with pytest.raises(InputError, match="p-values"):
            holm(bad)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))
)
def test_pass_at_k_counts_the_draws_that_hold_a_correct_answer(drawn):
    n, c, k = drawn
    draws = list(itertools.combinations(range(n), k))
    expected = Fraction(sum(min(draw) < c for draw in draws), len(draws))
    assert pass_at_k(c, n, k) == pytest.approx(float(expected))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_pass_at_k_is_unbiased(k):
    """Its expectation over binomial counts is the chance of one success in k: exact sum."""
    n, p = 8, 0.3
    c = np.arange(n + 1)
    expected = (stats.binom.pmf(c, n, p) * pass_at_k(c, n, k)).sum()
    assert expected == pytest.approx(1 - (1 - p) ** k)
