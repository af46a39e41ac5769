"""ModeSwap's own promises: blind to one ratio at swaps, to the other where it sharpens."""

import numpy as np
import pytest

import erc_envs


def entropy(probs):
    return -(probs * np.log(probs)).sum(axis=-1)


def state_at(task, position):
    P = task.num_prompts
    columns = [np.arange(P), np.full(P, position), np.ones(P, dtype=int), np.ones(P, dtype=int)]
    return np.stack(columns, axis=1)


def swapped(task, position):
    """The prior with the masses of the two modes exchanged, and the favoured tokens' mask."""
    prior = task.prior(state_at(task, position))
    favoured, major = (np.isclose(prior, mass / task.mode_size) for mass in (0.2, 0.7))
    after = prior.copy()
    after[favoured], after[major] = prior[major].max(), prior[favoured].max()
    return prior, after, favoured


@pytest.mark.parametrize("mode_size", [1, 3, 4])
def test_swap_is_a_permutation_of_equal_entropy(mode_size):
    """Exchanging the modes leaves H as it was; KL = (a - b) log(a / b) and TV = a - b."""
    task = erc_envs.ModeSwap(mode_size=mode_size, agreement=0.5)
    for position in task.swap_positions:
        before, after, _ = swapped(task, position)
        np.testing.assert_allclose(np.sort(after, axis=1), np.sort(before, axis=1), rtol=1e-9)
        np.testing.assert_allclose(entropy(after), entropy(before), rtol=1e-12)
        kl = (before * np.log(before / after)).sum(axis=1)
        np.testing.assert_allclose(kl, 0.5 * np.log(3.5), rtol=1e-9)
        np.testing.assert_allclose(np.abs(before - after).sum(axis=1) / 2, 0.5, rtol=1e-9)


def test_the_facts_own_numbers():
    """One token per mode and one in the tail: the prior is (.7, .2, .1) in some order."""
    task = erc_envs.ModeSwap(vocab_size=3, mode_size=1, num_swaps=6)
    for position in range(6):
        prior = task.prior(state_at(task, position))
        np.testing.assert_allclose(np.sort(prior, axis=1), np.tile([0.1, 0.2, 0.7], (16, 1)))


def test_entropy_hardly_moves_on_the_way():
    """From prior to swap H rises by at most 0.15 of 2.26 nats, and is flat where modes are level."""
    task = erc_envs.ModeSwap()
    before, after, _ = swapped(task, task.swap_positions[0])
    path = np.array([entropy((1 - w) * before + w * after)[0] for w in np.linspace(0, 1, 101)])
    assert path[0] == pytest.approx(2.257, abs=1e-3)
    assert path.max() - path[0] == pytest.approx(0.147, abs=1e-3)
    assert path.argmax() == 50
    slope = 100 * np.diff(path) / 0.5  # dH/de; from log(a / b) down to its negative
    assert slope[0] == pytest.approx(np.log(3.5), rel=0.05)
    assert abs(slope[49]) < 0.05


def test_ratio_is_blind_where_entropy_sees():
    """Halving the slip: the sampled ratio stays inside PPO's clip, the entropy ratio leaves 5 %."""
    task = erc_envs.ModeSwap()
    narrower = erc_envs.ModeSwap(slip=0.05)
    for position in range(6):
        old, new = (t.prior(state_at(t, position)) for t in (task, narrower))
        if task.roles[position] == "swap":
            np.testing.assert_array_equal(old, new)
            continue
        ratio = new.max(axis=1) / old.max(axis=1)
        assert (ratio < 1.2).all()
        assert (entropy(new) / entropy(old) < 0.6).all()
        assert ((old * np.log(old / new)).sum(axis=1) > 0.01).all(), "KL above delta"


def test_right_tokens_are_the_favoured_mode():
    """At a swap all and only the favoured synonyms are right; elsewhere the likeliest token is."""
    task = erc_envs.ModeSwap(num_prompts=7, agreement=0.6)
    for position, role in enumerate(task.roles):
        prior = task.prior(state_at(task, position))
        favoured = prior == prior.max(axis=1, keepdims=True)
        if role == "swap":
            _, _, favoured = swapped(task, position)
            np.testing.assert_array_equal(favoured.sum(axis=1), task.mode_size)
        for token in range(task.num_actions):
            after, _, _ = task.step(state_at(task, position), np.full(7, token), np.zeros(7))
            np.testing.assert_array_equal(after[:, 3], favoured[:, token])


@pytest.mark.parametrize(("agreement", "majority"), [(0.5, 8), (0.75, 12), (1.0, 16)])
def test_agreement(agreement, majority):
    """That share of the prompts favours the same mode, at every swap position."""
    task = erc_envs.ModeSwap(agreement=agreement)
    for position in task.swap_positions:
        first = task.optimal_action(state_at(task, position))
        counts = np.unique(first, return_counts=True)[1]
        assert counts.max() == majority
        assert counts.sum() == 16


@pytest.mark.parametrize(
    ("length", "num_swaps"), [(1, 1), (2, 1), (2, 2), (5, 2), (5, 4), (5, 5), (12, 5), (12, 7)]
)
def test_roles(length, num_swaps):
    """Swaps are as many as asked for, in order, and spread evenly."""
    task = erc_envs.ModeSwap(length=length, num_swaps=num_swaps)
    assert [t for t, role in enumerate(task.roles) if role == "swap"] == list(task.swap_positions)
    assert len(set(task.swap_positions)) == num_swaps
    gaps = np.diff(task.swap_positions)
    assert not gaps.size or gaps.max() - gaps.min() <= 1
