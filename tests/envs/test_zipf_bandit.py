"""ZipfBandit's own promises: Zipf's law exactly, rare good arms, and 32,768 of them."""

import tracemalloc

import numpy as np
import pytest

import erc_envs


def priors(bandit):
    return bandit.prior(bandit.initial_state(np.arange(bandit.num_prompts)))


@pytest.mark.parametrize(("exponent", "num_actions"), [(1.0, 1024), (0.7, 100), (1.4, 5000)])
def test_every_prompt_follows_zipfs_law(exponent, num_actions):
    """Sorted, each prompt's prior is k^-b / sum_j j^-b."""
    bandit = erc_envs.ZipfBandit(exponent=exponent, num_actions=num_actions)
    law = np.arange(1, num_actions + 1.0) ** -exponent
    ordered = np.sort(priors(bandit), axis=1)[:, ::-1]
    np.testing.assert_allclose(ordered, np.tile(law / law.sum(), (16, 1)), rtol=1e-10)


def test_good_arms_are_rare_and_of_equal_standing():
    """They hold the ranks around good_probability: the same probabilities for every prompt."""
    bandit = erc_envs.ZipfBandit()
    good = np.take_along_axis(priors(bandit), bandit.good_arms, axis=1)
    assert (good == good[0]).all()
    assert (np.diff(good[0]) < 0).all()
    assert good[0].min() < 0.01 < good[0].max()
    assert good[0].max() / good[0].min() < 1.5


def test_good_arms_are_distinct():
    """No two prompts share a good arm, and none is a common arm."""
    bandit = erc_envs.ZipfBandit(num_prompts=200, num_actions=1024, num_good=5)
    assert len(np.unique(bandit.good_arms)) == 1000
    assert not np.isin(bandit.good_arms, bandit.common_arms).any()


def test_more_prompts_than_good_arms():
    """With too few arms they are shared between prompts, but distinct within each."""
    bandit = erc_envs.ZipfBandit(num_prompts=50, num_actions=20, num_good=4, num_common=4)
    assert bandit.good_arms.shape == (50, 4)
    assert all(len(set(arms)) == 4 for arms in bandit.good_arms.tolist())


def test_common_arms_are_the_likeliest():
    """They lead every prompt's prior, in order."""
    bandit = erc_envs.ZipfBandit(num_common=3, good_probability=0.9)
    leaders = np.argsort(-priors(bandit), axis=1)[:, :3]
    np.testing.assert_array_equal(leaders, np.tile(bandit.common_arms, (16, 1)))


def test_prompts_differ_only_in_the_good_arms():
    """Outside the good ranks, and the arms that moved there, the prior is the same for all."""
    bandit = erc_envs.ZipfBandit()
    prior = priors(bandit)
    differs = (prior != prior[0]).any(axis=0)
    assert 0 < differs.sum() <= 16 * 4 + 4


def test_rewards():
    """1 for a good arm, a coin of common_reward for a common one, 0 for all others."""
    bandit = erc_envs.ZipfBandit(num_actions=64, common_reward=0.3)
    prompt, arm = np.divmod(np.arange(16 * 64), 64)
    state = bandit.initial_state(prompt)
    good = np.array([a in bandit.good_arms[p] for p, a in zip(prompt, arm, strict=True)])
    common = np.isin(arm, bandit.common_arms)
    for noise, paid in ((0.0, good | common), (0.29, good | common), (0.3, good), (0.999, good)):
        reward = bandit.step(state, arm, np.full(len(arm), noise))[1]
        np.testing.assert_array_equal(reward, paid)


def test_thirty_two_thousand_arms():
    """A full vocabulary works, and holds no table of prompts x arms."""
    tracemalloc.start()
    bandit = erc_envs.ZipfBandit(num_actions=32_768, num_prompts=512)
    held, _ = tracemalloc.get_traced_memory()
    state = bandit.initial_state(np.arange(64))
    tracemalloc.reset_peak()
    prior = bandit.prior(state)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2**21, "512 x 32,768 numbers would be 128 MiB"
    assert peak - held < 1.1 * prior.nbytes
    np.testing.assert_allclose(prior.sum(axis=1), 1.0)
    good = np.take_along_axis(prior, bandit.good_arms[:64], axis=1)
    assert bandit.prior_return == pytest.approx(
        good[0].sum() + 0.2 * prior[0, bandit.common_arms].sum()
    )
    _, reward, _ = bandit.step(state, bandit.optimal_action(state), np.ones(64))
    np.testing.assert_array_equal(reward, 1.0)


def test_renderings_stay_small():
    """Common arms, good arms and the chosen one are shown, out of however many."""
    for chosen in (None, 7):
        env = erc_envs.ZipfBanditEnv(render_mode="ansi", num_actions=32_768, num_good=20)
        env.reset(options={"prompt": 1})
        if chosen is not None:
            env.step(chosen)
        text = env.render()
        assert "of 32768 arms" in text
        assert max(map(len, text.splitlines())) < 140
        assert ("chosen" in text.splitlines()[-1]) == (chosen is not None)
        env.render_mode = "rgb_array"
        frame = env.render()
        assert frame.shape[1] < 700
