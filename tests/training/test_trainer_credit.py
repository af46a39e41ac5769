import numpy as np
import pytest
import torch
from trainer_runs import StopToken, arm, assert_same_result, trainer

from erc_bench.core.advantages import GROUP_ADVANTAGES, gae, overlong_penalty, whiten
from erc_bench.training.credit import assign_credit
from erc_bench.training.streams import Purpose


def _credit(t):
    rollout = t.engine.respond(
        t.setup, t.state.policy.params, t.setup.dynamics, (Purpose.ROLLOUT, 0, 0), 4, 4
    )
    return rollout, assign_credit(t.setup, t.engine, t.state, rollout)


def _values(t, obs):
    return t.setup.value.forward(t.state.critics[0].params, obs).squeeze(-1)


def test_each_arm_has_its_own_estimator_of_the_right_returns():
    """Group estimators see episode returns and spread them over the response's tokens."""
    arms = [arm("grpo"), arm("reinforce"), arm("grpo", label="c", advantage="group-centred")]
    t = trainer(arms, StopToken())
    rollout, credit = _credit(t)
    for a, runs in zip(t.setup.arms, t.setup.slices, strict=True):
        wanted = GROUP_ADVANTAGES[a.advantage](rollout.returns[runs].view(2, 4, 4)).flatten(1)
        torch.testing.assert_close(
            credit.advantage[runs], wanted.unsqueeze(-1).expand(2, 16, 6), rtol=0, atol=0
        )
    assert credit.advantage.abs().max() > 0
    assert (credit.value_target == 0).all()


@pytest.mark.parametrize("name", ["grpo", "ppo-clip"])
def test_the_overlong_penalty_reaches_arms_that_ask_and_no_others(name):
    """Long answers lose, by eq. 13, in the arm with the penalty; its twin without stays as it was."""
    arms = [arm(name, overlong_penalty=True), arm(name, label="without")]
    t = trainer(arms, StopToken(), overlong_cache=3)
    rollout, credit = _credit(t)
    penalty = overlong_penalty(rollout.lengths, 6, 3).double()
    assert penalty.min() == -1
    assert penalty.max() == 0
    if name == "grpo":
        grouped = (rollout.returns + penalty).view(4, 4, 4)
        wanted = GROUP_ADVANTAGES["group-zscore"](grouped).flatten(1)
        torch.testing.assert_close(credit.advantage[:2, :, 0], wanted[:2])
    else:
        last = torch.zeros_like(rollout.reward)
        last.scatter_(-1, rollout.lengths.unsqueeze(-1) - 1, penalty.unsqueeze(-1))
        values = _values(t, rollout.seen["obs"][:2])
        raw, target = gae(rollout.reward[:2] + last[:2], values, rollout.mask[:2])
        torch.testing.assert_close(credit.advantage[:2], whiten(raw, rollout.mask[:2]))
        torch.testing.assert_close(credit.value_target[:2], target)
    plain = trainer([arm(name)], StopToken(), overlong_cache=3)
    _, alone = _credit(plain)
    torch.testing.assert_close(credit.advantage[2:], alone.advantage, rtol=1e-12, atol=1e-12)
    assert (credit.advantage[:2] - credit.advantage[2:]).abs().max() > 0.1


def test_a_cache_longer_than_the_answer_means_no_penalty():
    """Where the limit is not longer than the cache the penalty would be the same ramp for all."""
    penalised = trainer([arm("grpo", overlong_penalty=True)], StopToken(), overlong_cache=6).run()
    assert_same_result(penalised, trainer([arm("grpo")], StopToken(), overlong_cache=6).run())


def test_masked_tokens_have_no_gae_advantage():
    """Advantages and value targets are zero after the episode's end."""
    t = trainer([arm("ppo-clip")], StopToken())
    rollout, credit = _credit(t)
    assert not rollout.mask.all()
    assert (credit.advantage[~rollout.mask] == 0).all()
    assert (credit.value_target[~rollout.mask] == 0).all()


@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_the_critic_learns_a_constant_return(lam):
    """Where every episode pays 0.7, the value head says so: within 0.02 on average, 0.2 anywhere."""
    dynamics = StopToken(constant=0.7, stopping=0.0)
    t = trainer(
        [arm("ppo-clip")], dynamics, rollouts=30, gae_lambda=lam, learning_rate=1e-2, minibatches=4
    )
    t.run()
    rollout, _ = _credit(t)
    values = _values(t, rollout.seen["obs"])[rollout.mask]
    assert (values - 0.7).abs().mean() < 0.02
    assert (values - 0.7).abs().max() < 0.2


def test_the_value_head_never_moves_the_policy():
    """A critic has parameters of its own: with zero advantages the policy stays where it is."""
    dynamics = StopToken(constant=0.0, stopping=0.0)
    t = trainer([arm("ppo-clip")], dynamics)
    before = {n: p.clone() for n, p in t.state.policy.params.items()}
    critic = {n: p.clone() for n, p in t.state.critics[0].params.items()}
    for p in t.state.critics[0].params.values():
        p.zero_()
    t.run()
    for name, p in t.state.policy.params.items():
        assert torch.equal(p, before[name])
    assert any((critic[n] != 0).any() for n in critic)


def test_critics_of_the_same_seed_start_alike_and_of_others_differ():
    """The value head belongs to the seed, as the policy does."""
    t = trainer([arm("ppo-clip", [1, 2]), arm("dual-clip", [2, 1])])
    a, b = (t.state.critics[n].params for n in (0, 1))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name].flip(0))
    assert not torch.equal(a["last.weight"][0], a["last.weight"][1])
