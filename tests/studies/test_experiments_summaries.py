"""One number per run for every metric."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from erc_bench.studies.summaries import COUNTERS, summaries

NAME = "grad/norm"


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float64, st.tuples(st.integers(2, 9), st.integers(1, 4)), elements=st.floats(-1e3, 1e3)
    )
)
def test_means_and_spreads_are_numpys(x):
    """They are taken over each run's updates; the squared jitter is half the mean squared step."""
    found = summaries({NAME: x})
    np.testing.assert_allclose(found[f"mean/{NAME}"], x.mean(0), atol=1e-9)
    np.testing.assert_allclose(found[f"std/{NAME}"], x.std(0, ddof=1), atol=1e-9)
    expected = np.sqrt((np.diff(x, axis=0) ** 2).mean(0) / 2)
    np.testing.assert_allclose(found[f"jitter/{NAME}"], expected, atol=1e-9)


def test_jitter_is_blind_to_a_trend_and_equals_the_spread_without_one():
    """A line has jitter slope / sqrt 2, and independent values have a jitter near their std."""
    line = summaries({NAME: np.arange(1000.0)[:, None] * 0.01})
    assert line[f"jitter/{NAME}"] == pytest.approx(0.01 / np.sqrt(2))
    assert line[f"std/{NAME}"] > 2
    noise = summaries({NAME: np.random.default_rng(0).normal(size=(100_000, 1))})
    assert noise[f"jitter/{NAME}"] == pytest.approx(noise[f"std/{NAME}"][0], rel=0.02)


def test_what_is_not_finite_is_left_out_and_its_neighbours_steps_too():
    """A run that diverged counts up to that point, and a run without any value has NaN."""
    x = np.array([[1.0, np.nan], [3.0, np.inf], [np.nan, np.nan], [9.0, np.nan]])
    found = summaries({NAME: x})
    assert found[f"mean/{NAME}"][0] == pytest.approx(13 / 3)
    assert found[f"jitter/{NAME}"][0] == pytest.approx(np.sqrt(4 / 2))
    assert all(np.isnan(value[1]) for value in found.values())


def grouped(x, updates):
    """Metrics of runs with so many updates per rollout."""
    rollout = np.arange(len(x)) // updates
    return {"rollout": np.broadcast_to(rollout[:, None], x.shape)}


def test_steadiness_per_rollout_is_that_of_the_rollouts_means():
    """A saw-tooth that every rollout repeats is in the jitter per update and not in that per rollout."""
    x = np.random.default_rng(0).normal(size=(24, 3))
    found = summaries({NAME: x} | grouped(x, 4))
    means = x.reshape(6, 4, 3).mean(1)
    np.testing.assert_allclose(found[f"std/rollout/{NAME}"], means.std(0, ddof=1))
    expected = np.sqrt((np.diff(means, axis=0) ** 2).mean(0) / 2)
    np.testing.assert_allclose(found[f"jitter/rollout/{NAME}"], expected)
    saw = np.tile([1.0, 2.0, 3.0, 4.0], 6)[:, None]
    found = summaries({NAME: saw} | grouped(saw, 4))
    assert found[f"jitter/rollout/{NAME}"] == 0
    assert found[f"jitter/{NAME}"] > 1


def collapse(returns, updates=2, diverged=False):
    """The flag and the best of one run with these returns, one for each rollout."""
    x = np.repeat(np.asarray(returns, dtype=float), updates)[:, None]
    rows = {"reward/mean": x, "diverged": np.isnan(x) | diverged} | grouped(x, updates)
    found = summaries(rows)
    return found["reward/collapsed"][0], found["reward/best"][0]


def test_a_run_collapses_if_it_ends_below_70_percent_of_its_best():
    """Both are means of a tenth of the rollouts, so that one good rollout among twenty is no best."""
    rising = np.linspace(0.1, 1, 20)
    assert collapse(rising) == (0, pytest.approx(rising[-2:].mean()))
    fallen = np.concatenate([rising, np.linspace(1, 0.6, 20)])
    assert collapse(fallen) == (1, pytest.approx(np.sort(fallen)[-4:].mean()))
    assert collapse([0.5] * 18 + [0.36, 0.36])[0] == 0
    assert collapse([0.5] * 18 + [0.34, 0.34])[0] == 1
    spike = [0.5] * 40
    spike[10] = 1.0  # the best four in a row have a mean of 0.625
    assert collapse(spike) == (0, pytest.approx(0.625))


def test_a_diverged_run_has_collapsed_and_a_best_below_zero_tells_nothing():
    """It keeps the best of before."""
    assert collapse([0.2, 0.9, 0.5, np.nan]) == (1, 0.9)
    assert np.isnan(collapse([-1.0, -0.5, -2.0])[0])
    assert collapse([np.nan, np.nan])[0] == 1


def test_counters_have_no_mean():
    """Counters are left out, and metrics outside ``STEADINESS`` have a mean only."""
    rows = {name: np.ones((3, 2)) for name in (*COUNTERS, "drift/tv")}
    assert set(summaries(rows)) == {"mean/drift/tv"}
