"""A placebo drops as many tokens as the gate that it stands for, and nothing else about it is that gate's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_batches import gradient, leaves

from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.objectives import RECIPES, Gate, Placebo, make, recipe
from erc_bench.objectives.gates.selection import ranks
from erc_bench.objectives.registry import GATES

R, B, T = 4, 24, 5
GATED = [n for n, r in RECIPES.items() if r.objective.gates and not n.startswith("placebo-")]


def order(mask, seed=0):
    """What a trainer hands in."""
    draw = torch.Generator().manual_seed(seed)
    return ranks(torch.rand(mask.shape, generator=draw, dtype=torch.float64), mask)


def batch(*, given_order=True, seed=0):
    made = leaves((R, B, T), seed=seed)
    if given_order:
        made["order"] = order(made["mask"], seed).double()
    return TokenBatch.from_logits(**made)


def dropped(objective, of):
    return ~objective.keep(of)


@pytest.mark.parametrize("given_order", [True, False], ids=["order", "hash"])
@pytest.mark.parametrize("name", GATED)
def test_it_drops_as_many_tokens_of_each_run_and_others(name, given_order):
    of = batch(given_order=given_order)
    ours, theirs = (dropped(make(n), of) for n in (f"placebo-{name}", name))
    assert not (ours & ~of.mask).any()
    count = ours.sum((-2, -1))
    assert torch.equal(count, theirs.sum((-2, -1)))
    assert count.sum() > 0
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("name", GATED)
def test_values_stay_and_gradients_are_the_bases_or_zero(name):
    """Also under the placebo's own micro-averages: the denominators are those of the base."""
    made = leaves((B, T))
    placebo = make(f"placebo-{name}")
    gone = dropped(placebo, TokenBatch.from_logits(**made))
    (loss, grad, _), (wanted, base, _) = (gradient(o, made) for o in (placebo, make(name).base))
    assert loss == wanted
    assert (grad[gone] == 0).all()
    torch.testing.assert_close(grad[~gone], base[~gone], rtol=0, atol=0)


@pytest.mark.parametrize("given_order", [True, False], ids=["order", "hash"])
@pytest.mark.parametrize("name", GATED)
def test_a_run_alone_drops_what_it_drops_in_a_population(name, given_order):
    of, objective = batch(given_order=given_order), make(f"placebo-{name}")
    together = objective.keep(of)
    for run in range(R):
        assert torch.equal(objective.keep(of[run]), together[run])


def test_every_token_is_dropped_equally_often():
    """400 orders of one batch: each token's share is n / N up to five standard deviations."""
    of, draws = batch(given_order=False), 400
    objective = make("placebo-erc-dapo")
    count = torch.zeros(R, B, T)
    for seed in range(draws):
        given_order = order(of.mask, seed).double()
        count += dropped(objective, TokenBatch(**{**of._given(), "order": given_order}))
    share = dropped(make("erc-dapo"), of).sum((-2, -1)) / of.mask.sum((-2, -1))
    for run, p in enumerate(share.tolist()):
        found = count[run][of.mask[run]] / draws
        assert (found - p).abs().max() < 5 * (p * (1 - p) / draws) ** 0.5


@dataclass(frozen=True)
class Positive(Gate):
    """Drops responses whose first advantage is positive."""

    over_sequences: ClassVar[bool] = True

    def keep(self, batch):
        return (batch.advantage[..., :1] <= 0).expand_as(batch.mask)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_of_a_gate_over_responses_it_drops_whole_responses_but_one(seed, given_order):
    of = batch(given_order=given_order, seed=seed)
    gate = Positive()
    gone, wanted = (~g.keep(of) & of.mask for g in (Placebo((gate,)), gate))
    assert torch.equal(gone.sum((-2, -1)), wanted.sum((-2, -1)))
    some, every = gone.any(-1), (gone | ~of.mask).all(-1)
    assert ((some & ~every).sum(-1) <= 1).all()


def test_long_responses_are_not_dropped_first():
    """The chance of a response to be dropped does not hang on its length."""
    mask = torch.arange(8) < torch.tensor([[8], [1]])
    zeros = torch.zeros(2, 8)
    first = 0
    for seed in range(400):
        of = TokenBatch(zeros, zeros, torch.tensor([[1.0], [-1.0]]).expand(2, 8), mask)
        of = TokenBatch(**{**of._given(), "order": order(mask, seed)})
        first += bool((~Placebo((Positive(),)).keep(of))[1, 0])
    assert 150 < first < 250


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_ranks_number_the_unmasked_tokens(seed):
    draw = torch.Generator().manual_seed(seed)
    key, mask = torch.rand(3, 4, 5, generator=draw), torch.rand(3, 4, 5, generator=draw) < 0.6
    found = ranks(key, mask)
    for k, m, r in zip(key, mask, found, strict=True):
        assert r[m][k[m].argsort()].tolist() == list(range(int(m.sum())))
        assert (r[~m] >= m.sum()).all()


@pytest.mark.parametrize("base", ["cispo", "reinforce", "gspo"])
@pytest.mark.parametrize("prefix", GATES)
def test_a_gate_stands_on_any_recipe(prefix, base):
    """By its name: the gate's parameters and the base's, its data and its pair."""
    made = recipe(f"{prefix}-{base}")
    assert (made.base, made.data) == (base, recipe(base).data)
    gate = GATES[prefix].build()
    assert made.objective == make(base).gated(gate)
    assert recipe(f"placebo-{made.name}").objective == make(base).gated(Placebo((gate,)))
    assert made.parameters == {**recipe(base).parameters, **made.parameters}


def test_parameters_reach_their_part():
    found = make("placebo-erc-cispo", band_low=0.2, clip_high=3.0)
    wanted = make("cispo", clip_high=3.0)
    assert found.base == wanted
    assert found.gates[0].gates == replace(make("erc-gppo", band_low=0.2)).gates


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("placebo-dapo", "dapo has no gate"),
        ("placebo-placebo-erc-dapo", "placebo-erc-dapo has no gate"),
        ("kl-gate-tv-gate-dapo", "delta names a parameter of both"),
        ("placebo-erc-dappo", "did you mean placebo-erc-dapo"),
        ("erc-none", "placebo-RECIPE"),
    ],
)
def test_names_that_make_no_recipe(name, said):
    with pytest.raises(InputError, match=said):
        recipe(name)
