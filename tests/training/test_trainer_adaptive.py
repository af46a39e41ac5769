import numpy as np
import pytest
import torch
from trainer_runs import arm, assert_same_result, trainer

from erc_bench.core import drift
from erc_bench.core.numerics import masked_mean
from erc_bench.objectives import make
from erc_bench.training import loop

#: Rollouts move the policy far from the target, in one run more than in the other.
MOVING = {"rollouts": 4, "learning_rate": 2e-2}


def adaptive(**overrides):
    return arm("ppo-kl-adaptive", [0, 1], overrides=overrides)


def beta(t):
    (found,) = t.state.objectives[0].coefficients(2).values()
    return found


@pytest.mark.parametrize(("target", "factor"), [(1e-9, 2.0), (1e3, 0.5)])
def test_the_coefficient_follows_the_measured_kl(target, factor):
    """Far above the target it doubles after every rollout, far below it halves (PPO, section 4)."""
    t = trainer([adaptive(beta=3.0, target=target)], **MOVING)
    t.run()
    assert beta(t).tolist() == [3.0 * factor**4] * 2


def test_what_is_measured_is_the_updated_policy_on_the_rollouts_tokens(monkeypatch):
    """The KL that reaches the objective is that from before the updates to after all of them."""
    t = trainer([arm("grpo", [3]), adaptive()], **MOVING)
    before = {name: p.clone() for name, p in t.state.policy.params.items()}
    seen = {}
    kind = type(t.state.objectives[1])
    adapted = kind.adapted
    monkeypatch.setattr(
        kind, "adapted", lambda self, metrics: seen.update(metrics) or adapted(self, metrics)
    )
    rollouts = []
    collect = loop.collect
    monkeypatch.setattr(loop, "collect", lambda *a: rollouts.append(collect(*a)) or rollouts[-1])
    after = loop.train_on_one_rollout(t.setup, t.engine, t.state)
    _, rollout, _ = rollouts[0]
    logits = [t.setup.policy.forward(p, rollout.seen["obs"]) for p in (before, after.policy.params)]
    old, new = (torch.log_softmax(x, dim=-1) for x in logits)
    expected = masked_mean(drift.kl_exact(old, new), rollout.mask)[1:]
    assert (expected > 0).all()
    torch.testing.assert_close(seen["drift/kl_exact"], expected)


def test_a_resumed_run_has_the_coefficient_it_had(monkeypatch, tmp_path):
    """Interrupted after two rollouts, the records and coefficients are those of the whole run."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    path = tmp_path / "checkpoint.safetensors"

    def population():
        return trainer([adaptive(target=1e-9)], **MOVING)

    def interrupt(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        population().run(on_rollout=interrupt, checkpoint_path=path)
    resumed, whole = population(), population()
    assert_same_result(resumed.run(checkpoint_path=path), whole.run())
    assert torch.equal(beta(resumed), beta(whole))


def test_adapting_is_not_a_fixed_coefficient():
    """The two recipes agree in the first rollout and part afterwards."""
    fixed = arm("ppo-kl", [0, 1], objective=make("ppo-kl", beta=3.0))
    one = trainer([adaptive(beta=3.0, target=1e-9)], **MOVING).run().metrics["loss/total"]
    other = trainer([fixed], **MOVING).run().metrics["loss/total"]
    assert np.array_equal(one[:2], other[:2])
    assert not np.allclose(one[2:], other[2:])
