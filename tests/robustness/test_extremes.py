"""Tests of every objective on extreme numbers, and of what one broken run does to all the others."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from erc_bench import api
from erc_bench.core import drift
from erc_bench.core.batch import TokenBatch
from erc_bench.objectives import RECIPES, make
from erc_bench.studies import execute, plan
from erc_bench.studies.records import KEYS

B, T = 4, 3


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Arrays this small gain nothing from more threads, which would wait for busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(**changed):
    """Logits old and new, actions, advantages, mask and rewards of a batch."""
    v = changed.pop("vocabulary", 5)
    given = {
        "logits": normal(B, T, v, seed=1),
        "old": normal(B, T, v, seed=2),
        "action": torch.arange(B * T).reshape(B, T) % v,
        "advantage": normal(B, T, seed=3),
        "mask": torch.ones(B, T, dtype=torch.bool),
    }
    return {**given, **changed}


def excluded(logits):
    """Logits with an action that the policy cannot take, of logit -inf."""
    logits = logits.clone()
    logits[..., 4] = -math.inf
    return logits


LAST = torch.arange(B * T).reshape(B, T) % 4
PEAKED = torch.nn.functional.one_hot(torch.zeros(B, T, dtype=torch.long), 5) * 1e4
ROWS = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
EXTREMES = {
    "logits of 1e4": plain(
        logits=normal(B, T, 5, seed=1, scale=1e4), old=normal(B, T, 5, seed=2, scale=1e4)
    ),
    "logits of 1e4, the same": plain(
        logits=normal(B, T, 5, scale=1e4), old=normal(B, T, 5, scale=1e4)
    ),
    "an action of probability 0": plain(
        logits=excluded(normal(B, T, 5, seed=1)), old=excluded(normal(B, T, 5, seed=2)), action=LAST
    ),
    "a vocabulary of 1": plain(vocabulary=1),
    "zero entropy": plain(logits=PEAKED, old=PEAKED, action=torch.zeros(B, T, dtype=torch.long)),
    "zero entropy, another mode": plain(logits=PEAKED, old=PEAKED.roll(1, -1)),
    "masked rows": plain(mask=ROWS),
    "everything masked": plain(mask=torch.zeros(B, T, dtype=torch.bool)),
    "NaN where masked": plain(
        mask=ROWS,
        logits=torch.where(ROWS[..., None], normal(B, T, 5, seed=1), torch.nan),
        old=torch.where(ROWS[..., None], normal(B, T, 5, seed=2), torch.nan),
    ),
    "advantages of 1e8": plain(advantage=normal(B, T, seed=3, scale=1e8)),
    "advantages of 0": plain(advantage=torch.zeros(B, T)),
    "equal advantages": plain(advantage=torch.ones(B, T)),
}


def loss_and_gradient(name, given, dtype=torch.float32):
    """An objective's losses, metrics and the gradient at the logits, of a population of two runs."""
    logits = given["logits"].to(dtype).expand(2, -1, -1, -1).clone().requires_grad_()
    wide = {k: given[k].expand(2, *given[k].shape) for k in ("action", "mask")}
    old = given["old"].to(dtype).expand_as(logits)
    whole = torch.log_softmax(old.nan_to_num(0.0), -1)
    of_action = whole.gather(-1, wide["action"][..., None]).squeeze(-1)
    batch = TokenBatch.from_logits(
        logits,
        old,
        wide["action"],
        given["advantage"].to(dtype).expand(2, B, T),
        wide["mask"],
        reward=torch.ones(2, B, dtype=dtype),
        ref_log_probs=whole,
        ref_logp=of_action,
        rollout_logp=of_action,
    )
    loss, metrics = make(name)(batch)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return batch, loss, metrics, gradient


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("extreme", EXTREMES)
def test_loss_and_gradient_stay_finite(name, extreme):
    """Every recipe has a finite loss, gradient and metrics on every extreme, alike in both runs."""
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
@pytest.mark.parametrize(
    "extreme", ["logits of 1e4", "an action of probability 0", "zero entropy", "NaN where masked"]
)
def test_half_precision_is_finite_or_flagged(name, dtype, extreme):
    """In 16 bits, a loss that float16 (at most 65504) cannot hold is infinite, which flags the run.

    A gradient is never NaN where the loss is finite, and bfloat16 holds everything.
    """
    _, loss, _, gradient = loss_and_gradient(name, EXTREMES[extreme], dtype)
    assert gradient.dtype is dtype
    assert not loss.isnan().any()
    if dtype is torch.bfloat16 or extreme != "logits of 1e4":
        assert loss.isfinite().all(), loss
    if loss.isfinite().all():
        assert gradient.isfinite().all(), gradient


@pytest.mark.parametrize("extreme", EXTREMES)
def test_drift_is_finite_or_infinite_but_never_nan(extreme):
    """The exact measures are infinite where an action of the old policy is excluded, and never NaN."""
    batch, *_ = loss_and_gradient("dapo", EXTREMES[extreme])
    found = drift.measure(
        batch, clip_low=0.2, clip_high=0.2, band_low=0.05, band_high=0.05, delta=0.01
    )
    for metric, value in found.items():
        if extreme != "everything masked":
            assert not value.isnan().any(), metric


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    """Runs at learning rates from the paper's to absurd ones, in one population and separately."""
    rates = {"sane": 1e-3, "saturating": 1e6, "broken": 1e30}
    where = tmp_path_factory.mktemp("rates")

    def run(name, *chosen):
        grid = {"learning_rate": [rates[c] for c in chosen]}
        work = plan(
            ["forking_tokens"],
            objectives=["dapo", "erc-dapo", "ppo-clip"],
            seeds=3,
            grid=grid,
            settings={"rollouts": 8, "warm_start_steps": 60, "evaluation_episodes": 64},
        )
        return execute(work, where / name)

    return run("together", *rates), run("alone", "sane"), rates


def of_rate(table, rate):
    """Rows of a learning rate's runs, in an order that does not depend on their neighbours."""
    chosen = table[table["objective"].str.endswith(f"learning_rate={rate!r}")]
    return chosen.sort_values(
        [*KEYS, *(["update"] if "update" in chosen else [])], ignore_index=True
    )


def test_a_broken_run_is_flagged_and_counted(population):
    """A run is diverged from its first loss or gradient that is not finite, and not before."""
    together, _, rates = population
    runs, metrics = together.read("runs"), together.read("metrics")
    assert of_rate(runs, rates["broken"])["diverged"].all()
    assert not of_rate(runs, rates["sane"])["diverged"].any()
    for _, run in metrics.groupby(list(KEYS)):
        flags = run["diverged"].to_numpy()
        assert (np.diff(flags.astype(int)) >= 0).all()
        assert np.isfinite(run.loc[~flags, ["loss/total", "grad/norm"]].to_numpy()).all()
        assert run.loc[flags, ["loss/total", "grad/norm", "reward/mean"]].isna().all(axis=None)
    last = metrics.groupby(list(KEYS))["diverged"].last()
    assert last.sum() == runs["diverged"].sum()
    found = api.summary(together)
    assert found["diverged"].sum() == runs["diverged"].sum()


def test_a_saturated_run_is_no_diverged_one(population):
    """At 1e6 a policy can become deterministic while every number in its rows stays finite.

    Such a run trained badly, as its reward shows, but it did not diverge.
    """
    together, _, rates = population
    runs, metrics = (of_rate(together.read(t), rates["saturating"]) for t in ("runs", "metrics"))
    assert not runs["diverged"].all()
    kept = runs[~runs["diverged"]]
    assert np.isfinite(kept[["reward/final", "entropy/final", "score"]].to_numpy()).all()
    assert kept["entropy/final"].max() < 0.05
    alive = metrics[~metrics["diverged"]]
    assert np.isfinite(alive[["loss/total", "grad/norm", "drift/entropy_new"]].to_numpy()).all()


def test_no_neighbour_feels_it(population):
    """Runs at a sane rate are the same beside broken ones as without them."""
    together, alone, rates = population
    for table in ("runs", "metrics"):
        a, b = (of_rate(r.read(table), rates["sane"]) for r in (together, alone))
        columns = [c for c in b if c not in ("digest", "diverged")]
        pd.testing.assert_frame_equal(a[columns], b[columns], rtol=1e-4, atol=1e-5)


def test_no_nan_reaches_statistics(population):
    """Tables, scores and intervals of an arm with broken runs are finite, and broken runs score 0."""
    together, _, rates = population
    runs = of_rate(together.read("runs"), rates["broken"])
    assert runs["score"].fillna(0.0).eq(0.0).all()
    found = api.summary(together)
    for column in ("reward/final", "diverged"):
        values = (
            pd.to_numeric(found[column], errors="coerce") if column in found else pd.Series([0.0])
        )
        assert np.isfinite(values).all()
    drawn, page = api.present(together)
    assert len(drawn) > 3
    text = page.read_text()
    for word in (">nan<", ">NaN<", "nan±", "±nan", ">inf<"):
        assert word not in text
