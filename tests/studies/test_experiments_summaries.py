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


def test_counters_have_no_mean():
    """Counters are left out, and metrics outside ``STEADINESS`` have a mean only."""
    rows = {name: np.ones((3, 2)) for name in (*COUNTERS, "drift/tv")}
    assert set(summaries(rows)) == {"mean/drift/tv"}
