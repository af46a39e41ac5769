import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_bench.training.streams import Purpose, orders, stream, uniforms

index = st.integers(0, 2**31)
place = st.tuples(index, index, st.sampled_from(Purpose), st.lists(index, max_size=2).map(tuple))


def draw(at):
    seed, run, purpose, position = at
    return stream(seed, run, purpose, *position).random(8)


@settings(max_examples=50)
@given(place, place)
def test_equal_places_equal_numbers_and_different_places_different(a, b):
    """A stream is a function of (seed, index, purpose, position), and of all four."""
    np.testing.assert_array_equal(draw(a), draw(a))
    assert (draw(a) == draw(b)).all() == (a == b)


def test_each_coordinate_alone_changes_the_numbers():
    """Neighbours in any one coordinate share nothing, nor do (1, 0) and (0, 1)."""
    base = (0, 0, Purpose.ROLLOUT, (0, 0))
    others = [
        (1, 0, Purpose.ROLLOUT, (0, 0)),
        (0, 1, Purpose.ROLLOUT, (0, 0)),
        (0, 0, Purpose.EVALUATION, (0, 0)),
        (0, 0, Purpose.ROLLOUT, (1, 0)),
        (0, 0, Purpose.ROLLOUT, (0, 1)),
        (0, 0, Purpose.ROLLOUT, (0,)),
    ]
    drawn = np.concatenate([draw(at) for at in [base, *others]])
    assert len(np.unique(drawn)) == len(drawn)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_uniforms_rows_follow_the_index_not_the_place(indices):
    """Row r is index r's own numbers, whoever else is asked for; equal indices, equal rows."""
    rows = uniforms(3, indices, Purpose.ROLLOUT, 1, 2, shape=(2, 5))
    assert rows.shape == (len(indices), 2, 5)
    assert rows.dtype == np.float32
    assert ((rows >= 0) & (rows < 1)).all()
    for row, run in zip(rows, indices, strict=True):
        alone = uniforms(3, [run], Purpose.ROLLOUT, 1, 2, shape=(2, 5))
        np.testing.assert_array_equal(row, alone[0])


def test_uniforms_are_uniform():
    """Mean and variance of many draws over seeds and indices, within five standard errors."""
    x = np.concatenate([uniforms(s, range(20), Purpose.ROLLOUT, s, shape=(50,)) for s in range(50)])
    assert abs(x.mean() - 0.5) < 5 / np.sqrt(12 * x.size)
    assert abs(x.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / x.size)
    assert abs(np.corrcoef(x[:, 0], x[:, 1])[0, 1]) < 5 / np.sqrt(len(x))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 2**31))
def test_orders_number_the_unmasked_places_by_their_random_numbers(indices, seed):
    """Each run's by its own numbers; what is masked comes last."""
    mask = np.random.default_rng(seed).random((len(indices), 3, 7)) < 0.7
    found = orders(seed, indices, Purpose.ORDER, 2, mask=mask)
    drawn = uniforms(seed, indices, Purpose.ORDER, 2, shape=(3, 7))
    for key, m, numbers in zip(
        drawn.reshape(-1, 7), mask.reshape(-1, 7), found.reshape(-1, 7), strict=True
    ):
        assert numbers[m][key[m].argsort(kind="stable")].tolist() == list(range(int(m.sum())))
        assert sorted(numbers.tolist()) == list(range(7))
