"""verl's own path gives the loss and gradient of our Objective, however verl splits the batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from erc_bench.adapters.reads import fields_read
from erc_bench.adapters.verl.settings import Settings
from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.objectives import RECIPES, make

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "erc_release.json").read_text())["cases"]
RELEASE = {"grpo_erc": "erc-dapo", "gppo_erc": "erc-gppo"}
WHOLE = {"log_probs", "old_log_probs", "ref_log_probs"}
TOKEN_LEVEL = [name for name in RECIPES if not fields_read(make(name)) & WHOLE]

with_verl = pytest.mark.skipif(find_spec("verl") is None, reason="verl is not installed")
#: What verl's worker and trainer import beyond the packages of our extra.
WORKER_NEEDS = [
    p for p in ("verl", "peft", "uvicorn", "fastapi", "transfer_queue") if not find_spec(p)
]
with_worker = pytest.mark.skipif(
    bool(WORKER_NEEDS), reason=f"not installed: {', '.join(WORKER_NEEDS)}"
)


def fields(rows=6, length=7, seed=0):
    """A ragged float64 batch on which every clip and gate binds somewhere."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    shape = (rows, length)
    old_logp, entropy = -normal(*shape).abs() - 0.01, normal(*shape).abs()
    lengths = torch.randint(1, length + 1, (rows,), generator=g)
    return {
        "logp": old_logp + 0.3 * normal(*shape),
        "old_logp": old_logp,
        "advantage": normal(*shape),
        "mask": torch.arange(length) < lengths[:, None],
        "entropy": entropy,
        "old_entropy": entropy * (0.06 * normal(*shape)).exp(),
        "ref_logp": old_logp + 0.2 * normal(*shape),
        "rollout_logp": old_logp + 0.4 * normal(*shape),
        "reward": (torch.arange(rows) % 2).double(),
    }


def directly(objective, given):
    """Loss, gradients and metrics of the Objective on the whole batch."""
    leaves = {n: given[n].clone().requires_grad_() for n in ("logp", "entropy")}
    loss, metrics = objective(TokenBatch(**{**given, **leaves}))
    loss.backward()
    grads = {n: torch.zeros_like(x) if x.grad is None else x.grad for n, x in leaves.items()}
    return loss.detach(), grads, metrics


@with_verl
@pytest.mark.parametrize("name", TOKEN_LEVEL)
def test_loss_and_gradients_of_every_token_level_recipe(name):
    """Value, gradients and metrics are the Objective's, to 1e-9 in float64."""
    from verl_path import drive

    given = fields()
    loss, grads, metrics = drive(given, name)
    expected_loss, expected, expected_metrics = directly(make(name), given)
    torch.testing.assert_close(loss.double(), expected_loss, rtol=0, atol=1e-9)
    for leaf, gradient in expected.items():
        torch.testing.assert_close(grads[leaf], gradient, rtol=0, atol=1e-9)
    assert grads["logp"].abs().sum() > 0
    for metric, value in expected_metrics.items():
        assert metrics[f"actor/{metric}"] == pytest.approx(value.item(), abs=1e-9)


@with_verl
@pytest.mark.parametrize(
    ("name", "further"),
    [
        ("dapo", {}),
        ("erc-dapo", {"positive_nll": 0.1, "dual_clip": 1.5}),
        ("erc-gppo", {}),
        ("gppo", {}),
        ("grpo", {"parameters": {"beta": 0.04}}),
        ("dr-grpo", {}),
        ("gspo", {"parameters": {"clip_low": 0.1, "clip_high": 0.1}}),
    ],
)
def test_one_and_four_micro_batches_add_up_to_the_same(name, further):
    """With aggregation=global, a mini-batch's gradient and metrics do not depend on its split."""
    from verl_path import drive

    given = fields(rows=8)
    whole, split = (drive(given, name, micro_batches=n, **further) for n in (1, 4))
    torch.testing.assert_close(split[0], whole[0], rtol=0, atol=1e-9)
    for leaf in whole[1]:
        torch.testing.assert_close(split[1][leaf], whole[1][leaf], rtol=0, atol=1e-9)
    for metric in whole[2]:
        assert split[2][metric] == pytest.approx(whole[2][metric], abs=1e-9), metric


@with_verl
def test_aggregation_by_micro_batch_is_the_release_s():
    """Each micro-batch's own token mean, weighted by its share of the responses."""
    from verl_path import drive

    given = fields(rows=8)
    settings = {"positive_nll": 0.1, "aggregation": "micro-batch"}
    loss, grads, metrics = drive(given, "erc-dapo", micro_batches=4, **settings)
    objective = Settings("erc-dapo", positive_nll=0.1).built
    parts = [{n: x[i : i + 2] for n, x in given.items()} for i in range(0, 8, 2)]
    found = [directly(objective, part) for part in parts]
    torch.testing.assert_close(loss.double(), sum(f[0] for f in found) / 4, rtol=0, atol=1e-9)
    expected = torch.cat([f[1]["logp"] for f in found]) / 4
    torch.testing.assert_close(grads["logp"], expected, rtol=0, atol=1e-9)
    whole = drive(given, "erc-dapo", positive_nll=0.1)
    assert (grads["logp"] - whole[1]["logp"]).abs().max() > 1e-3, "the two must differ here"
    share = "actor/gate/dropped_fraction"
    assert metrics[share] == pytest.approx(whole[2][share], abs=1e-9)


@with_verl
@pytest.mark.parametrize(
    "case",
    [c for c in GOLDEN if c["aggregation"] == "token-mean"],
    ids=lambda c: f"{c['name']}-{c['seed']}",
)
def test_gradient_equals_the_official_release(case):
    """The release's own numbers, through verl, to 1e-9 in float64."""
    from verl_path import verl_loss

    names = {
        "logp": "log_prob",
        "old_logp": "old_log_prob",
        "advantage": "advantages",
        "mask": "mask",
        "entropy": "entropy",
        "old_entropy": "old_entropy",
    }
    given = {
        ours: torch.tensor(case[theirs], dtype=torch.float64) for ours, theirs in names.items()
    }
    parameters = {
        "band_low": case["beta"],
        "band_high": case["beta"],
        "clip_low": case["clip_low"],
        "clip_high": case["clip_high"],
    }
    loss, gradient, metrics = verl_loss(
        given, RELEASE[case["name"]], parameters, dual_clip=case["dual_clip_c"]
    )
    expected = torch.tensor(case["expected_grad_log_prob"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-9)
    assert loss.item() == pytest.approx(case["expected_loss"], abs=1e-9)
    kept = case["expected_keep_fraction"]
    assert metrics["actor/gate/dropped_fraction"] == pytest.approx(1 - kept, abs=1e-9)


@with_verl
def test_metrics_keep_their_names_through_verl_s_reduction():
    """verl takes the maximum of a metric whose name contains max, and the minimum with min."""
    from verl_path import drive

    for name in TOKEN_LEVEL:
        metrics = drive(fields(), name, positive_nll=0.0)[2]
        ours = [n for n in metrics if n.startswith(("actor/clip", "actor/gate", "actor/drift"))]
        assert len(ours) >= 5
        assert not [n for n in metrics if "max" in n or "min" in n]


@with_verl
def test_drift_metrics_are_token_means():
    """Entropies, k3 and the share outside the band are plain means over unmasked tokens."""
    from verl_path import drive

    given = fields()
    metrics = drive(given, "dapo", micro_batches=3)[2]
    mask = given["mask"]
    rho = (given["entropy"] + 1e-8) / (given["old_entropy"] + 1e-8)
    log_ratio = given["logp"] - given["old_logp"]
    expected = {
        "out_of_band_fraction": ((rho <= 0.95) | (rho >= 1.05)).double(),
        "entropy_old": given["old_entropy"],
        "entropy_new": given["entropy"],
        "kl_k3": log_ratio.exp() - 1 - log_ratio,
    }
    for name, per_token in expected.items():
        value = per_token[mask].mean().item()
        assert metrics[f"actor/drift/{name}"] == pytest.approx(value, abs=1e-9)
    assert 0 < metrics["actor/drift/out_of_band_fraction"] < 1


@with_verl
def test_the_loss_without_our_trainer_says_so():
    """loss_mode=erc_bench under a stock trainer is an error, not a loss without its gate."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn

    import erc_bench.adapters.verl  # noqa: F401

    x = torch.zeros(1, 2)
    with pytest.raises(InputError, match="trainer_mode: must be erc_bench"):
        get_policy_loss_fn("erc_bench")(
            old_log_prob=x, log_prob=x, advantages=x, response_mask=x.bool()
        )


def config(**changed):
    """verl's configuration as far as it is checked; ``changed`` replaces values at dotted keys."""
    whole = {
        "trainer": {"v1": {"trainer_mode": "erc_bench", "erc_bench": {"objective": "erc-dapo"}}},
        "algorithm": {"rollout_correction": {"bypass_mode": False, "rollout_is": None}},
        "actor_rollout_ref": {
            "actor": {
                "policy_loss": {"loss_mode": "erc_bench"},
                "calculate_entropy": True,
                "use_kl_loss": False,
                "kl_loss_coef": 0.001,
                "clip_ratio": 0.2,
                "clip_ratio_low": 0.2,
                "clip_ratio_high": 0.2,
                "clip_ratio_c": 3.0,
                "loss_agg_mode": "token-mean",
            },
            "rollout": {"calculate_log_probs": False},
        },
        "distillation": {"enabled": False},
    }
    for key, value in changed.items():
        *path, last = key.split("__")
        at = whole
        for part in path:
            at = at[part]
        at[last] = value
    return whole


ACTOR, SECTION = "actor_rollout_ref__actor", "trainer__v1__erc_bench"


def test_the_paper_s_configuration_is_accepted():
    """Keys of verl that say what the objective says may stay."""
    section = {"objective": "erc-dapo", "dual_clip": 10.0, "positive_nll": 0.1}
    changed = {f"{ACTOR}__clip_ratio_high": 0.28, f"{ACTOR}__clip_ratio_c": 10.0}
    settings = Settings.from_config(config(**{SECTION: section}, **changed))
    assert settings.built.regularizers[0].coefficient == 0.1
    assert settings.built.surrogate.c == 10.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({f"{ACTOR}__calculate_entropy": False}, "calculate_entropy: False, must be True"),
        ({f"{ACTOR}__policy_loss": {"loss_mode": "vanilla"}}, "loss_mode: 'vanilla'"),
        ({"algorithm__rollout_correction__bypass_mode": True}, "bypass_mode: True"),
        ({"algorithm__rollout_correction__rollout_is": "token"}, "rollout_is: 'token'"),
        ({"distillation__enabled": True}, "distillation.enabled"),
        ({SECTION: {}}, r"erc_bench.objective: not set"),
        ({SECTION: None}, r"erc_bench.objective: not set"),
        ({SECTION: {"objective": "erc-dapo", "band": 0.1}}, "erc_bench.band: unknown"),
        ({SECTION: {"objective": "erc-dopa"}}, "did you mean erc-dapo"),
        ({SECTION: {"objective": "kl-gate-dapo"}}, "whole distributions"),
        ({SECTION: {"objective": "dapo", "parameters": {"beta": 1}}}, "no parameter 'beta'"),
        ({SECTION: {"objective": "dapo", "parameters": {"clip_low": "x"}}}, "must be a number"),
        ({SECTION: {"objective": "dapo", "parameters": 3}}, "parameters: 3 .* must be a table"),
        ({SECTION: {"objective": "dapo", "positive_nll": -1}}, "positive_nll: -1"),
        ({SECTION: {"objective": "dapo", "positive_nll": True}}, "positive_nll: True"),
        (
            {SECTION: {"objective": "dapo", "aggregation": "local"}},
            "must be 'global' or 'micro-batch'",
        ),
        ({SECTION: {"objective": "cispo", "dual_clip": 3.0}}, "dual_clip: cispo has no clip"),
        ({SECTION: {"objective": "dapo-tis"}}, "calculate_log_probs: False"),
        ({SECTION: {"objective": "grpo", "parameters": {"beta": 0.1}}}, "use_kl_loss"),
        ({f"{ACTOR}__clip_ratio_high": 0.3}, "clip_ratio_high: 0.3, but the objective has 0.28"),
        ({f"{ACTOR}__clip_ratio_c": 10.0}, "set trainer.v1.erc_bench.dual_clip"),
        ({f"{ACTOR}__loss_agg_mode": "seq-mean-token-mean"}, "loss_agg_mode"),
    ],
)
def test_a_configuration_that_would_train_something_else_is_refused(changed, message):
    """One line that names key, value and what is needed, before anything starts."""
    with pytest.raises(InputError, match=message) as raised:
        Settings.from_config(config(**changed))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [n for n in RECIPES if n not in TOKEN_LEVEL])
def test_recipes_of_whole_distributions_are_refused(name):
    """verl keeps no distributions: such a recipe cannot run, and says so at the start."""
    with pytest.raises(InputError, match="whole distributions"):
        Settings(name)


def test_a_missing_verl_leaves_nothing_registered_and_no_error():
    """The package is importable for its settings where verl is not installed."""
    code = (
        "import sys; sys.modules['verl'] = None\n"
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'verl' else real(n, *a)\n"
        "import erc_bench.adapters.verl as plugin; print(plugin.NAME)"
    )
    assert _python("-c", code).stdout.strip() == "erc_bench"


@with_worker
@pytest.mark.parametrize(
    ("settings", "ranks", "micro_tokens"),
    [
        ({"objective": "erc-dapo", "positive_nll": 0.1}, 1, 400),
        ({"objective": "erc-dapo", "positive_nll": 0.1}, 1, 40),
        ({"objective": "erc-dapo", "positive_nll": 0.1}, 2, 40),
        ({"objective": "grpo"}, 1, 40),
        ({"objective": "dapo-entropy"}, 1, 40),
    ],
    ids=["one-micro-batch", "micro-batches", "two-ranks", "grpo", "entropy-bonus"],
)
def test_one_update_by_verl_s_worker(tmp_path, settings, ranks, micro_tokens):
    """The gradient that reaches the parameters is the Objective's, over micro-batches and ranks."""
    import verl_tiny

    request = {
        "model": str(verl_tiny.write_model(tmp_path / "model")),
        "settings": settings,
        "strategy": "fsdp2",
        "micro_tokens": micro_tokens,
        "out": str(tmp_path / "out.pt"),
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    _workers(tmp_path / "request.json", ranks)
    out = torch.load(tmp_path / "out.pt")
    assert out["found"].keys() == out["expected"].keys()
    for name, expected in out["expected"].items():
        torch.testing.assert_close(out["found"][name], expected, rtol=0, atol=1e-6, msg=name)
    assert out["metrics"]["loss"] == pytest.approx(out["loss"], abs=1e-6)
    assert 0 < out["metrics"]["actor/drift/out_of_band_fraction"] < 1
    norm = torch.stack([g.norm() for g in out["expected"].values()]).norm().item()
    assert out["metrics"]["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert norm > 0


def _workers(request, ranks):
    """One process for each rank; all must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, str(HERE / "verl_engine.py"), str(request)],
            env=_environment()
            | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "VERL_PLATFORM": "cpu",
                "VERL_USE_EXTERNAL_MODULES": "verl_cpu",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    said = [process.communicate(timeout=300)[0] for process in running]
    for process, text in zip(running, said, strict=True):
        assert process.returncode == 0, text[-3000:]


def _environment():
    paths = [str(ROOT), str(ROOT / "envs"), str(HERE), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "OMP_NUM_THREADS": "1",
    }


def _python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], env=_environment(), capture_output=True, text=True, check=True
    )
