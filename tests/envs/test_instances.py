"""What the instance of each environment promises beyond the common contract."""

import numpy as np
import pytest
from extras import needs_tasks

import erc_envs


def entropy(probs):
    return -(probs * np.log(probs)).sum(axis=-1)


# An id's version pins its instance: a change here needs a new version (v1).
PINNED = {
    erc_envs.Arithmetic: (1.0, 0.5678709423182511),
    erc_envs.DriftBandit: (0.8494869886146318, 0.4228624968996526),
    erc_envs.ModeSwap: (1.0, 0.026244),
    erc_envs.NullReward: (0.5, 0.5),
    erc_envs.ReasoningGym: (1.0, 0.7155493422790719),
    erc_envs.RewardShift: (1.0, 0.225625),
    erc_envs.TokenForks: (1.0, 0.10534017375601457),
    erc_envs.VariableLength: (1.0, 0.32779342828495606),
    erc_envs.ZipfBandit: (1.0, 0.09521928187909776),
}


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(cls, marks=[needs_tasks] if cls is erc_envs.ReasoningGym else [])
        for cls in PINNED
    ],
    ids=lambda cls: cls.__name__,
)
def test_default_instances_are_pinned(cls):
    """The default instance of a version never changes."""
    dynamics = cls()
    assert (dynamics.optimal_return, dynamics.prior_return) == pytest.approx(PINNED[cls], abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_bandit_means(seed):
    """One best arm per prompt, ahead by reward_gap, spread evenly over the prompts."""
    bandit = erc_envs.DriftBandit(instance_seed=seed, reward_gap=0.25)
    means = np.sort(bandit.reward_means, axis=1)
    assert means[:, 0].min() >= 0.05
    assert means[:, -1].max() <= 0.95
    assert (means[:, -1] - means[:, -2]).min() >= 0.25 - 1e-12
    counts = np.bincount(bandit.reward_means.argmax(axis=1), minlength=10)
    assert counts.max() - counts.min() <= 1


def test_bandit_features_overlap():
    """Features are unit vectors with mean cosine near `correlation` between prompts."""
    for correlation in (0.0, 0.6, 0.9):
        bandit = erc_envs.DriftBandit(num_prompts=400, correlation=correlation)
        cosine = bandit.features.astype(float) @ bandit.features.T
        np.testing.assert_allclose(np.diag(cosine), 1.0, atol=1e-6)
        off_diagonal = cosine[~np.eye(400, dtype=bool)]
        assert off_diagonal.mean() == pytest.approx(correlation, abs=0.01)
        assert off_diagonal.max() < 1 - 1e-6, "every prompt has its own observation"


def test_bandit_prior_is_linear_in_the_features():
    """Centred prior logits are an exact linear map of the features, with 78 % mean entropy."""
    bandit = erc_envs.DriftBandit(num_prompts=64)
    prior = bandit.prior(bandit.initial_state(np.arange(64)))
    logits = np.log(prior)
    logits -= logits.mean(axis=1, keepdims=True)
    weights, *_ = np.linalg.lstsq(bandit.features.astype(float), logits, rcond=None)
    np.testing.assert_allclose(bandit.features @ weights, logits, atol=1e-5)
    assert entropy(prior).mean() / np.log(10) == pytest.approx(0.78, abs=1e-9)


def test_bandit_reward_is_bernoulli():
    """Reward is 1 exactly where the noise lies below the arm's mean."""
    bandit = erc_envs.DriftBandit()
    prompt, arm = np.divmod(np.arange(160), 10)
    mean = bandit.reward_means[prompt, arm]
    state = bandit.initial_state(prompt)
    np.testing.assert_array_equal(bandit.step(state, arm, np.nextafter(mean, 0))[1], 1.0)
    np.testing.assert_array_equal(bandit.step(state, arm, mean)[1], 0.0)


def test_null_reward_ignores_actions():
    """The reward depends on the last step's noise alone, and comes at the end alone."""
    null = erc_envs.NullReward(success_probability=0.3)
    rng = np.random.default_rng(0)
    state = null.initial_state(rng.integers(16, size=1000))
    for t in range(6):
        noise = rng.random(1000)
        state, reward, _ = null.step(state, rng.integers(16, size=1000), noise)
        expected = (noise < 0.3) if t == 5 else np.zeros(1000)
        np.testing.assert_array_equal(reward, expected)


def test_null_reward_prior_entropies():
    """Prior entropies are log-spaced from 0.1 nats to 98 % of log(vocab_size)."""
    null = erc_envs.NullReward()
    prompt, position = np.divmod(np.arange(16 * 6), 6)
    state = np.stack([prompt, position, np.zeros_like(prompt)], axis=1)
    np.testing.assert_allclose(
        np.sort(entropy(null.prior(state))),
        np.geomspace(0.1, 0.98 * np.log(16), 96),
        rtol=1e-6,
    )


def forks_state(forks, position, branch=0):
    """A state (P, 5) of every prompt at a position, with a branch taken (0: none)."""
    P = forks.num_prompts
    columns = [np.arange(P), *(np.full(P, value) for value in (position, 1, branch, 1))]
    return np.stack(columns, axis=1)


def test_forks_roles():
    """Roles follow the pattern fixed, then (fork, branch, ..., join) per fork."""
    for length, num_forks in ((4, 1), (10, 3), (12, 3), (40, 5)):
        forks = erc_envs.TokenForks(length=length, num_forks=num_forks)
        text = "".join(
            {"fixed": "x", "fork": "F", "branch": "b", "join": "j"}[r] for r in forks.roles
        )
        assert len(text) == length
        assert text[0] == "x"
        assert forks.fork_positions == tuple(t for t, role in enumerate(text) if role == "F")
        segments = text[1:].split("F")
        assert segments[0] == ""
        assert len(segments) == num_forks + 1
        assert all(set(s[:-1]) == {"b"} and s[-1] == "j" for s in segments[1:])


def test_forks_prior():
    """1 - slip goes to the forced token or to the branches, in proportions fork_decay^rank."""
    forks = erc_envs.TokenForks()
    slips = []
    for t, role in enumerate(forks.roles):
        for branch in range(0 if t <= 1 else 1, 5):
            ordered = np.sort(forks.prior(forks_state(forks, t, branch)), axis=1)[:, ::-1]
            legal = 4 if role == "fork" else 1
            mass = ordered[:, :legal].sum(axis=1)
            slips.append(1 - mass[0])
            np.testing.assert_allclose(mass, mass[0])
            if role == "fork":
                shares = 0.4 ** np.arange(4)
                expected = np.tile(shares / shares.sum(), (32, 1))
                np.testing.assert_allclose(ordered[:, :4] / mass[:, None], expected)
    np.testing.assert_allclose(np.unique(np.round(slips, 12)), 0.03 * np.geomspace(0.01, 2, 12))


def test_forks_continuations():
    """Branch tokens differ between branches; fixed and join tokens do not."""
    forks = erc_envs.TokenForks()
    for t, role in enumerate(forks.roles):
        if role == "fork":
            continue
        likeliest = np.stack(
            [forks.prior(forks_state(forks, t, branch)).argmax(axis=1) for branch in range(1, 5)]
        )
        distinct = [len(set(tokens)) for tokens in likeliest.T.tolist()]
        assert set(distinct) == ({4} if role == "branch" else {1})


def test_forks_derail_is_final_and_unseen():
    """One wrong token loses the reward for good, and no observation tells."""
    forks = erc_envs.TokenForks()
    prompts = np.arange(32)
    for wrong_at, role in enumerate(forks.roles):
        state = forks.initial_state(prompts)
        for t in range(12):
            action = forks.optimal_action(state)
            if t == wrong_at:
                action = (action + 1) % 32
            state, reward, _ = forks.step(state, action, np.zeros(32))
        np.testing.assert_array_equal(reward, 0.0, err_msg=role)
        assert forks.observe(state).shape[1] == 4
        np.testing.assert_array_equal(state[:, 4], 0)


def test_forks_off_grammar_goes_on_as_the_likeliest_branch():
    """At a fork, a token of no branch counts as the prior's likeliest branch."""
    forks = erc_envs.TokenForks()
    for t in forks.fork_positions:
        state = forks_state(forks, t, branch=1)
        prior = forks.prior(state)
        stray, _, _ = forks.step(state, prior.argmin(axis=1), np.zeros(32))
        likely, _, _ = forks.step(state, prior.argmax(axis=1), np.zeros(32))
        np.testing.assert_array_equal(stray[:, 3], likely[:, 3])


def test_forks_corpus_is_calibrated():
    """Over many prompts a branch of rank r is correct with the probability the prior gives it."""
    forks = erc_envs.TokenForks(num_prompts=4000, length=4, num_forks=1, slip=1e-4)
    state = forks_state(forks, 1)
    prior = forks.prior(state)
    right = np.take_along_axis(prior, forks.optimal_action(state)[:, None], axis=1)
    rank = (prior > right).sum(axis=1)
    shares = 0.4 ** np.arange(4)
    shares /= shares.sum()
    error = np.sqrt(shares * (1 - shares) / 4000)
    assert (np.abs(np.bincount(rank, minlength=4) / 4000 - shares) < 4 * error).all()


@pytest.mark.parametrize("seed", range(10))
def test_forks_prior_return_gives_groups_of_eight_signal(seed):
    """The warm start succeeds at times and fails at times: its return lies in [0.03, 0.25]."""
    assert 0.03 <= erc_envs.TokenForks(instance_seed=seed).prior_return <= 0.25


def test_forks_entropies_span_orders_of_magnitude():
    """Prior entropies along the grammar span more than two decades."""
    forks = erc_envs.TokenForks()
    entropies = np.concatenate(
        [entropy(forks.prior(forks_state(forks, t, branch=1))) for t in range(12)]
    )
    assert entropies.max() / entropies.min() > 100
