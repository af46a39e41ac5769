"""Advantage estimators against numpy, brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from erc_bench.core.advantages import (
    GROUP_ADVANTAGES,
    gae,
    group_centred,
    group_zscore,
    leave_one_out,
    overlong_penalty,
    whiten,
)

groups = arrays(np.float64, (3, 4), elements=st.floats(-10, 10, width=16))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@settings(deadline=None, max_examples=50)
@given(groups)
def test_group_advantages_agree_with_numpy(rewards):
    """z-score with the unbiased deviation, centred, and leave-one-out by its definition."""
    x = torch.from_numpy(rewards)
    centred = rewards - rewards.mean(-1, keepdims=True)
    scale = rewards.std(-1, ddof=1, keepdims=True) + 1e-6
    others = np.stack([np.delete(rewards, i, axis=1).mean(1) for i in range(4)], axis=1)
    np.testing.assert_allclose(group_centred(x), centred, atol=1e-9)
    np.testing.assert_allclose(group_zscore(x), centred / scale, atol=1e-6)
    np.testing.assert_allclose(leave_one_out(x), rewards - others, atol=1e-9)


@pytest.mark.parametrize("estimate", GROUP_ADVANTAGES.values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_zero(estimate, dtype):
    """Rounding of the mean must not turn a group without signal into one with a tiny signal."""
    rewards = torch.tensor([[0.1] * 3, [1 / 3] * 3, [1e6 + 0.1] * 3], dtype=dtype)
    assert (estimate(rewards) == 0).all()


@pytest.mark.parametrize("estimate", GROUP_ADVANTAGES.values())
def test_groups_are_independent(estimate):
    """Leading axes are batch axes."""
    rewards = torch.randn(2, 3, 4, dtype=torch.float64)
    for run in range(2):
        for prompt in range(3):
            alone = estimate(rewards[run, prompt])
            torch.testing.assert_close(estimate(rewards)[run, prompt], alone)


@pytest.mark.parametrize("name", ["group-zscore", "leave-one-out"])
def test_groups_of_one_are_refused(name):
    """Nothing to compare with: field, value and what is allowed."""
    with pytest.raises(ValueError, match=f"group_size: 1, must be >= 2 for advantage {name}"):
        GROUP_ADVANTAGES[name](torch.ones(3, 1))


def test_groups_of_one_centre_to_zero():
    """A reward minus itself."""
    assert group_centred(torch.ones(3, 1)).tolist() == [[0]] * 3


def brute_force(rewards, values, mask, gamma, lam):
    """``A_t = sum_{l >= t} (gamma lam)^(l-t) delta_l``, over the unmasked tokens of each row."""
    out = np.zeros_like(rewards)
    for b in range(len(rewards)):
        steps = np.flatnonzero(mask[b])
        r, v = rewards[b, steps], np.append(values[b, steps], 0.0)
        for t in range(len(steps)):
            for later in range(t, len(steps)):
                delta = r[later] + gamma * v[later + 1] - v[later]
                out[b, steps[t]] += (gamma * lam) ** (later - t) * delta
    return out


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 2**16),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["right", "any", "full"]),
)
def test_gae_is_the_double_sum(seed, gamma, lam, padding):
    """Equal to the definition, for padding on the right and gaps anywhere, whatever is masked."""
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, 4, 6))
    mask = {
        "right": np.arange(6) < rng.integers(0, 7, size=(4, 1)),
        "any": rng.random((4, 6)) < 0.6,
        "full": np.ones((4, 6), dtype=bool),
    }[padding]
    expected = brute_force(rewards, values, mask, gamma, lam)
    rewards[~mask] = np.nan
    values[~mask] = np.inf
    tensors = (torch.from_numpy(x) for x in (rewards, values, mask))
    advantages, returns = gae(*tensors, gamma=gamma, lam=lam)
    np.testing.assert_allclose(advantages, expected, atol=1e-12)
    np.testing.assert_allclose(returns, np.where(mask, expected + values, 0.0), atol=1e-12)


def test_gae_with_lambda_one_is_return_minus_value():
    """``sum_l gamma^l R_{t+l} - V_t``; the value target is the discounted return."""
    rewards, values = torch.randn(2, 3, 5, dtype=torch.float64)
    gamma = 0.9
    returns = torch.zeros_like(rewards)
    for t in range(5):
        returns[:, t] = (rewards[:, t:] * gamma ** torch.arange(5 - t).double()).sum(-1)
    advantages, targets = gae(rewards, values, torch.ones(3, 5), gamma=gamma, lam=1.0)
    torch.testing.assert_close(advantages, returns - values)
    torch.testing.assert_close(targets, returns)


def test_gae_carries_run_axes_and_no_gradient():
    """(R, B, T) equals R calls; advantages are constants."""
    rewards, values = torch.randn(2, 2, 3, 5)
    mask = torch.rand(2, 3, 5) < 0.7
    together = gae(rewards, values.requires_grad_(), mask, 0.9, 0.8)
    assert not together[0].requires_grad
    for run in range(2):
        alone = gae(rewards[run], values[run], mask[run], 0.9, 0.8)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[run], b)


def test_whitened_advantages_have_mean_zero_and_variance_one():
    """Over each run's unmasked tokens; zero where masked."""
    x = torch.randn(2, 4, 5, dtype=torch.float64) * 3 + 7
    mask = torch.rand(2, 4, 5) < 0.7
    x[~mask] = torch.nan
    white = whiten(x, mask)
    assert (white[~mask] == 0).all()
    for run in range(2):
        tokens = white[run][mask[run]]
        assert tokens.mean().item() == pytest.approx(0, abs=1e-12)
        assert tokens.var(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert (whiten(torch.ones(2, 2), torch.zeros(2, 2)) == 0).all()


def test_overlong_penalty_is_zero_then_linear_then_minus_one():
    """DAPO eq. 13."""
    lengths = torch.tensor([0, 12, 13, 14, 15, 16, 17])
    expected = [0, 0, -0.25, -0.5, -0.75, -1, -1]
    assert overlong_penalty(lengths, max_length=16, cache=4).tolist() == expected


@pytest.mark.parametrize("cache", [0, -1, 17])
def test_bad_overlong_cache_is_refused(cache):
    """Field, value and what is allowed."""
    message = f"overlong_cache: {cache}, must be from 1 to max_length = 16"
    with pytest.raises(ValueError, match=message):
        overlong_penalty(torch.tensor([1]), max_length=16, cache=cache)
