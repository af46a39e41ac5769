"""Recipes against verl 0.9.1: its registered policy losses, aggregations, penalties, advantages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st

from differential import verl_losses
from differential.batches import assert_same, fields, ours, random_fields
from differential.verl_losses import CASES, WITHOUT_RECIPE, theirs
from erc_bench.core import advantages
from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import masked_mean
from erc_bench.objectives import (
    FixedHorizon,
    KLEstimate,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    TokenMean,
    make,
)

HORIZON = 13
AGGREGATES = {
    "token-mean": TokenMean(),
    "seq-mean-token-sum": SequenceMeanTokenSum(),
    "seq-mean-token-mean": SequenceMeanTokenMean(),
    "seq-mean-token-sum-norm": FixedHorizon(HORIZON),
}


@pytest.fixture(scope="module", autouse=True)
def core():
    return verl_losses.core()


@pytest.mark.parametrize("case", CASES, ids=str)
@settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis_given(data=st.data())
def test_loss_and_gradient_equal_verl(case, data):
    """On ragged batches, from on-policy to log-ratios of tens: value and gradient, float64."""
    options = ("limit", "per_response", "empty_rows", "probabilities")
    given = data.draw(fields(**{name: getattr(case, name) for name in options}))
    scale = (
        {"loss_scale_factor": case.parameters["horizon"]} if "horizon" in case.parameters else {}
    )
    expected = theirs(given, case.loss, case.mode, case.config, **scale)
    found = ours(make(case.recipe, **case.parameters), given)
    assert_same(found, expected, case.tolerance, value=case.value)


def test_every_registered_loss_of_verl_is_compared_or_named(core):
    """A loss that a later verl adds is noticed here."""
    covered = {case.loss for case in CASES}
    theirs = set(core.POLICY_LOSS_REGISTRY) - {"erc_bench"}  # ours, where the plug-in was imported
    assert covered | set(WITHOUT_RECIPE) == theirs
    assert not covered & set(WITHOUT_RECIPE)


@pytest.mark.parametrize("mode", AGGREGATES)
@pytest.mark.parametrize("seed", range(5))
def test_aggregates_equal_verl(core, mode, seed):
    """The same number of the same losses, with two empty rows among them."""
    given = random_fields(seed, rows=7, empty_rows=2)
    x, mask = given["logp"].detach(), given["mask"]
    scale = {"loss_scale_factor": HORIZON} if mode.endswith("norm") else {}
    expected = core.agg_loss(x, mask.double(), mode, **scale)
    assert AGGREGATES[mode](x, mask).item() == pytest.approx(expected.item(), rel=2e-8)


@pytest.mark.parametrize("seed", range(3))
def test_token_sum_is_the_token_mean_with_denominator_one(core, seed):
    """verl's fifth mode needs no aggregate of its own."""
    given = random_fields(seed, empty_rows=1)
    x, mask = given["logp"].detach(), given["mask"]
    expected = core.agg_loss(x, mask.double(), "token-sum")
    found = TokenMean()(x, mask, torch.ones(()))
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("mode", AGGREGATES)
def test_micro_batches_equal_verls_global_normalisation(mode):
    """A micro-batch with the whole batch's denominators is verl's with ``global_batch_info``."""
    given = random_fields(3, rows=6, empty_rows=1)
    parts = [{k: v[rows] for k, v in given.items()} for rows in (slice(0, 2), slice(2, 6))]
    for part in parts:
        for name in ("logp", "entropy"):
            part[name] = part[name].detach().requires_grad_()
    objective = make("dual-clip", c=10.0)
    objective = type(objective)(objective.surrogate, (), AGGREGATES[mode])
    whole = objective.denominators(TokenBatch(**given))
    numbers = {
        "batch_num_tokens": int(given["mask"].sum()),
        "global_batch_size": int(given["mask"].any(-1).sum()),
    }
    if mode.endswith("norm"):
        numbers["loss_scale_factor"] = HORIZON
    for part in parts:
        expected = theirs(part, "vanilla", mode, verl_losses.clip(0.2, 0.2, 10.0), **numbers)
        assert_same(ours(objective, part, whole), expected, 2e-8)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimates_equal_verls_penalties(core, kind):
    """Of each token, with its gradient; verl's cap of k3 at 10 is beyond these log-ratios."""
    given = random_fields(0, drift=0.3, limit=1.0)
    logp = given["logp"]
    mask = given["mask"]
    expected = torch.where(mask, core.kl_penalty(logp, given["ref_logp"], kind), 0.0)
    found = torch.where(mask, KLEstimate(1.0, kind).penalty(TokenBatch(**given)), 0.0)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(x.sum(), logp, retain_graph=True)[0] for x in (found, expected)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_clip_cov_drops_verls_number_of_verls_candidates(seed):
    """Which ones is drawn at random in both; how many, and from which, is not."""
    fraction, bounds = 0.05, {"cov_low": 0.2, "cov_high": 5.0}
    given = random_fields(seed, rows=8, length=12, limit=5.0)
    config = verl_losses.clip(1.0, 1.0) | verl_losses.COV | {"clip_cov_ratio": fraction}
    _, grads = theirs(given, "clip_cov", "token-mean", config)
    objective, batch = make("clip-cov", fraction=fraction, **bounds), TokenBatch(**given)
    gate = objective.gates[0]
    (_, mine), candidates = ours(objective, given), gate.candidates(batch)
    unclipped = batch.mask & ~objective.surrogate.bound(batch)
    dropped = [unclipped & (grad["logp"] == 0) for grad in (grads, mine)]
    assert dropped[0].sum() == dropped[1].sum() == int(fraction * batch.mask.sum())
    for chosen in dropped:
        assert not (chosen & ~candidates).any()


@pytest.mark.parametrize("group", [2, 5])
@pytest.mark.parametrize("vectorized", [False, True])
def test_group_advantages_equal_verl(core, group, vectorized):
    """GRPO's with and without its standard deviation, and leave-one-out, float64."""
    rewards = torch.randn(4, group, dtype=torch.float64)
    mask = torch.ones(4 * group, 3, dtype=torch.float64)
    per_token = torch.zeros_like(mask)
    per_token[:, -1] = rewards.flatten()
    index = np.repeat(np.arange(4), group)

    def by_verl(function, **kwargs):
        return function(per_token.clone(), mask, index, **kwargs)[0][:, 0].view(4, group)

    suffix = "vectorized_outcome_advantage" if vectorized else "outcome_advantage"
    grpo = getattr(core, f"compute_grpo_{suffix}")
    rloo = getattr(core, f"compute_rloo_{suffix}")
    pairs = {
        "zscore": (advantages.group_zscore(rewards), by_verl(grpo)),
        "centred": (
            advantages.group_centred(rewards),
            by_verl(grpo, norm_adv_by_std_in_grpo=False),
        ),
        "leave-one-out": (advantages.leave_one_out(rewards), by_verl(rloo)),
    }
    for name, (found, expected) in pairs.items():
        error = (found - expected).abs().max().item()
        # the vectorised one works in float32
        assert error < (1e-6 if vectorized else 1e-12), (name, error)


@pytest.mark.parametrize("seed", range(3))
def test_gae_equals_verl(core, seed):
    """Whitened advantages and value targets, with padding on the right."""
    given = random_fields(seed)
    mask = given["mask"]
    rewards = torch.where(mask, given["advantage"], 0.0)
    values = given["ref_logp"]
    advantage, target = advantages.gae(rewards, values, mask, gamma=0.97, lam=0.9)
    expected = core.compute_gae_advantage_return(rewards, values, mask.double(), 0.97, 0.9)
    n = mask.sum()
    centred = advantage - masked_mean(advantage, mask)
    # verl whitens with the variance that divides by n - 1; ours, by n, is compared below
    variance = masked_mean(centred.square(), mask) * n / (n - 1)
    whitened = centred * (variance + 1e-8).rsqrt()
    torch.testing.assert_close(whitened[mask], expected[0][mask], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(target[mask], expected[1][mask], rtol=1e-12, atol=1e-12)
    ours_whitened = advantages.whiten(advantage, mask)[mask]
    factor = ((n - 1) / n).sqrt()
    torch.testing.assert_close(ours_whitened * factor, expected[0][mask], rtol=1e-7, atol=1e-7)
