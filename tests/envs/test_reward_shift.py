"""RewardShift's own promises: what moves, when, and what stays."""

import numpy as np
import pytest

import erc_envs


def answers(task):
    """The right tokens (P, L), read off the optimal policy."""
    state = task.initial_state(np.arange(task.num_prompts))
    columns = []
    for _ in range(task.horizon):
        columns.append(task.optimal_action(state))
        state, reward, _ = task.step(state, columns[-1], np.zeros(len(state)))
    np.testing.assert_array_equal(reward, 1.0)
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_moved", [1, 2, 4])
def test_answers_move_at_num_moved_positions(seed, num_moved):
    """The phases' answers of every prompt differ at exactly num_moved positions."""
    task = erc_envs.RewardShift(length=4, num_moved=num_moved, instance_seed=seed)
    before, after = answers(task), answers(task.at(1.0))
    np.testing.assert_array_equal((before != after).sum(axis=1), num_moved)


def test_old_answers_earn_nothing_after_the_shift():
    """What earned 1 in phase 0 earns 0 in phase 1, for every prompt."""
    task = erc_envs.RewardShift()
    late = task.at(0.5)
    state = task.initial_state(np.arange(16))
    for t in range(task.horizon):
        state, reward, _ = late.step(state, answers(task)[:, t], np.zeros(16))
    np.testing.assert_array_equal(reward, 0.0)


@pytest.mark.parametrize("slip", [0.01, 0.25])
def test_prior_supports_both_phases_alike(slip):
    """Every right token of either phase has the prior probability (1 - slip) / branching."""
    task = erc_envs.RewardShift(length=3, num_moved=2, branching=4, slip=slip)
    for phase in (task, task.at(1.0)):
        state = phase.initial_state(np.arange(16))
        for column in answers(phase).T:
            chosen = np.take_along_axis(task.prior(state), column[:, None], axis=1)
            np.testing.assert_allclose(chosen, (1 - slip) / 4)
            state, _, _ = phase.step(state, column, np.zeros(16))
    assert task.prior_return == task.at(1.0).prior_return


def test_shift_comes_at_half():
    """Phase 0 strictly before one half, phase 1 from one half on, whatever phase was set."""
    for start in (erc_envs.RewardShift(), erc_envs.RewardShift(phase=1)):
        assert [start.at(p).phase for p in (0, 0.25, np.nextafter(0.5, 0), 0.5, 0.75, 1)] == [
            0,
            0,
            0,
            1,
            1,
            1,
        ]
        assert start.at(start.phase) is start


def test_nothing_tells_the_phase():
    """Observations and priors are the same in both phases, along any actions."""
    task = erc_envs.RewardShift(length=5)
    late = task.at(1.0)
    rng = np.random.default_rng(0)
    state = task.initial_state(rng.integers(16, size=200))
    twin = state.copy()
    for _ in range(5):
        action, noise = rng.integers(16, size=200), np.zeros(200)
        np.testing.assert_array_equal(task.observe(state), late.observe(twin))
        np.testing.assert_array_equal(task.prior(state), late.prior(twin))
        state, twin = task.step(state, action, noise)[0], late.step(twin, action, noise)[0]
    np.testing.assert_array_equal(task.observe(state), late.observe(twin))


def test_answers_are_drawn_uniformly():
    """Over many prompts each plausible token is right equally often, in both phases."""
    task = erc_envs.RewardShift(num_prompts=3000, length=2, branching=3)
    for phase in (task, task.at(1.0)):
        for column in answers(phase).T:
            tokens, counts = np.unique(column, return_counts=True)
            assert len(tokens) == 3
            assert (np.abs(counts - 1000) < 4 * np.sqrt(3000 * 2 / 9)).all()
