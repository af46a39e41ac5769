import numpy as np
import pytest
import scipy.stats
import torch
from trainer_runs import StopToken, arm, forks, trainer

from erc_bench.training.rollout import Noise, Rollout, concatenate, log_probs, play, sample


def test_sample_frequencies_are_the_probabilities():
    """Chi-square of 200 000 draws at a fixed seed does not reject (p > 0.001)."""
    p = torch.tensor([0.5, 0.2, 0.0, 0.15, 0.1, 0.05], dtype=torch.float64)
    n = 200_000
    u = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    counts = sample(p.log().expand(n, 6), u).bincount(minlength=6)
    assert counts[2] == 0
    support = p > 0
    assert scipy.stats.chisquare(counts[support], n * p[support]).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("impossible", [[0], [5], [0, 5], [2, 3], [0, 1, 2, 4, 5]])
def test_sample_never_takes_an_action_of_probability_zero(dtype, impossible):
    """Not at u = 0, not at the largest u below 1, nowhere between; first and last action included."""
    p = torch.tensor([0.1, 0.3, 0.2, 0.15, 0.05, 0.2], dtype=dtype)
    p[impossible] = 0
    p /= p.sum()
    top = np.float32(1) - np.finfo(np.float32).epsneg
    u = torch.cat([torch.tensor([0.0, 1e-30, float(top)]), torch.linspace(0, float(top), 997)])
    taken = sample(p.log().expand(len(u), 6), u.to(dtype))
    assert (p[taken] > 0).all()
    assert taken[0] == int((p > 0).nonzero()[0])
    assert taken[2] == int((p > 0).nonzero()[-1])


def test_sample_is_the_inverse_cdf():
    """The first action whose cumulative probability exceeds u; leading axes are independent."""
    log_probs = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]], dtype=torch.float64).log()
    u = torch.tensor([0.24, 0.26, 0.74, 0.76], dtype=torch.float64)
    both = sample(log_probs.unsqueeze(1).expand(2, 4, 3), u.expand(2, 4))
    assert both.tolist() == [[0, 1, 1, 2], [0, 0, 1, 2]]


def _generate(dynamics, *, runs=2, prompts=3, group=4, seed=0, forward=None, temperature=None):
    rng = np.random.default_rng(seed)
    size = prompts + 2 * prompts * group * dynamics.horizon
    drawn = rng.random((runs, size), dtype=np.float32)
    noise = Noise.split(drawn, prompts, prompts * group, dynamics.horizon)
    weights = torch.as_tensor(rng.normal(size=(runs, 3, dynamics.num_actions)))

    def linear(obs):
        return obs[..., :3].double() @ weights

    heat = torch.ones(runs, dtype=torch.float64) if temperature is None else temperature
    forward, seen = forward or linear, []

    def act(observation, t):
        obs = torch.as_tensor(observation).view(runs, -1, observation.shape[-1])
        seen.append((obs, log_probs(forward(obs), heat)))
        return sample(seen[-1][1], noise.action[..., t].double())

    action, mask, reward = play(act, dynamics, noise, group_size=group, dtype=torch.float64)
    unseen = [seen[-1]] * (dynamics.horizon - len(seen))
    obs, whole = (torch.stack(x, dim=2) for x in zip(*seen, *unseen, strict=True))
    logp = whole.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    fields = {"old_logp": logp, "old_entropy": logp, "acted_logp": logp}
    kept = {"obs": obs, "log_probs": whole}
    rollout = Rollout(action=action, mask=mask, reward=reward, **fields, seen=kept)
    return rollout, forward, heat, noise


def test_noise_split_uses_every_number_once():
    """The block of uniforms is cut into prompts, actions and transitions without overlap."""
    size = 3 + 2 * 6 * 5
    drawn = np.arange(2 * size, dtype=np.float32).reshape(2, size)
    noise = Noise.split(drawn, 3, 6, 5)
    parts = [
        noise.prompt.reshape(2, -1),
        noise.action.reshape(2, -1),
        noise.transition.reshape(2, -1),
    ]
    for run in range(2):
        used = np.sort(np.concatenate([np.asarray(part[run]) for part in parts]))
        np.testing.assert_array_equal(used, drawn[run])


def test_play_agrees_with_stepping_each_episode_alone():
    """Masks, rewards, actions and observations with early endings, against a plain Python loop."""
    dynamics = StopToken(constant=0.25)
    rollout, forward, _, noise = _generate(dynamics)
    lengths = set()
    for r in range(2):
        for b in range(12):
            prompt = int(noise.prompt[r, b // 4] * dynamics.num_prompts)
            state, ended = dynamics.initial_state(np.array([prompt])), False
            total, length = 0.0, 0
            for t in range(dynamics.horizon):
                assert rollout.mask[r, b, t] == (not ended)
                if ended:
                    assert rollout.reward[r, b, t] == 0
                    continue
                obs = torch.as_tensor(dynamics.observe(state))
                np.testing.assert_array_equal(rollout.seen["obs"][r, b, t], obs[0])
                logits = forward(obs.expand(2, 1, -1))[r, 0]
                log_probs = logits.log_softmax(-1)
                torch.testing.assert_close(rollout.seen["log_probs"][r, b, t], log_probs)
                action = sample(log_probs, noise.action[r, b, t].double())
                assert rollout.action[r, b, t] == action
                state, reward, over = dynamics.step(
                    state, np.array([int(action)]), noise.transition[r, b, t : t + 1]
                )
                assert rollout.reward[r, b, t] == reward[0]
                total, length, ended = total + reward[0], length + 1, bool(over[0])
            assert ended
            assert rollout.returns[r, b] == total
            assert rollout.lengths[r, b] == length
            lengths.add(length)
    assert len(lengths) > 2


def test_a_group_shares_its_prompt_and_the_temperature_is_applied():
    """G responses side by side start alike; log-probabilities are of the policy that acted."""
    heat = torch.tensor([0.5, 3.0], dtype=torch.float64)
    rollout, forward, _, _ = _generate(StopToken(), temperature=heat)
    first = rollout.seen["obs"][:, :, 0].view(2, 3, 4, -1)
    assert (first == first[:, :, :1]).all()
    logits = forward(rollout.seen["obs"].view(2, -1, 3)).view(rollout.seen["log_probs"].shape)
    wanted = (logits / heat.view(2, 1, 1, 1)).log_softmax(-1)
    torch.testing.assert_close(rollout.seen["log_probs"][rollout.mask], wanted[rollout.mask])


def test_play_stops_when_all_episodes_have_ended():
    """All arrays still have the full horizon; what was never generated is masked and worth nothing."""
    dynamics = StopToken(constant=1.0)
    calls = []

    def always_stop(obs):
        calls.append(1)
        return torch.tensor([50.0, 0, 0, 0], dtype=torch.float64).expand(*obs.shape[:-1], 4)

    rollout, *_ = _generate(dynamics, forward=always_stop)
    assert len(calls) == 1
    assert rollout.seen["obs"].shape == (2, 12, 6, 3)
    assert rollout.mask[..., 0].all()
    assert not rollout.mask[..., 1:].any()
    assert (rollout.returns == 1).all()
    assert (rollout.lengths == 1).all()


def test_concatenate_and_map():
    """Joining along the batch axis keeps the order; ``map`` reaches every field."""
    a, *_ = _generate(StopToken(), seed=0)
    b, *_ = _generate(StopToken(), seed=1)
    both = concatenate([a, b])
    for name, value in both.tensors.items():
        assert torch.equal(value[:, :12], a.tensors[name])
        assert torch.equal(value[:, 12:], b.tensors[name])
    for name, value in both.map(lambda x: x[:1]).tensors.items():
        assert torch.equal(value, both.tensors[name][:1])


@pytest.mark.parametrize("dynamics", [forks(), StopToken()], ids=["forks", "stop"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_update_after_a_rollout_is_on_policy(dynamics, temperature):
    """At staleness 0 the ratio is 1: no drift, nothing clipped, nothing dropped, in every arm."""
    arms = [arm(n) for n in ("ppo-clip", "grpo", "dapo", "erc-dapo", "erc-gppo")]
    result = trainer(arms, dynamics, temperature=temperature).run()
    fresh = result.metrics["staleness"][:, 0] == 0
    assert fresh.sum() == 3
    for name, rows in result.metrics.items():
        drifts = name.startswith(("clip/", "gate/", "drift/")) and "entropy" not in name
        if drifts:
            assert np.nanmax(np.abs(rows[fresh])) < 1e-12, name
    assert result.metrics["drift/kl_exact"][~fresh].max() > 0
    sampled_fresh = result.tokens["staleness"] == 0
    assert sampled_fresh.any()
    np.testing.assert_allclose(result.tokens["log_ratio"][sampled_fresh], 0, atol=1e-12)
