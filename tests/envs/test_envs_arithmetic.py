"""Arithmetic: splits, sums, the layout of the context, and the imperfect prior."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import erc_envs

PLUS, EQUALS, END = 10, 11, 12
SIZES = {"digits": st.integers(1, 2), "test_fraction": st.floats(0.01, 0.99)}


def play(sums, prompt, tokens):
    """Reward and number of steps of a fixed token sequence."""
    state = sums.initial_state(np.array([prompt]))
    for t, token in enumerate(tokens):
        state, reward, terminated = sums.step(state, np.array([token]), np.zeros(1))
        if terminated[0]:
            return float(reward[0]), t + 1
    raise AssertionError("did not end")


def tokens_of(text):
    return ["0123456789+=.".index(symbol) for symbol in text]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), **SIZES)
def test_splits_are_disjoint_and_complete(digits, test_fraction, seed):
    """Every pair is in one split, with its mirror image; sizes do not depend on the seed."""
    train = erc_envs.Arithmetic(digits=digits, test_fraction=test_fraction, instance_seed=seed)
    test = train.held_out()
    pairs = [set(map(tuple, sums.operands.tolist())) for sums in (train, test)]
    N = 10**digits
    assert pairs[0].isdisjoint(pairs[1])
    assert pairs[0] | pairs[1] == {(a, b) for a in range(N) for b in range(N)}
    assert all({(b, a) for a, b in side} == side for side in pairs)
    assert all(pairs)
    other = erc_envs.Arithmetic(digits=digits, test_fraction=test_fraction)
    assert (other.num_prompts, test.num_prompts) == (train.num_prompts, len(pairs[1]))
    assert test.num_prompts == pytest.approx(test_fraction * N**2, abs=2 + N)


def test_held_out_is_the_test_split_of_the_same_instance():
    """held_out changes the split alone; holding out the test split changes nothing."""
    sums = erc_envs.Arithmetic(instance_seed=3, slip=0.05)
    test = sums.held_out()
    assert test == erc_envs.Arithmetic(instance_seed=3, slip=0.05, split="test")
    assert test.held_out() == test
    assert erc_envs.TokenForks().held_out() == erc_envs.TokenForks()


def test_another_instance_holds_out_other_pairs():
    """The seed draws the split."""
    tests = [erc_envs.Arithmetic(split="test", instance_seed=seed).operands for seed in (0, 1)]
    assert (tests[0] != tests[1]).any(axis=1).mean() > 0.5


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("digits", [1, 2])
def test_the_right_answer_is_the_sum_as_python_writes_it(digits, split):
    """For every prompt, str(a + b) and the end earn 1; optimal_action writes exactly these."""
    sums = erc_envs.Arithmetic(digits=digits, split=split)
    texts = [f"{a + b}." for a, b in sums.operands.tolist()]
    assert {len(text) for text in texts} <= set(range(2, digits + 3))
    state = sums.initial_state(np.arange(sums.num_prompts))
    reward = np.zeros(sums.num_prompts)
    for t in range(sums.horizon):
        said = np.array([tokens_of(text[t])[0] if t < len(text) else END for text in texts])
        action = sums.optimal_action(state)
        np.testing.assert_array_equal(action, said)
        state, earned, terminated = sums.step(state, said, np.zeros(len(texts)))
        reward += earned
        np.testing.assert_array_equal(terminated, [t + 1 >= len(text) for text in texts])
    np.testing.assert_array_equal(reward, 1.0)


def test_other_answers_earn_nothing():
    """Leading zeros, missing or extra digits, another digit, no end, or stray symbols: 0."""
    sums = erc_envs.Arithmetic()
    prompt = next(i for i, pair in enumerate(sums.operands.tolist()) if sum(pair) == 47)
    assert play(sums, prompt, tokens_of("47.")) == (1.0, 3)
    for text in ("047.", "4.", "7.", ".", "48.", "74.", "470.", "47+.", "4747", "47=="):
        assert play(sums, prompt, tokens_of(text)) == (0.0, len(text))
    long = next(i for i, pair in enumerate(sums.operands.tolist()) if sum(pair) == 147)
    assert play(sums, long, tokens_of("147.")) == (1.0, 4)
    assert play(sums, long, tokens_of("1470")) == (0.0, 4)


@settings(max_examples=30, deadline=None)
@given(digits=st.integers(1, 2), seed=st.integers(0, 2**32 - 1))
def test_observation_is_the_context(digits, seed):
    """Columns are tokens + 1: the zero-padded question, then the actions, then 0."""
    sums = erc_envs.Arithmetic(digits=digits)
    rng = np.random.default_rng(seed)
    prompt = rng.integers(sums.num_prompts, size=8)
    state = sums.initial_state(prompt)
    written = [[] for _ in prompt]
    running = np.ones(8, dtype=bool)
    assert sums.prompt_tokens == 2 * digits + 2
    assert sums.num_actions == 13
    columns = sums.prompt_tokens + sums.horizon
    np.testing.assert_array_equal(sums.observation_space.nvec, [14] * columns)
    for _ in range(sums.horizon + 1):
        for row, x, response in zip(sums.observe(state), prompt, written, strict=True):
            a, b = sums.operands[x]
            question = tokens_of(f"{a:0{digits}d}+{b:0{digits}d}=")
            context = [token + 1 for token in question + response]
            np.testing.assert_array_equal(row, context + [0] * (columns - len(context)))
        action = rng.integers(13, size=8)
        for i in np.flatnonzero(running):
            written[i].append(int(action[i]))
        state, _, terminated = sums.step(state, action, np.zeros(8))
        running &= ~terminated


def prior_along(sums, a, b, text):
    """The prior's rows before each token of a response."""
    prompt = sums.operands.tolist().index([a, b])
    state, rows = sums.initial_state(np.array([prompt])), []
    for token in tokens_of(text):
        rows.append(sums.prior(state)[0])
        state, _, _ = sums.step(state, np.array([token]), np.zeros(1))
    return np.array(rows)


def find(sums, predicate):
    return next((a, b) for a, b in sums.operands.tolist() if predicate(a, b))


def test_prior_forgets_and_imagines_carries():
    """A carry is forgotten with carry_slip, imagined with a quarter of it, but never at the ones."""
    sums = erc_envs.Arithmetic(slip=1e-9, carry_slip=0.4)
    a, b = find(sums, lambda a, b: a // 10 + b // 10 == 5 and a % 10 + b % 10 == 12)
    rows = prior_along(sums, a, b, "62.")
    np.testing.assert_allclose(rows[0, [6, 5]], [0.6, 0.4], atol=1e-8)
    np.testing.assert_allclose(rows[1, 2], 1, atol=1e-8)
    np.testing.assert_allclose(rows[2, END], 1, atol=1e-8)
    a, b = find(sums, lambda a, b: a // 10 + b // 10 == 5 and a % 10 + b % 10 == 7)
    np.testing.assert_allclose(prior_along(sums, a, b, "57.")[0, [5, 6]], [0.9, 0.1], atol=1e-8)
    a, b = find(sums, lambda a, b: a // 10 + b // 10 == 12 and a % 10 + b % 10 == 7)
    rows = prior_along(sums, a, b, "127.")
    np.testing.assert_allclose(rows[0, [1, 0]], [0.6, 0.4], atol=1e-8)
    np.testing.assert_allclose(rows[1, [2, 3]], [0.9, 0.1], atol=1e-8)


def test_prior_slips_by_one():
    """Digits slip by one either way alike, by each fact its own, from slip/100 to 2 slip."""
    sums = erc_envs.Arithmetic(slip=0.1, carry_slip=0.0)
    slips = {}
    for a, b in sums.operands.tolist():
        if a < 10 and b < 10 and a + b < 10:
            row = prior_along(sums, a, b, f"{a + b}")[0]
            low, high = row[(a + b - 1) % 10], row[(a + b + 1) % 10]
            assert low == pytest.approx(high, rel=1e-12)
            slips[a, b] = 1 - row[a + b]
    assert len(slips) > 30
    floor = 0.001 * 12 / 13
    assert min(slips.values()) > 0.001
    assert max(slips.values()) < 0.2 + floor
    assert max(slips.values()) / min(slips.values()) > 20


def test_prior_goes_on_after_a_wrong_token():
    """A wrong token changes nothing in what the prior writes next, until the end."""
    sums = erc_envs.Arithmetic()
    a, b = find(sums, lambda a, b: a + b == 146)
    right, wrong = (prior_along(sums, a, b, text) for text in ("146.", "0=+3"))
    np.testing.assert_array_equal(right, wrong)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("split", ["train", "test"])
def test_prior_return_leaves_room(seed, split):
    """The warm start is right on 45 to 65 % of the prompts of either split."""
    sums = erc_envs.Arithmetic(instance_seed=seed, split=split)
    assert 0.45 <= sums.prior_return <= 0.65
