"""Regimes as settings: old rollouts, wrong verdicts, another split, a rounded sampler, warm-up, placebos."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from trainer_runs import arm, assert_same_result, trainer

from erc_bench.training import loop
from erc_bench.training.distortion import round_to_bits
from erc_bench.training.optimizer import Adam
from erc_bench.training.rollout import log_probs
from erc_bench.training.streams import Purpose

REGIMES = [
    {"rollout_lag": 1},
    {"rollout_lag": 3},
    {"false_positives": 0.4},
    {"false_negatives": 0.4},
    {"minibatches_of": "responses"},
    {"rollout_weight_bits": 4, "old_policy": "rollout"},
    {"rollout_weight_bits": 4, "rollout_jitter": 0.1},
    {"weight_decay": 0.5},
    {"warmup_updates": 5},
]
NAMES = ("ppo-clip", "erc-dapo", "placebo-erc-dapo")
each = pytest.mark.parametrize("regime", REGIMES, ids=str)
engines = pytest.mark.parametrize("dtype", ["float32", "float64"], ids=["native", "torch"])
LONG = {"rollouts": 5, "token_samples": 2}


def population(seeds=(0, 1, 2), names=NAMES, **settings):
    return trainer([arm(name, seeds) for name in names], **{**LONG, **settings})


@each
def test_it_changes_what_is_recorded(regime):
    plain, changed = population().run(), population(**regime).run()
    assert (plain.metrics["grad/norm"] != changed.metrics["grad/norm"]).any(axis=0).all()


@each
@engines
def test_a_run_alone_equals_the_run_in_a_population(regime, dtype):
    """Bit by bit on the native engine; torch's batched products round by the size of the batch."""
    together = population(**regime, dtype=dtype).run()
    close = {} if dtype == "float32" and "rollout_weight_bits" not in regime else {"rtol": 1e-6}
    for place, name in enumerate(NAMES):
        alone = population([1], [name], **regime, dtype=dtype).run()
        assert_same_result(alone, together, [0], [3 * place + 1], **close)


@each
@pytest.mark.parametrize("at", [1, 3])
def test_it_resumes(regime, at, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)

    def interrupt(done):
        if done == at:
            raise KeyboardInterrupt

    path = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        population(**regime).run(on_rollout=interrupt, checkpoint_path=path)
    resumed = population(**regime).run(checkpoint_path=path)
    assert_same_result(resumed, population(**regime).run())


def collected(t, rollouts):
    """Rollouts of a trainer, each after the updates on the one before."""
    state, found = t.state, []
    for _ in range(rollouts):
        _, rollout, _ = loop.collect(t.setup, t.engine, state)
        found.append(({n: p.clone() for n, p in state.policy.params.items()}, rollout))
        state = loop.train_on_one_rollout(t.setup, t.engine, state)
    return found


def test_every_run_answers_with_the_policy_of_its_lag():
    """Lags of 0, 1 and 2 in one population, against the policies recomputed."""
    lags = torch.tensor([0, 1, 2])
    t = trainer([arm("reinforce", [0, 0, 0], rollout_lag=lags)], rollouts=4)
    found = collected(t, 4)
    for number, (_, rollout) in enumerate(found):
        for run, lag in enumerate(lags.tolist()):
            params, _ = found[max(0, number - lag)]
            whole = log_probs(t.setup.policy.forward(params, rollout.seen["obs"]), None)[run]
            torch.testing.assert_close(rollout.seen["log_probs"][run], whole)
    last = found[-1][1].old_logp
    assert not torch.equal(last[0], last[1])
    assert not torch.equal(last[1], last[2])


def test_without_updates_lag_changes_nothing():
    still = {"learning_rate": 0.0}
    assert_same_result(population(**still).run(), population(rollout_lag=2, **still).run())


def test_verdicts_are_wrong_as_often_as_asked_and_the_record_keeps_the_true_return():
    """Each rate by itself, in a population where each run has its own."""
    rates = {
        "false_positives": torch.tensor([0.0, 0.3, 0.0, 1.0]),
        "false_negatives": torch.tensor([0.0, 0.0, 0.4, 1.0]),
    }
    settings = {"prompts": 256, "group_size": 8, "rollouts": 1, "learning_rate": 0.0}
    t = trainer([arm("grpo", [0] * 4, **rates)], **settings)
    _, judged, mean = loop.collect(t.setup, t.engine, t.state)
    true = judged.returns[0]
    assert set(true.tolist()) == {0.0, 1.0}
    for run in range(4):
        given = judged.returns[run]
        for verdict, name in ((0.0, "false_positives"), (1.0, "false_negatives")):
            of, rate = true == verdict, float(rates[name][run])
            wrong = (given[of] != verdict).double().mean()
            assert abs(float(wrong) - rate) <= 4 * (rate * (1 - rate) / int(of.sum())) ** 0.5
    torch.testing.assert_close(mean, true.mean().expand(4))
    result = t.run()
    assert np.ptp(result.metrics["reward/mean"]) < 1e-12
    assert np.ptp(result.runs["reward/final"]) < 1e-12


def test_minibatches_of_responses_are_the_whole_rollout_in_another_order_for_each_run():
    """Every field is moved alike: the minibatches' rows are the rollout's, with all that belongs to them."""
    t = population(minibatches_of="responses", minibatches=4)
    state, rollout, _ = loop.collect(t.setup, t.engine, t.state)
    credit = loop.assign_credit(t.setup, t.engine, state, rollout)
    parts = list(loop.minibatches(t.setup, state, rollout, credit))

    def rows(x):
        return [sorted(map(tuple, run.flatten(1).tolist())) for run in x]

    def columns(old_logp, action, advantage, reward):
        wide = [x.double().flatten(2) for x in (old_logp, action, advantage, reward.unsqueeze(-1))]
        return torch.cat(wide, dim=-1)

    whole = columns(rollout.old_logp, rollout.action, credit.advantage, rollout.returns)
    cut = [
        columns(*(p.fixed[n] for n in ("old_logp", "action", "advantage", "reward"))) for p in parts
    ]
    assert rows(torch.cat(cut, dim=1)) == rows(whole)
    groups = whole.split(whole.shape[1] // 4, dim=1)
    assert all(
        rows(a)[run] != rows(b)[run] for a, b in zip(cut, groups, strict=True) for run in (0, 1)
    )


@pytest.mark.parametrize("bits", [8, 4])
def test_the_sampler_is_the_policy_with_rounded_weights(bits):
    """The same error in every rollout, where noise would be drawn anew."""
    t = trainer([arm("grpo")], rollout_weight_bits=bits, old_policy="rollout", learning_rate=0.0)
    rounded = {n: round_to_bits(p, torch.tensor(bits)) for n, p in t.state.policy.params.items()}
    for _, rollout in collected(t, 2):
        whole = log_probs(t.setup.policy.forward(rounded, rollout.seen["obs"]), None)
        torch.testing.assert_close(rollout.seen["log_probs"], whole)
    drift = t.run().metrics["drift/kl_exact"]
    assert (drift > 0).all()


def test_the_step_size_rises_in_equal_steps():
    adam = Adam(torch.tensor([1.0, 3.0]), warmup=4)
    found = torch.stack([adam.rate(torch.tensor(k)) for k in range(6)])
    wanted = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.0])
    torch.testing.assert_close(found, wanted.unsqueeze(1) * torch.tensor([1.0, 3.0]))
    first = trainer([arm("grpo")], rollouts=1, minibatches=1, warmup_updates=1)
    before = [p.clone() for p in first.state.policy.params.values()]
    first.run()
    after = first.state.policy.params.values()
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_orders_are_drawn_anew_for_every_update():
    """Also when an epoch comes back to the same tokens."""
    t = population(names=["placebo-erc-dapo"], epochs=2, minibatches=1)
    state, rollout, _ = loop.collect(t.setup, t.engine, t.state)
    credit = loop.assign_credit(t.setup, t.engine, state, rollout)
    a, b = (p.fixed["order"] for p in loop.minibatches(t.setup, state, rollout, credit))
    assert not torch.equal(a, b)
    assert len(np.unique([x.tolist() for x in a], axis=0)) == 3
    assert Purpose.ORDER != Purpose.TOKEN_SAMPLE
