"""The registry that every environment test runs over."""

import gymnasium as gym
import numpy as np
import pytest
from extras import marked

import erc_envs

IDS = sorted(spec_id for spec_id in gym.registry if spec_id.startswith("erc/"))
DYNAMICS = {spec_id: getattr(erc_envs, gym.spec(spec_id).name) for spec_id in IDS}
BLOCK = 2**22  # probabilities held at once: at 1024 actions, 40,000 rows of them would be 328 MB


@pytest.fixture(params=marked(IDS))
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
            draws = rng.random((len(state), 1))
            parts = np.array_split(np.arange(len(state)), 1 + draws.size * V // BLOCK)
            return np.concatenate([choose(state[part], draws[part]) for part in parts])

        def choose(state, draws):
            cumulative = dynamics.prior(state).cumsum(axis=1)
            return (cumulative > draws * cumulative[:, -1:]).argmax(axis=1)

        V = dynamics.num_actions

        return policy

    return make
