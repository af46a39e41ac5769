"""What `at` and `held_out` promise of every dynamics, and how Gymnasium users reach `at`."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import SyncVectorEnv

import erc_envs

POINTS = (0, 0.0, 0.25, 0.5, np.float32(0.75), 1.0, 1)


def shape_of(dynamics):
    return (
        dynamics.observation_space,
        dynamics.num_prompts,
        dynamics.num_actions,
        dynamics.horizon,
        dynamics.stochastic,
    )


def test_at_keeps_what_a_policy_was_built_for(dynamics):
    """Every stage has the same class, spaces, prompts and horizon, and so the same prior rows."""
    assert dynamics.at(0.0) == dynamics, "training starts from the configured task"
    state = dynamics.initial_state(np.arange(dynamics.num_prompts))
    for progress in POINTS:
        stage = dynamics.at(progress)
        assert type(stage) is type(dynamics)
        assert shape_of(stage) == shape_of(dynamics)
        np.testing.assert_array_equal(stage.prior(state), dynamics.prior(state))
        assert pickle.loads(pickle.dumps(stage)) == stage


def test_at_forgets(dynamics):
    """d.at(p).at(q) equals d.at(q): a stage depends on the progress alone."""
    for first in POINTS:
        for second in POINTS:
            assert dynamics.at(first).at(second) == dynamics.at(second)


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None, True])
def test_bad_progress(dynamics, progress):
    """A progress outside [0, 1] gives a ValueError that says so."""
    with pytest.raises(
        ValueError, match=rf"^progress must be a number in \[0, 1\], got {progress!r}$"
    ):
        dynamics.at(progress)


def test_defaults_return_the_task_itself():
    """Where nothing changes, `at` and `held_out` build nothing."""
    for dynamics in (erc_envs.DriftBandit(), erc_envs.TokenForks(), erc_envs.NullReward()):
        assert all(dynamics.at(progress) is dynamics for progress in POINTS)
        assert dynamics.held_out() is dynamics


def test_held_out_fits_the_policy(dynamics):
    """The evaluation task has the same spaces and horizon, and is its own held-out task."""
    held_out = dynamics.held_out()
    assert held_out.observation_space == dynamics.observation_space
    assert (held_out.num_actions, held_out.horizon) == (dynamics.num_actions, dynamics.horizon)
    assert held_out.held_out() == held_out
    assert held_out.prior_return <= held_out.optimal_return


def stages(env_id):
    env = gym.make(env_id).unwrapped
    native = gym.make_vec(env_id, 3, vectorization_mode="vector_entry_point")
    return env, native, SyncVectorEnv([lambda: gym.make(env_id)] * 3)


def test_progress_option(env_id):
    """options["progress"] goes to that stage, which later resets and autoresets keep."""
    env, native, sync = stages(env_id)
    start = env.dynamics
    for progress in (0.0, 0.8, 0.2):
        options = {"progress": progress}
        env.reset(seed=1, options=options)
        assert env.dynamics == native.dynamics.at(progress) == start.at(progress)
        env.reset()
        assert env.dynamics == start.at(progress)
        first = native.reset(seed=1, options=options), sync.reset(seed=1, options=options)
        assert data_equivalence(*first, exact=True)
        for _ in range(60):
            actions = native.dynamics.optimal_action(native._state)
            assert data_equivalence(native.step(actions), sync.step(actions), exact=True)
        assert native.dynamics == start.at(progress)
        assert native.optimal_return == start.at(progress).optimal_return


@pytest.mark.parametrize("bad", [-1, 2.0, "late", None, [0.5]])
def test_bad_progress_option(env_id, bad):
    """A bad progress gives a ValueError naming the option, and leaves the episode alone."""
    for env in stages(env_id)[:2]:
        env.reset(seed=0, options={"progress": 0.0})
        before = pickle.dumps(env)
        with pytest.raises(ValueError, match=r"options\['progress'\].*\[0, 1\], got") as caught:
            env.reset(seed=1, options={"progress": bad, "prompt": 0})
        assert repr(bad) in str(caught.value)
        with pytest.raises(ValueError, match=r"options\['prompt'\]"):
            env.reset(seed=1, options={"progress": 1.0, "prompt": -1})
        assert pickle.dumps(env) == before


def test_option_names(env_id):
    """An unknown option's message names both known ones."""
    for env in stages(env_id)[:2]:
        with pytest.raises(ValueError, match=r"'phase'.*'prompt', 'progress'"):
            env.reset(options={"phase": 1})
