"""verl's worker with our objectives on the CPU, and what a configuration must say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from erc_bench.errors import InputError

pytest.importorskip("verl", reason="verl is not installed: see docs/verl.md")
pytest.importorskip("transfer_queue", reason="verl's trainer needs TransferQueue")

OBJECTIVES = ("dapo", "erc-dapo", "gppo", "erc-gppo", "grpo", "gspo", "erc-gppo+nll")
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def _plugin():
    """Imported once; Ray and verl warn of themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import erc_bench.adapters.verl  # noqa: F401


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """What the worker's process found: one of verl's TrainingWorkers, no Ray."""
    paths = [TESTS, TESTS.parent, TESTS.parent / "envs"]
    done = subprocess.run(
        [
            sys.executable, str(TESTS / "adapters" / "verl_worker.py"),
            str(tmp_path_factory.mktemp("model")), ",".join(OBJECTIVES),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT "))["found"]


@pytest.mark.parametrize("rows", [8, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_worker_takes_the_objectives_gradient(worker, name, rows):
    """Loss and gradient of every parameter, of the whole mini-batch, whatever the micro-batch."""
    (found,) = (f for f in worker if f["objective"] == name and f["rows"] == rows)
    assert found["gradient_size"] > 1e-2
    tolerance = 1e-6
    if name.endswith("+nll") and rows < 8:  # averaged within micro-batches: documented
        assert found["gradient_error"] > 1e-6
        assert found["gradient_error"] < 0.1 * found["gradient_size"]
        return
    assert found["loss_error"] < tolerance
    assert found["gradient_error"] < tolerance * max(1.0, found["gradient_size"])


def test_worker_reports_our_metrics(worker):
    """Under verl's prefix; shares of the mini-batch do not depend on micro-batches."""
    erc = {f["rows"]: f["metrics"] for f in worker if f["objective"] == "erc-dapo"}
    dapo = next(f["metrics"] for f in worker if f["objective"] == "dapo")
    for name in ("gate/dropped_fraction", "clip/ratio_bound_fraction", "drift/entropy_new"):
        assert erc[8][f"actor/{name}"] == pytest.approx(erc[2][f"actor/{name}"], rel=1e-5)
    assert 0.1 < erc[8]["actor/gate/dropped_fraction"] < 0.9
    assert erc[8]["actor/gate/dropped_fraction"] == erc[8]["actor/drift/out_of_band_fraction"]
    assert dapo["actor/gate/dropped_fraction"] == 0
    assert dapo["actor/drift/out_of_band_fraction"] > 0.1


@pytest.fixture
def config():
    """Verl's own configuration with the plug-in's keys."""
    from hydra import compose, initialize_config_module
    from omegaconf import open_dict

    with initialize_config_module("verl.trainer.config", version_base=None):
        found = compose(
            "ppo_trainer",
            overrides=[
                "trainer.v1.trainer_mode=erc_bench",
                "actor_rollout_ref.actor.policy_loss.loss_mode=erc_bench",
                "actor_rollout_ref.actor.calculate_entropy=True",
                "+trainer.v1.erc_bench.objective=erc-dapo",
                "+trainer.v1.erc_bench.parameters.band_low=0.1",
            ],
        )
    with open_dict(found):
        yield found


def _check(config):
    from omegaconf import OmegaConf

    from erc_bench.adapters.verl.settings import require_consistent, settings

    chosen = settings(OmegaConf.to_container(config.trainer.v1.erc_bench))
    require_consistent(config, chosen.build())
    return chosen


def test_settings_are_read(config):
    chosen = _check(config)
    assert chosen.build().gates[0].low == 0.1
    assert chosen.aggregation == "global"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainer.v1.erc_bench.objectiv", "dapo", "erc_bench.objectiv: unknown"),
        ("trainer.v1.erc_bench.objective", "erc-dapoo", "did you mean"),
        ("trainer.v1.erc_bench.objective", "tv-gate-dapo", "verl gives no old_log_probs"),
        ("trainer.v1.erc_bench.objective", "dapo", "no parameter 'band_low'"),
        ("trainer.v1.erc_bench.aggregation", "mean", "must be global or micro-batch"),
        ("trainer.v1.erc_bench.positive_nll", -0.1, "must be a number >= 0"),
        ("trainer.v1.erc_bench.parameters.band_low", "wide", "band_low: 'wide'"),
        ("actor_rollout_ref.actor.calculate_entropy", False, "calculate_entropy: False"),
        ("actor_rollout_ref.actor.policy_loss.loss_mode", "vanilla", "loss_mode: 'vanilla'"),
        ("actor_rollout_ref.actor.entropy_coeff", 0.01, "entropy_coeff: 0.01"),
        ("actor_rollout_ref.actor.use_kl_loss", True, "use_kl_loss: True"),
        ("actor_rollout_ref.actor.clip_ratio_high", 0.4, "clip_ratio_high: 0.4 has no effect"),
        ("actor_rollout_ref.actor.loss_agg_mode", "seq-mean-token-sum", "loss_agg_mode"),
        ("algorithm.rollout_correction.bypass_mode", True, "bypass_mode: True"),
        ("algorithm.rollout_correction.rollout_is", "token", "rollout_is: has no effect"),
    ],
)
def test_what_would_train_something_else_is_refused(config, key, value, message):
    """By name, before any worker starts."""
    from omegaconf import OmegaConf

    if value == "tv-gate-dapo":
        config.trainer.v1.erc_bench.parameters = {}
    OmegaConf.update(config, key, value, force_add=True)
    with pytest.raises(InputError, match=message):
        _check(config)


def test_the_loss_alone_says_that_it_needs_the_trainer():
    """Another trainer would otherwise train something else without a word."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    with pytest.raises(InputError, match="needs trainer.v1.trainer_mode=erc_bench"):
        get_policy_loss_fn("erc_bench")(old_log_prob=None, log_prob=None)


def test_verl_finds_the_trainer_by_name():
    from verl.trainer.ppo.v1 import get_trainer_cls

    from erc_bench.adapters.verl import ObjectiveTrainer

    assert get_trainer_cls("erc_bench") is ObjectiveTrainer
