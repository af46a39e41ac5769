"""The composition equals the official ERC release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from erc_bench.core import drift
from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import masked_mean
from erc_bench.objectives import (
    GPPO,
    DualClip,
    EntropyRatio,
    Objective,
    PPOClip,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    TokenMean,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "erc_release.json"
CASES = json.loads(GOLDEN.read_text())["cases"]
SURROGATES = {"grpo_erc": PPOClip, "gppo_erc": GPPO}
AGGREGATES = {
    "token-mean": TokenMean(),
    "seq-mean-token-mean": SequenceMeanTokenMean(),
    "seq-mean-token-sum": SequenceMeanTokenSum(),
}


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['name']}-{c['aggregation']}-{c['seed']}")
def test_loss_gradient_and_metrics_equal_the_release(case):
    """Value, gradient, clip fraction, keep fraction and k1, to 1e-9 in float64."""
    names = ("log_prob", "old_log_prob", "advantages", "mask", "entropy", "old_entropy")
    x = {name: torch.tensor(case[name], dtype=torch.float64) for name in names}
    logp = x["log_prob"].requires_grad_()
    surrogate = SURROGATES[case["name"]](case["clip_low"], case["clip_high"])
    objective = Objective(
        DualClip(surrogate, case["dual_clip_c"]), aggregate=AGGREGATES[case["aggregation"]]
    ).gated(EntropyRatio(case["beta"], case["beta"]))
    batch = TokenBatch(
        logp=logp,
        old_logp=x["old_log_prob"],
        advantage=x["advantages"],
        mask=x["mask"],
        entropy=x["entropy"],
        old_entropy=x["old_entropy"],
    )
    loss, metrics = objective(batch)
    (gradient,) = torch.autograd.grad(loss, logp)
    expected = torch.tensor(case["expected_grad_log_prob"], dtype=torch.float64)
    exact = {"rtol": 0.0, "atol": 1e-9}
    torch.testing.assert_close(gradient, expected, **exact)
    measured = {
        "expected_loss": loss,
        "expected_clip_fraction": metrics["clip/ratio_bound_fraction"],
        "expected_keep_fraction": 1 - metrics["gate/dropped_fraction"],
        "expected_k1_kl": masked_mean(drift.k1(batch.log_ratio), batch.mask),
    }
    for name, value in measured.items():
        assert value.item() == pytest.approx(case[name], abs=1e-9), name
