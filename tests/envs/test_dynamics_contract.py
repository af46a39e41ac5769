"""Rules that every dynamics keeps: purity, exact returns, priors, immutability."""

import copy
import dataclasses
import itertools
import pickle
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import erc_envs

SEEDS = st.integers(0, 2**32 - 1)
DRIFT_BANDITS = st.builds(
    erc_envs.DriftBandit,
    num_prompts=st.integers(1, 9),
    num_actions=st.integers(2, 12),
    num_features=st.integers(2, 9),
    correlation=st.floats(0, 0.95),
    reward_gap=st.floats(0.01, 0.7),
    instance_seed=SEEDS,
)
NULL_REWARDS = st.builds(
    erc_envs.NullReward,
    num_prompts=st.integers(1, 9),
    vocab_size=st.integers(2, 40),
    length=st.integers(1, 9),
    success_probability=st.floats(0, 1),
    instance_seed=SEEDS,
)
TOKEN_FORKS = st.integers(1, 3).flatmap(
    lambda num_forks: st.builds(
        erc_envs.TokenForks,
        num_prompts=st.integers(1, 9),
        vocab_size=st.integers(5, 20),
        length=st.integers(1 + 3 * num_forks, 15),
        num_forks=st.just(num_forks),
        branching=st.integers(2, 4),
        slip=st.floats(0.001, 0.25),
        fork_decay=st.floats(0.1, 1),
        instance_seed=SEEDS,
    )
)
VARIABLE_LENGTHS = st.integers(2, 9).flatmap(
    lambda length: st.builds(
        erc_envs.VariableLength,
        num_prompts=st.integers(1, 9),
        vocab_size=st.integers(4, 20),
        length=st.just(length),
        min_steps=st.just(1),
        max_steps=st.integers(1, length - 1),
        ramble=st.floats(0.001, 0.9),
        accuracy=st.floats(0.01, 0.99),
        instance_seed=SEEDS,
    )
)
ARITHMETICS = st.builds(
    erc_envs.Arithmetic,
    digits=st.integers(1, 2),
    split=st.sampled_from(["train", "test"]),
    test_fraction=st.floats(0.001, 0.999),
    slip=st.floats(0.001, 0.25),
    carry_slip=st.floats(0, 0.499),
    instance_seed=SEEDS,
)
REASONING_GYMS = st.builds(
    erc_envs.ReasoningGym,
    family=st.sampled_from(["chain_sum", "count_bits"]),
    size=st.integers(2, 40),
    split=st.sampled_from(["train", "test"]),
    test_fraction=st.floats(0.001, 0.999),
    slip=st.floats(0.001, 0.5),
    instance_seed=SEEDS,
)
MODE_SWAPS = st.tuples(st.integers(1, 7), st.integers(1, 3)).flatmap(
    lambda sizes: st.builds(
        erc_envs.ModeSwap,
        num_prompts=st.integers(1, 9),
        vocab_size=st.integers(2 * sizes[1] + 1, 12),
        length=st.just(sizes[0]),
        num_swaps=st.integers(1, sizes[0]),
        mode_size=st.just(sizes[1]),
        favoured_mass=st.floats(0.01, 0.24),
        tail_mass=st.floats(0.01, 0.5),
        slip=st.floats(0.001, 0.5),
        agreement=st.floats(0.5, 1),
        instance_seed=SEEDS,
    )
)
REWARD_SHIFTS = st.integers(1, 5).flatmap(
    lambda length: st.builds(
        erc_envs.RewardShift,
        num_prompts=st.integers(1, 9),
        vocab_size=st.integers(5, 12),
        length=st.just(length),
        branching=st.integers(2, 4),
        num_moved=st.integers(1, length),
        slip=st.floats(0.001, 0.25),
        phase=st.integers(0, 1),
        instance_seed=SEEDS,
    )
)
ZIPF_BANDITS = st.builds(
    erc_envs.ZipfBandit,
    num_prompts=st.integers(1, 9),
    num_actions=st.integers(9, 60),
    num_good=st.integers(1, 3),
    num_common=st.integers(1, 3),
    good_probability=st.floats(0.001, 0.9),
    common_reward=st.floats(0, 0.99),
    exponent=st.floats(0.1, 3),
    instance_seed=SEEDS,
)
ANY = st.one_of(
    DRIFT_BANDITS,
    MODE_SWAPS,
    NULL_REWARDS,
    REWARD_SHIFTS,
    TOKEN_FORKS,
    ZIPF_BANDITS,
    VARIABLE_LENGTHS,
    ARITHMETICS,
    *([REASONING_GYMS] if find_spec("reasoning_gym") else []),
)


def arrays_of(dynamics):
    return [value for value in vars(dynamics).values() if isinstance(value, np.ndarray)]


@settings(max_examples=60, deadline=None)
@given(dynamics=ANY, seed=SEEDS)
def test_step_is_pure_and_batched(dynamics, seed):
    """Functions write to no input, accept write-protected ones, and treat rows independently."""
    rng = np.random.default_rng(seed)
    N = 6
    state = dynamics.initial_state(rng.integers(dynamics.num_prompts, size=N))
    for _ in range(dynamics.horizon + 2):  # and on, past the end
        action = rng.integers(dynamics.num_actions, size=N)
        noise = rng.random(N)
        inputs = (state, action, noise)
        before = [array.copy() for array in inputs]
        for array in inputs:
            array.setflags(write=False)
        after, reward, terminated = dynamics.step(*inputs)
        observation, prior = dynamics.observe(state), dynamics.prior(state)
        for array, copied in zip(inputs, before, strict=True):
            np.testing.assert_array_equal(array, copied)
        for new in (after, reward, terminated, observation, prior):
            assert new.flags.writeable
            assert not any(np.shares_memory(new, array) for array in inputs)
        assert (after.dtype, reward.dtype, terminated.dtype) == (np.int64, np.float64, np.bool_)
        space = dynamics.observation_space
        assert (observation.dtype, observation.shape) == (space.dtype, (N, *space.shape))
        for i in range(N):
            row = slice(i, i + 1)
            alone = dynamics.step(state[row], action[row], noise[row])
            for part, whole in zip(alone, (after, reward, terminated), strict=True):
                np.testing.assert_array_equal(part, whole[row])
        state = after


@settings(max_examples=40, deadline=None)
@given(dynamics=ANY, seed=SEEDS)
def test_terminal_states_are_absorbing(dynamics, seed):
    """Episodes last at most `horizon` actions; then nothing changes and nothing is earned."""
    rng = np.random.default_rng(seed)
    N = 4
    state = dynamics.initial_state(rng.integers(dynamics.num_prompts, size=N))
    for _ in range(dynamics.horizon):
        state, _, terminated = dynamics.step(
            state, rng.integers(dynamics.num_actions, size=N), rng.random(N)
        )
    assert terminated.all()
    again, reward, terminated = dynamics.step(
        state, rng.integers(dynamics.num_actions, size=N), np.zeros(N)
    )
    np.testing.assert_array_equal(again, state)
    np.testing.assert_array_equal(reward, 0.0)
    assert terminated.all()
    np.testing.assert_allclose(dynamics.prior(state), 1 / dynamics.num_actions)


@settings(max_examples=60, deadline=None)
@given(dynamics=ANY, seed=SEEDS)
def test_prior_rows_are_distributions(dynamics, seed):
    """Rows of the prior are strictly positive and sum to one, on any path."""
    rng = np.random.default_rng(seed)
    state = dynamics.initial_state(np.arange(dynamics.num_prompts))
    N = len(state)
    for _ in range(dynamics.horizon + 1):
        prior = dynamics.prior(state)
        assert prior.shape == (N, dynamics.num_actions)
        assert (prior > 0).all()
        np.testing.assert_allclose(prior.sum(axis=1), 1.0, rtol=1e-12)
        action = rng.integers(dynamics.num_actions, size=N)
        state, _, _ = dynamics.step(state, action, rng.random(N))


def exact_return(dynamics, policy, prompt):
    """Expected return of a policy by enumerating every action sequence.

    The chance of each reward comes from bisecting the noise: reward is a step function of it.
    """

    def threshold(state, action):
        def earns(noise):
            return dynamics.step(state, np.array([action]), np.array([noise]))[1][0] > 0

        if not earns(0.0):
            return 0.0
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if earns(middle) else (low, middle)
        return high

    def value(state):
        total = 0.0
        for action, probability in enumerate(policy(state)[0]):
            if probability > 0:
                after, _, terminated = dynamics.step(state, np.array([action]), np.array([0.0]))
                future = 0.0 if terminated[0] else value(after)
                total += probability * (threshold(state, action) + future)
        return total

    return value(dynamics.initial_state(np.array([prompt])))


@pytest.mark.parametrize(
    "small",
    [
        erc_envs.DriftBandit(num_prompts=5, num_actions=4, instance_seed=3),
        erc_envs.NullReward(
            num_prompts=2, vocab_size=3, length=3, success_probability=0.3, instance_seed=3
        ),
        erc_envs.TokenForks(
            num_prompts=2, vocab_size=3, length=4, num_forks=1, branching=2, slip=0.2
        ),
        erc_envs.TokenForks(
            num_prompts=1, vocab_size=3, length=7, num_forks=2, branching=2, slip=0.1
        ),
        erc_envs.VariableLength(num_prompts=3, vocab_size=5, length=4, min_steps=1, max_steps=3),
        erc_envs.Arithmetic(digits=1, split="test", test_fraction=0.05),
        erc_envs.ModeSwap(num_prompts=3, vocab_size=5, length=3, mode_size=2, agreement=0.5),
        erc_envs.RewardShift(num_prompts=3, vocab_size=4, length=3, num_moved=2, slip=0.2),
        erc_envs.RewardShift(num_prompts=3, vocab_size=4, length=3, phase=1),
        erc_envs.ZipfBandit(num_prompts=4, num_actions=24, num_good=2, num_common=3),
        *([erc_envs.ReasoningGym("count_bits", 3)] if find_spec("reasoning_gym") else []),
    ],
    ids=lambda dynamics: type(dynamics).__name__,
)
def test_returns_equal_enumeration(small):
    """prior_return and optimal_return are what enumerating every action sequence gives."""

    def scripted(state):
        return np.eye(small.num_actions)[small.optimal_action(state)]

    prompts = range(small.num_prompts)
    prior = np.mean([exact_return(small, small.prior, prompt) for prompt in prompts])
    best = np.mean([exact_return(small, scripted, prompt) for prompt in prompts])
    assert small.prior_return == pytest.approx(prior, abs=1e-9)
    assert small.optimal_return == pytest.approx(best, abs=1e-9)


def test_no_action_sequence_beats_the_optimum():
    """optimal_return is an upper bound over all deterministic action sequences."""
    forks = erc_envs.TokenForks(
        num_prompts=3, vocab_size=3, length=4, num_forks=1, branching=2, instance_seed=1
    )
    sequences = np.array(list(itertools.product(range(3), repeat=4)))
    for prompt in range(3):
        state = forks.initial_state(np.full(len(sequences), prompt))
        for t in range(4):
            state, reward, _ = forks.step(state, sequences[:, t], np.zeros(len(sequences)))
        assert reward.sum() == 1.0, "exactly one answer is right"
    bandit = erc_envs.DriftBandit()
    assert bandit.optimal_return == pytest.approx(
        np.mean([max(means) for means in bandit.reward_means.tolist()])
    )


def test_prior_return_by_simulation(dynamics, roll_out, sample_prior):
    """At the default size the prior's simulated return lies within 4 sigma of prior_return."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(dynamics.num_prompts, size=40_000)
    total, _ = roll_out(dynamics, sample_prior(dynamics, rng), prompts, rng)
    error = total.std() / np.sqrt(len(total))
    assert abs(total.mean() - dynamics.prior_return) < 4 * error


def test_scripted_optimum_attains_optimal_return(dynamics, roll_out):
    """optimal_action earns optimal_return, within 4 sigma where the reward is random."""
    rng = np.random.default_rng(0)
    prompts = rng.integers(dynamics.num_prompts, size=40_000)
    total, _ = roll_out(dynamics, dynamics.optimal_action, prompts, rng)
    error = total.std() / np.sqrt(len(total))
    assert abs(total.mean() - dynamics.optimal_return) <= 4 * error


def test_observation_determines_optimum_and_prior(dynamics, roll_out, sample_prior):
    """States with equal observations have one optimal action and one prior row."""
    rng = np.random.default_rng(1)
    prompts = rng.integers(dynamics.num_prompts, size=3_000)
    _, states = roll_out(dynamics, sample_prior(dynamics, rng), prompts, rng)
    state = np.concatenate(states[:-1])
    observation = dynamics.observe(state)
    _, first, group = np.unique(observation, axis=0, return_index=True, return_inverse=True)
    same = first[group.ravel()]
    np.testing.assert_array_equal(
        dynamics.optimal_action(state), dynamics.optimal_action(state)[same]
    )
    np.testing.assert_array_equal(dynamics.prior(state), dynamics.prior(state)[same])


def test_dynamics_are_immutable(dynamics):
    """Fields cannot be set, and every table is write-protected, also after pickling."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        dynamics.num_prompts = 3
    restored = pickle.loads(pickle.dumps(dynamics))
    assert restored == dynamics
    assert hash(restored) == hash(dynamics)
    assert arrays_of(dynamics)
    for ours, theirs in zip(arrays_of(dynamics), arrays_of(restored), strict=True):
        assert not ours.flags.writeable
        assert not theirs.flags.writeable
        np.testing.assert_array_equal(ours, theirs)
    assert copy.deepcopy(dynamics) is dynamics


def test_instance_seed_draws_the_instance(dynamics):
    """Equal fields give equal instances; another instance_seed gives another one."""
    same = dataclasses.replace(dynamics)
    other = dataclasses.replace(dynamics, instance_seed=1)
    state = dynamics.initial_state(np.arange(dynamics.num_prompts))
    np.testing.assert_array_equal(dynamics.prior(state), same.prior(state))
    assert (dynamics.prior(state) != other.prior(state)).any()
    assert dynamics == same != other


@pytest.mark.parametrize(
    ("cls", "field", "bad"),
    [
        *((erc_envs.DriftBandit, "num_prompts", bad) for bad in (0, -1, 1.5, True, "3")),
        (erc_envs.DriftBandit, "num_actions", 1),
        (erc_envs.DriftBandit, "num_features", 1),
        (erc_envs.DriftBandit, "instance_seed", -1),
        *((erc_envs.DriftBandit, "correlation", bad) for bad in (-0.1, 1.0, float("nan"), "1")),
        *((erc_envs.DriftBandit, "reward_gap", bad) for bad in (0.0, 0.71, float("inf"))),
        (erc_envs.NullReward, "num_prompts", 0),
        (erc_envs.NullReward, "vocab_size", 1),
        (erc_envs.NullReward, "length", 0),
        *((erc_envs.NullReward, "success_probability", bad) for bad in (-0.1, 1.1, None)),
        (erc_envs.TokenForks, "num_prompts", 0),
        (erc_envs.TokenForks, "vocab_size", 4),
        (erc_envs.TokenForks, "length", 9),
        (erc_envs.TokenForks, "num_forks", 0),
        (erc_envs.TokenForks, "branching", 1),
        *((erc_envs.TokenForks, "slip", bad) for bad in (0.0, 0.3)),
        *((erc_envs.TokenForks, "fork_decay", bad) for bad in (0.0, 1.1)),
        (erc_envs.VariableLength, "num_prompts", 0),
        (erc_envs.VariableLength, "vocab_size", 3),
        (erc_envs.VariableLength, "length", 1),
        *((erc_envs.VariableLength, "max_steps", bad) for bad in (0, 12)),
        *((erc_envs.VariableLength, "min_steps", bad) for bad in (0, 7)),
        *((erc_envs.VariableLength, "ramble", bad) for bad in (0.0, 0.91)),
        *((erc_envs.VariableLength, "accuracy", bad) for bad in (0.0, 1.0)),
        (erc_envs.ReasoningGym, "family", "sudoku"),
        *((erc_envs.ReasoningGym, "size", bad) for bad in (1, 2.5)),
        *((erc_envs.ReasoningGym, "split", bad) for bad in ("dev", None)),
        *((erc_envs.ReasoningGym, "test_fraction", bad) for bad in (0.0, 1.0)),
        *((erc_envs.ReasoningGym, "slip", bad) for bad in (0.0, 0.6)),
        (erc_envs.ReasoningGym, "instance_seed", -1),
        *((erc_envs.Arithmetic, "digits", bad) for bad in (0, 4)),
        *((erc_envs.Arithmetic, "split", bad) for bad in ("dev", None)),
        *((erc_envs.Arithmetic, "test_fraction", bad) for bad in (0.0, 1.0)),
        *((erc_envs.Arithmetic, "slip", bad) for bad in (0.0, 0.3)),
        *((erc_envs.Arithmetic, "carry_slip", bad) for bad in (-0.1, 0.5)),
        (erc_envs.ModeSwap, "num_prompts", 0),
        (erc_envs.ModeSwap, "length", 0),
        *((erc_envs.ModeSwap, "num_swaps", bad) for bad in (0, 7)),
        (erc_envs.ModeSwap, "mode_size", 0),
        (erc_envs.ModeSwap, "vocab_size", 8),
        *((erc_envs.ModeSwap, "favoured_mass", bad) for bad in (0.0, 0.45)),
        *((erc_envs.ModeSwap, "tail_mass", bad) for bad in (0.0, 0.6)),
        *((erc_envs.ModeSwap, "slip", bad) for bad in (0.0, 0.6)),
        *((erc_envs.ModeSwap, "agreement", bad) for bad in (0.4, 1.1)),
        (erc_envs.RewardShift, "num_prompts", 0),
        (erc_envs.RewardShift, "length", 0),
        (erc_envs.RewardShift, "branching", 1),
        (erc_envs.RewardShift, "vocab_size", 2),
        *((erc_envs.RewardShift, "num_moved", bad) for bad in (0, 3)),
        *((erc_envs.RewardShift, "slip", bad) for bad in (0.0, 0.3)),
        *((erc_envs.RewardShift, "phase", bad) for bad in (-1, 2, True)),
        (erc_envs.ZipfBandit, "num_prompts", 0),
        (erc_envs.ZipfBandit, "num_actions", 11),
        (erc_envs.ZipfBandit, "num_good", 0),
        (erc_envs.ZipfBandit, "num_common", 0),
        *((erc_envs.ZipfBandit, "good_probability", bad) for bad in (0.0, 1.0)),
        *((erc_envs.ZipfBandit, "common_reward", bad) for bad in (-0.1, 1.0)),
        *((erc_envs.ZipfBandit, "exponent", bad) for bad in (0.0, 3.1)),
    ],
)
def test_bad_fields(cls, field, bad):
    """A field outside its range gives a ValueError naming the field and the value."""
    with pytest.raises(ValueError, match=rf"^{field} must be .*got {bad!r}$"):
        cls(**{field: bad})
