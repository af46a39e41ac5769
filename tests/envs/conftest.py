"""The registry that every environment test runs over."""

import gymnasium as gym
import numpy as np
import pytest

import erc_envs

IDS = sorted(spec_id for spec_id in gym.registry if spec_id.startswith("erc/"))
DYNAMICS = {
    "erc/Arithmetic-v0": erc_envs.Arithmetic,
    "erc/DriftBandit-v0": erc_envs.DriftBandit,
    "erc/NullReward-v0": erc_envs.NullReward,
    "erc/TokenForks-v0": erc_envs.TokenForks,
    "erc/VariableLength-v0": erc_envs.VariableLength,
}


@pytest.fixture(params=IDS)
def env_id(request):
    return request.param


@pytest.fixture
def dynamics(env_id):
    return DYNAMICS[env_id]()


@pytest.fixture
def roll_out():
    """Simulate N episodes by a policy state -> actions; returns total rewards and all states."""

    def simulate(dynamics, policy, prompts, rng):
        state = dynamics.initial_state(prompts)
        states, total = [state], np.zeros(len(prompts))
        for _ in range(dynamics.horizon):
            state, reward, terminated = dynamics.step(
                state, policy(state), rng.random(len(prompts))
            )
            total += reward
            states.append(state)
        assert terminated.all()
        return total, states

    return simulate


@pytest.fixture
def sample_prior():
    """A policy that samples from the prior."""

    def make(dynamics, rng):
        def policy(state):
            cumulative = dynamics.prior(state).cumsum(axis=1)
            draws = rng.random((len(state), 1)) * cumulative[:, -1:]
            return (cumulative > draws).argmax(axis=1)

        return policy

    return make
