"""Numbers at the edge: every objective on them, and what one broken run does to all the others."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from erc_bench import api, drift
from erc_bench.batch import TokenBatch
from erc_bench.experiments import execute, plan
from erc_bench.objectives import RECIPES, make
from erc_bench.records import KEYS

B, T = 4, 3


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(**changed):
    """Logits old and new, actions, advantages, mask and rewards of a batch."""
    v = changed.pop("vocabulary", 5)
    given = {
        "logits": normal(B, T, v, seed=1), "old": normal(B, T, v, seed=2),
        "action": torch.arange(B * T).reshape(B, T) % v, "advantage": normal(B, T, seed=3),
        "mask": torch.ones(B, T, dtype=torch.bool),
    }  # fmt: skip
    return {**given, **changed}


def excluded(logits):
    """An action that the policy cannot take: logit -inf."""
    logits = logits.clone()
    logits[..., 4] = -math.inf
    return logits


LAST = torch.arange(B * T).reshape(B, T) % 4
PEAKED = torch.nn.functional.one_hot(torch.zeros(B, T, dtype=torch.long), 5) * 1e4
ROWS = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
EXTREMES = {
    "logits of 1e4": plain(logits=normal(B, T, 5, seed=1, scale=1e4), old=normal(B, T, 5, seed=2, scale=1e4)),
    "logits of 1e4, the same": plain(logits=normal(B, T, 5, scale=1e4), old=normal(B, T, 5, scale=1e4)),
    "an action of probability 0": plain(
        logits=excluded(normal(B, T, 5, seed=1)), old=excluded(normal(B, T, 5, seed=2)), action=LAST
    ),
    "a vocabulary of 1": plain(vocabulary=1),
    "zero entropy": plain(logits=PEAKED, old=PEAKED, action=torch.zeros(B, T, dtype=torch.long)),
    "zero entropy, another mode": plain(logits=PEAKED, old=PEAKED.roll(1, -1)),
    "masked rows": plain(mask=ROWS),
    "everything masked": plain(mask=torch.zeros(B, T, dtype=torch.bool)),
    "NaN where masked": plain(
        mask=ROWS, logits=torch.where(ROWS[..., None], normal(B, T, 5, seed=1), torch.nan),
        old=torch.where(ROWS[..., None], normal(B, T, 5, seed=2), torch.nan),
    ),
    "advantages of 1e8": plain(advantage=normal(B, T, seed=3, scale=1e8)),
    "advantages of 0": plain(advantage=torch.zeros(B, T)),
    "equal advantages": plain(advantage=torch.ones(B, T)),
}  # fmt: skip


def loss_and_gradient(name, given, dtype=torch.float32):
    """An objective's losses, metrics and the gradient at the logits, of a population of two runs."""
    logits = given["logits"].to(dtype).expand(2, -1, -1, -1).clone().requires_grad_()
    wide = {k: given[k].expand(2, *given[k].shape) for k in ("action", "mask")}
    old = given["old"].to(dtype).expand_as(logits)
    batch = TokenBatch.from_logits(
        logits, old, wide["action"], given["advantage"].to(dtype).expand(2, B, T), wide["mask"],
        reward=torch.ones(2, B, dtype=dtype),
        ref_log_probs=torch.log_softmax(old.nan_to_num(0.0), -1),
        ref_logp=torch.log_softmax(old.nan_to_num(0.0), -1).gather(-1, wide["action"][..., None]).squeeze(-1),
        rollout_logp=torch.log_softmax(old.nan_to_num(0.0), -1).gather(-1, wide["action"][..., None]).squeeze(-1),
    )  # fmt: skip
    loss, metrics = make(name)(batch)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return batch, loss, metrics, gradient


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("extreme", EXTREMES)
def test_loss_and_gradient_stay_finite(name, extreme):
    """Every recipe on every extreme: a finite loss, gradient and metrics; alike in both runs."""
    _, loss, metrics, gradient = loss_and_gradient(name, EXTREMES[extreme])
    assert loss.isfinite().all(), loss
    assert gradient.isfinite().all(), gradient
    assert gradient[0].equal(gradient[1])
    for metric, value in metrics.items():
        assert not value.isinf().any(), metric
        if extreme != "everything masked":
            assert value.isfinite().all(), metric


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("extreme", EXTREMES)
def test_half_precision_is_finite_or_flagged(name, dtype, extreme):
    """In 16 bits: what float16 (at most 65504) cannot hold is an infinite loss, which flags the run.

    A gradient is never NaN where the loss is finite, and bfloat16 holds everything.
    """
    if extreme == "advantages of 1e8" and dtype is torch.float16:
        return  # infinite on the way in
    _, loss, _, gradient = loss_and_gradient(name, EXTREMES[extreme], dtype)
    assert gradient.dtype is dtype
    assert not loss.isnan().any()
    if dtype is torch.bfloat16 or extreme != "logits of 1e4":
        assert loss.isfinite().all(), loss
    if loss.isfinite().all():
        assert gradient.isfinite().all(), gradient


@pytest.mark.parametrize("extreme", EXTREMES)
def test_drift_is_finite_or_infinite_but_never_nan(extreme):
    """The exact measures: infinite where a distribution loses an action of the old one, NaN nowhere."""
    batch, *_ = loss_and_gradient("dapo", EXTREMES[extreme])
    found = drift.measure(
        batch, clip_low=0.2, clip_high=0.2, band_low=0.05, band_high=0.05, delta=0.01
    )
    for metric, value in found.items():
        if extreme != "everything masked":
            assert not value.isnan().any(), metric
