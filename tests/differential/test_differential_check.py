"""``erc-bench check`` on the losses of verl and TRL themselves, called as their profiles say.

The rules of the objective that they break, and why: docs/check-field.md.
"""

from __future__ import annotations

import pytest

from differential.trl_losses import require_trl
from differential.verl_losses import core
from erc_bench.conformance import adapt, check

ROWS = {"padding_rows"}  # a mean over all rows
CHOSEN = {"micro_batches", "advantage_scale"}  # tokens are chosen by a covariance over the batch
VERL = {
    "vanilla": set(),
    "dppo_tv": set(),
    "dppo_kl": set(),
    "gspo": set(),
    "sapo": set(),
    "gpg": set(),
    "cispo": set(),
    "geo_mean": ROWS,
    "kl_cov": {*CHOSEN, "advantage_sign"},
    "clip_cov": {
        *CHOSEN,
        "gradient_exists",
        "on_policy_gradient",
        "determinism",
        "clip_restoring_side",
    },
}
TRL = {
    "dapo": ({}, set()),
    "bnpo": ({}, set()),
    "cispo": ({"self.epsilon_high": 5.0}, set()),
    "dapo with a penalty": ({"self.beta": 0.04}, set()),
    "dapo with a sampler": (
        {"self.use_vllm": True, "self.vllm_importance_sampling_correction": True},
        set(),
    ),
    "grpo": ({}, ROWS),
    "sapo": ({}, ROWS),
    "dr_grpo": ({}, ROWS),
}


def broken(loss, **how):
    report = check(adapt(loss, **how))
    objective = [r for r in report.results if r.property.level == "objective"]
    return {r.property.name for r in objective if r.status == "failed"}, {
        r.property.name: r for r in objective
    }


@pytest.mark.parametrize("name", VERL)
def test_verls_registered_losses(name):
    """Without any option; each gives the rollout's weights their due."""
    loss = core().get_policy_loss_fn(name)
    options = {"tau_pos": 1.0, "tau_neg": 1.05} if name == "sapo" else {}
    failed, results = broken(loss, options=options)
    assert failed == VERL[name]
    assert results["rollout_weight"].status == "passed"


@pytest.mark.parametrize("name", TRL)
def test_trls_trainer(name):
    """The method that subclasses override, with a stand-in for the trainer."""
    options, expected = TRL[name]
    options = {"self.loss_type": name.partition(" ")[0], **options}
    failed, results = broken(require_trl().GRPOTrainer._compute_loss, like="trl", options=options)
    assert failed == expected
    if "self.beta" in options:
        assert "coefficient 0.04" in results["reference_penalty"].message
    if "self.use_vllm" in options:
        assert results["rollout_weight"].status == "passed"
