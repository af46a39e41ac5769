"""Rules that every registered environment keeps as a Gymnasium environment."""

import copy
import itertools
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import erc_envs


def make_vec(env_id, num_envs, **kwargs):
    return gym.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point", **kwargs)


def make_sync(env_id, num_envs, **kwargs):
    return SyncVectorEnv([lambda: gym.make(env_id, **kwargs)] * num_envs)


def assert_same(left, right):
    assert data_equivalence(left, right, exact=True), f"{left}\n!=\n{right}"


# Where the prompts follow from other fields, those fields.
FEWER_PROMPTS = {"erc/Arithmetic-v0": {"digits": 1}, "erc/ReasoningGym-v0": {"size": 9}}


def test_every_environment_is_registered():
    """Importing erc_envs registers every Dynamics it exports, single and vectorised."""
    ids = {spec_id for spec_id in gym.registry if spec_id.startswith("erc/")}
    exported = [getattr(erc_envs, name) for name in erc_envs.__all__]
    concrete = {cls.__name__ for cls in exported if issubclass(cls, erc_envs.Dynamics)}
    assert ids == {f"erc/{name}-v0" for name in concrete - {"Dynamics"}}
    assert all(gym.spec(spec_id).entry_point for spec_id in ids)
    assert all(gym.spec(spec_id).vector_entry_point for spec_id in ids)


def test_check_env(env_id):
    """Gymnasium's checker, render modes included, finds nothing, not even a warning."""
    check_env(gym.make(env_id).unwrapped)


def test_spec_round_trip(env_id):
    """The spec survives JSON and makes the same environment again, single and vectorised."""
    fields = FEWER_PROMPTS.get(env_id, {"num_prompts": 5})
    env = gym.make(env_id, **fields, instance_seed=7)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.dynamics == env.unwrapped.dynamics
    envs = make_vec(env_id, 3, **fields, instance_seed=7)
    again = gym.make_vec(envs.spec)
    assert again.num_envs == 3
    assert again.dynamics == env.unwrapped.dynamics


def test_twin_rollouts(env_id):
    """Two environments with the same seed and actions never differ, over many episodes."""
    twins = [gym.make(env_id) for _ in range(2)]
    assert_same(*(twin.reset(seed=5) for twin in twins))
    twins[0].action_space.seed(6)
    for _ in range(100):
        action = twins[0].action_space.sample()
        results = [twin.step(action) for twin in twins]
        assert_same(*results)
        if results[0][2]:
            assert_same(*(twin.reset() for twin in twins))


def test_seeds_differ(env_id):
    """Different seeds give different episodes; the same seed gives the same ones again."""
    env = gym.make(env_id)

    def prompts(seed):
        first = env.reset(seed=seed)[1]["prompt"]
        return [first] + [env.reset()[1]["prompt"] for _ in range(20)]

    assert prompts(1) == prompts(1) != prompts(2)


@pytest.mark.parametrize("seed", [0, 123, [7, 3, 7, 11]])
def test_vector_equals_sync_vector(env_id, seed):
    """The native vector environment is SyncVectorEnv, array for array, over many autoresets."""
    native, sync = make_vec(env_id, 4), make_sync(env_id, 4)
    for name in (
        "observation_space",
        "action_space",
        "single_observation_space",
        "single_action_space",
        "num_envs",
    ):
        assert getattr(native, name) == getattr(sync, name)
    assert native.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert_same(native.reset(seed=seed), sync.reset(seed=seed))
    assert native.np_random_seed == sync.np_random_seed
    native.action_space.seed(1)
    dones = 0
    for _ in range(300):
        actions = native.action_space.sample()
        left, right = native.step(actions), sync.step(actions)
        assert_same(left, right)
        dones += int(left[2].sum())
    assert dones > 90
    for mine, theirs in zip(native.np_random, sync.np_random, strict=True):
        assert mine.bit_generator.state == theirs.bit_generator.state


def test_vector_equals_sync_vector_on_rewarded_actions(env_id):
    """Equality also holds along optimal play, and where resets come in mid-episode."""
    native, sync = make_vec(env_id, 3), make_sync(env_id, 3)
    for seed, options in ((4, None), (None, {"prompt": 1}), ([None, 9, None], None)):
        assert_same(
            native.reset(seed=seed, options=options), sync.reset(seed=seed, options=options)
        )
        total = 0.0
        for _ in range(101):
            actions = native.dynamics.optimal_action(native._state)
            left = native.step(actions)
            assert_same(left, sync.step(actions))
            total += left[1].sum()
        assert total > 0


def test_prompt_option_fixes_the_prompt(env_id):
    """reset(options={"prompt": x}) starts prompt x and draws nothing from the generator."""
    env = gym.make(env_id)
    fixed, info = env.reset(seed=0, options={"prompt": 3})
    fresh = np.random.Generator(np.random.PCG64(0))
    assert info == {"prompt": 3}
    assert env.unwrapped.np_random.bit_generator.state == fresh.bit_generator.state
    assert_same(fixed, env.reset(seed=99, options={"prompt": np.int64(3)})[0])
    group = make_vec(env_id, 3)
    observations, infos = group.reset(seed=0, options={"prompt": 3})
    assert infos["prompt"].tolist() == [3, 3, 3]
    assert_same(observations, np.stack([fixed] * 3))
    _, infos = group.reset(options={"prompt": np.array([2, 0, 1])})
    assert infos["prompt"].tolist() == [2, 0, 1]


@pytest.mark.parametrize("prompt", [-1, 10_000, 1.0, "0", None, True])
def test_bad_prompt(env_id, prompt):
    """A prompt that is not one gives a ValueError with the option, the value and the range."""
    for env in (gym.make(env_id).unwrapped, make_vec(env_id, 2)):
        allowed = rf"options\['prompt'\].*\[0, {env.dynamics.num_prompts}\).*{prompt}"
        with pytest.raises(ValueError, match=allowed):
            env.reset(options={"prompt": prompt})


def test_bad_options(env_id):
    """Unknown options, and the wrong number of prompts or seeds, give a ValueError that says so."""
    envs = make_vec(env_id, 2)
    for env in (gym.make(env_id).unwrapped, envs):
        with pytest.raises(ValueError, match=r"'promt'.*'prompt'"):
            env.reset(options={"promt": 1})
    with pytest.raises(ValueError, match=r"options\['prompt'\].*num_envs=2.*3"):
        envs.reset(options={"prompt": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"seed.*num_envs=2.*3"):
        envs.reset(seed=[1, 2, 3])


def test_failed_reset_changes_nothing(env_id):
    """A reset that raises leaves the running episode and its generator alone."""
    env = gym.make(env_id).unwrapped
    env.reset(seed=0)
    before = pickle.dumps(env)
    with pytest.raises(ValueError, match="prompt"):
        env.reset(seed=1, options={"prompt": -1})
    assert pickle.dumps(env) == before


def test_bad_render_mode_and_num_envs(env_id):
    """An unknown render mode or a bad num_envs gives a ValueError with the field and the value."""
    single, vector = (gym.make(env_id).unwrapped, make_vec(env_id, 2))
    for env in (single, vector):
        with pytest.raises(ValueError, match=r"render_mode.*rgb_array.*'human'"):
            type(env)(render_mode="human")
    for bad in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"num_envs.*{bad}"):
            type(vector)(num_envs=bad)


def test_reset_needed(env_id):
    """Stepping before a reset, or after the end of an episode, raises ResetNeeded."""
    env = gym.make(env_id).unwrapped
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(0)
    env.reset(seed=0)
    while not env.step(0)[2]:
        pass
    with pytest.raises(ResetNeeded, match="terminated"):
        env.step(0)
    with pytest.raises(ResetNeeded, match="reset"):
        make_vec(env_id, 2).step(np.zeros(2, dtype=np.int64))


def test_bad_actions(env_id):
    """An action outside the space raises InvalidAction and leaves the episode alone."""
    env, envs = gym.make(env_id).unwrapped, make_vec(env_id, 2)
    env.reset(seed=0)
    envs.reset(seed=0)
    num_actions = env.dynamics.num_actions
    for bad in (-1, num_actions, 0.5):
        with pytest.raises(InvalidAction, match=rf"\[0, {num_actions}\)"):
            env.step(bad)
        with pytest.raises(InvalidAction, match=rf"\[0, {num_actions}\)"):
            envs.step(np.array([0, bad]))
    with pytest.raises(InvalidAction, match=r"shape \(2,\)"):
        envs.step(np.zeros(3, dtype=np.int64))
    assert not env._episodes[0].actions


def test_copies_go_on_alike(env_id):
    """Pickled and deep-copied environments, mid-episode, continue exactly as the original."""
    for env in (gym.make(env_id), make_vec(env_id, 3)):
        env.reset(seed=0)
        env.action_space.seed(0)
        copies = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]
        for _ in range(env.unwrapped.dynamics.horizon):
            action = env.action_space.sample()
            expected = env.step(action)
            for twin in copies:
                assert_same(twin.step(action), expected)
            if expected[2] is True:  # a single episode that ended before the horizon
                break


def test_returned_arrays_are_the_callers(env_id):
    """Writing to what a vector environment returned does not disturb it."""
    envs, untouched = make_vec(env_id, 3), make_vec(env_id, 3)
    untouched.reset(seed=0)
    observations, infos = envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(20):
        observations[:] = 0
        infos["prompt"][:] = 0
        actions = envs.action_space.sample()
        result = envs.step(actions)
        assert_same(result, untouched.step(actions))
        observations, infos = result[0], result[-1]
        result[2][:] = True


def test_observations_lie_in_the_space(env_id):
    """Every observation, terminal ones included, lies in the observation space."""
    env = gym.make(env_id)
    env.action_space.seed(0)
    for prompt in range(min(env.unwrapped.dynamics.num_prompts, 100)):
        observation, _ = env.reset(seed=prompt, options={"prompt": prompt})
        done = False
        while not done:
            assert observation in env.observation_space
            observation, _, done, _, info = env.step(env.action_space.sample())
            assert info == {"prompt": prompt}
        assert observation in env.observation_space


def test_optimal_return_is_shown(env_id):
    """Both wrappers show the dynamics' optimal return."""
    env, envs = gym.make(env_id).unwrapped, make_vec(env_id, 2)
    assert env.optimal_return == envs.optimal_return == env.dynamics.optimal_return


def test_frames(env_id):
    """Frames are uint8 images of one size; every action changes the image, a twin's is equal."""
    env, twin = (gym.make(env_id, render_mode="rgb_array").unwrapped for _ in range(2))
    env.reset(seed=0)
    twin.reset(seed=0)
    frames = [env.render()]
    done = False
    while not done:
        done = env.step(1)[2]
        twin.step(1)
        frames.append(env.render())
        assert_same(frames[-1], twin.render())
    for frame in frames:
        assert frame.dtype == np.uint8
        assert frame.shape == frames[0].shape
        assert frame.ndim == 3
        assert frame.shape[2] == 3
    assert all((a != b).any() for a, b in itertools.pairwise(frames))


def test_text(env_id):
    """The text names the environment and the prompt, every token so far, and the reward."""
    env = gym.make(env_id, render_mode="ansi").unwrapped
    env.reset(seed=0, options={"prompt": 2})
    assert re.search(env.spec.name + ".*prompt 2.*(pending|yet)", env.render())
    env.action_space.seed(0)
    tokens, done = [], False
    while not done:
        tokens.append(env.action_space.sample())
        _, reward, done, _, _ = env.step(tokens[-1])
    text = env.render()
    assert f"reward {reward:g}" in text
    if env.dynamics.horizon > 1:
        row = next(line for line in text.splitlines() if line.startswith("token"))
        assert row.split()[1:] == [str(token) for token in tokens]
    else:
        assert f"arm {tokens[0]}" in text


@pytest.mark.parametrize("render_mode", ["ansi", "rgb_array"])
def test_vector_renders_as_its_parts(env_id, render_mode):
    """A vector environment renders a tuple: what each sub-environment would have rendered."""
    native = make_vec(env_id, 3, render_mode=render_mode)
    sync = make_sync(env_id, 3, render_mode=render_mode)
    native.reset(seed=0)
    sync.reset(seed=0)
    native.action_space.seed(0)
    for _ in range(15):
        assert_same(native.render(), sync.render())
        actions = native.action_space.sample()
        native.step(actions)
        sync.step(actions)


def test_render_without_mode_warns(env_id):
    """Rendering without a render mode warns, names the modes and returns nothing."""
    for env in (gym.make(env_id).unwrapped, make_vec(env_id, 2)):
        env.reset(seed=0)
        with pytest.warns(UserWarning, match=r"render_mode.*rgb_array"):
            assert env.render() is None


def test_imports_without_torch():
    """erc_envs needs numpy and gymnasium only, but for an extra: it imports and runs where torch cannot."""
    code = """
import sys
for name in ("torch", "scipy", "matplotlib", "pandas", "erc_bench", "reasoning_gym"):
    sys.modules[name] = None
import gymnasium, erc_envs
made = [i for i in gymnasium.registry if i.startswith("erc/") and "ReasoningGym" not in i]
for spec_id in made:
    env = gymnasium.make(spec_id, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(0)
    env.render()
"""
    path = str(Path(erc_envs.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
