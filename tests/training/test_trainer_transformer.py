"""The trainer's promises, kept with a transformer on token contexts."""

import numpy as np
import pytest
import torch
from trainer_runs import Echo, arm, assert_same_result, parameters, trainer

from erc_bench.training import loop

#: A band so narrow that the gate drops tokens in every run of this small task.
NARROW = {"band_low": 0.002, "band_high": 0.002}
ARMS = {"ppo-clip": {}, "dapo": {}, "erc-dapo": NARROW, "grpo": {}}


def arms(names=tuple(ARMS), seeds=(0, 1)):
    return [arm(name, seeds, overrides=ARMS[name]) for name in names]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache of warm starts."""
    monkeypatch.setenv("ERC_BENCH_CACHE", str(tmp_path / "cache"))


def make(runs, **settings):
    settings = {"policy": "transformer", "hidden": 8, "warm_start_steps": 40, **settings}
    return trainer(runs, Echo(), **settings)


def test_a_run_alone_equals_the_same_run_in_a_population():
    """Parameters, metrics and tokens after 52 updates; the arms beside it do differ."""
    long = {"rollouts": 13, "minibatches": 4, "prompts": 8, "learning_rate": 3e-3}
    crowd = make(arms(), **long)
    together = crowd.run()
    for run, name, seed in ((3, "dapo", 1), (4, "erc-dapo", 0)):
        lonely = make(arms([name], [seed]), **long)
        alone = lonely.run()
        assert len(alone.metrics["rollout"]) == 52
        for ours, theirs in zip(parameters(lonely, 0), parameters(crowd, run), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)
        assert_same_result(alone, together, [0], [run], rtol=1e-7, atol=1e-8)
    ends = [torch.cat([p.flatten() for p in parameters(crowd, run)]) for run in range(8)]
    assert min((a - b).abs().max() for n, a in enumerate(ends) for b in ends[:n]) > 1e-4


def test_a_resumed_run_leaves_the_records_of_an_uninterrupted_one(tmp_path, monkeypatch):
    """Stopped after the second rollout, its warm starts gone from the cache or not: bit for bit."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)

    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(arms()).run(on_rollout=stop, checkpoint_path=tmp_path / "state")
    assert (tmp_path / "state").exists()
    monkeypatch.setenv("ERC_BENCH_CACHE", str(tmp_path / "another"))
    resumed = make(arms()).run(checkpoint_path=tmp_path / "state")
    assert_same_result(make(arms()).run(), resumed)


def test_the_first_update_after_a_rollout_is_on_policy():
    """What the rollout decoded step by step is what the update sees in one pass: the ratio is 1."""
    result = make(arms()).run()
    fresh = result.metrics["staleness"][:, 0] == 0
    for name, rows in result.metrics.items():
        if name.startswith(("clip/", "gate/", "drift/")) and "entropy" not in name:
            assert np.nanmax(np.abs(rows[fresh])) < 1e-12, name
    assert result.metrics["drift/kl_exact"][~fresh].max() > 0
