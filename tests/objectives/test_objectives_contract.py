"""What every objective must satisfy, over the registry of recipes and over all pieces."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from objective_batches import OVER_BATCH, B, R, T, built, gradient, leaves

from erc_bench.core.batch import TokenBatch
from erc_bench.objectives import (
    GPPO,
    RECIPES,
    DualClip,
    EntropyBonus,
    EntropyRatio,
    ExactKL,
    FixedHorizon,
    ImportanceWeighted,
    KLEstimate,
    Objective,
    PositiveNLL,
    PPOClip,
    Reinforce,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    TokenMean,
    make,
)

AGGREGATES = [TokenMean(), SequenceMeanTokenMean(), SequenceMeanTokenSum(), FixedHorizon(9)]
REGULARIZERS = [
    *(ExactKL(0.3, r, d) for r in ("old", "ref") for d in ("forward", "reverse")),
    *(KLEstimate(0.3, k, r) for r in ("old", "ref") for k in ("k1", "k2", "k3")),
    EntropyBonus(0.2),
    PositiveNLL(0.1),
]
EXACT = {"rtol": 1e-9, "atol": 1e-12}

recipes = pytest.mark.parametrize("name", RECIPES)
aggregates = pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda a: type(a).__name__)


def assert_same(first, second):
    for a, b in zip(first[:2], second[:2], strict=True):
        torch.testing.assert_close(a, b, **EXACT)
    assert first[2].keys() == second[2].keys()
    for name in first[2]:
        torch.testing.assert_close(first[2][name], second[2][name], **EXACT, msg=name)


@recipes
@pytest.mark.parametrize("drift", [0.1, 1.0])
def test_an_infinite_band_equals_the_base(name, drift):
    """A gate that never drops changes neither value nor gradient, also at zero entropy."""
    given = leaves(drift=drift)
    with torch.no_grad():
        given["logits"][0, 0, 0] = 200.0  # entropy exactly 0
        given["old_logits"][1, 0, 0] = 200.0
    base = make(name)
    if base.gates:
        base = Objective(base.surrogate, aggregate=base.aggregate)
    gated = base.gated(EntropyRatio(low=math.inf, high=math.inf))
    assert_same(gradient(base, given), gradient(gated, given))
    assert bool(gated.keep(TokenBatch.from_logits(**given)).all())


@recipes
def test_ratio_one_gives_the_reinforce_gradient(name):
    """Before the first update every recipe ascends A grad log pi by its aggregate, plus its entropy
    bonus if it has one; penalties on drift have no gradient yet, and no gate acts but the two that
    choose among the tokens of a batch, whatever the policy did.
    """
    given = leaves(drift=0.0)
    objective = make(name)
    bonus = tuple(r for r in objective.regularizers if isinstance(r, EntropyBonus))
    reinforce = Objective(Reinforce(), aggregate=objective.aggregate, regularizers=bonus)
    _, expected, _ = gradient(reinforce, given)
    _, actual, metrics = gradient(objective, given)
    keep = objective.keep(TokenBatch.from_logits(**given))
    if not bonus:
        expected = expected * keep.unsqueeze(-1)
    torch.testing.assert_close(actual, expected, **EXACT)
    assert (metrics["gate/dropped_fraction"] > 0) == (name in {"clip-cov", "high-entropy-only"})
    assert expected.abs().max() > 0


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if make(n).gates])
def test_outside_the_band_only_the_gradient_goes(name):
    """Dropped tokens: gradient exactly zero; the loss and the kept tokens' gradient stay as they were."""
    given = leaves((4 * B, T))
    gated = make(name)
    base = Objective(gated.surrogate, aggregate=gated.aggregate)
    keep = gated.keep(TokenBatch.from_logits(**given))
    dropped = ~keep & given["mask"]
    assert dropped.any()
    assert (keep & given["mask"]).any()
    (loss, all_of_it, _), (gated_loss, rest, metrics) = (gradient(o, given) for o in (base, gated))
    assert gated_loss == loss
    assert (rest[dropped] == 0).all()
    assert (rest[keep] == all_of_it[keep]).all()
    share = dropped.sum() / given["mask"].sum()
    assert metrics["gate/dropped_fraction"].item() == pytest.approx(share.item())


def test_no_gradient_flows_through_the_gate():
    """Entropies that require a gradient get none from it."""
    logp, entropy = torch.randn(2, B, T, requires_grad=True).unbind()
    entropy = entropy.detach().exp().requires_grad_()
    batch = TokenBatch(
        logp, logp.detach(), torch.ones(B, T), torch.ones(B, T), entropy, torch.ones(B, T)
    )
    loss, _ = make("erc-dapo")(batch)
    assert torch.autograd.grad(loss, entropy, allow_unused=True) == (None,)


@recipes
@aggregates
def test_padding_changes_nothing(name, aggregate):
    """Further masked columns and rows full of NaN leave loss, gradient and metrics as they are."""
    objective = built(name, aggregate, *REGULARIZERS)
    given = leaves()
    loss, grad, metrics = gradient(objective, given)
    padded = {}
    for key, x in given.items():
        shape = (B + 2, *((T + 3, *x.shape[2:]) if x.ndim > 1 else ()))
        garbage = torch.nan if x.is_floating_point() else -100 if key == "action" else 0
        y = torch.full(shape, garbage, dtype=x.dtype)
        y[tuple(slice(n) for n in x.shape)] = x.detach()
        padded[key] = y
    # Right padding inside the rows is garbage too.
    for y in padded.values():
        if y.is_floating_point() and y.ndim > 1:
            y[~padded["mask"]] = torch.nan
    padded["logits"].requires_grad_()
    padded_loss, padded_grad, padded_metrics = gradient(objective, padded)
    assert (padded_grad[~padded["mask"]] == 0).all()
    assert_same((loss, grad, metrics), (padded_loss, padded_grad[:B, :T], padded_metrics))


@recipes
@aggregates
def test_runs_do_not_see_each_other(name, aggregate):
    """(R, B, T) equals R calls on (B, T), with one hyperparameter per run, whatever the dtype."""
    parameters = {
        key: torch.linspace(0.8, 1.2, R, dtype=torch.float64) * default
        if default
        else torch.linspace(0.1, 0.3, R, dtype=torch.float64)
        for key, default in RECIPES[name].parameters.items()
    }
    given = leaves((R, B, T))
    weights = {"coefficient": torch.linspace(0.1, 0.3, R)}
    base = make(name, **parameters)
    has_bonus = any(isinstance(r, EntropyBonus) for r in base.regularizers)
    further = () if has_bonus else (EntropyBonus(**weights),)
    together = Objective(base.surrogate, base.gates, aggregate, (*base.regularizers, *further))
    loss, grad, metrics = gradient(together, given)
    assert loss.shape == (R,)
    assert loss.dtype is torch.float64
    for run in range(R):
        base = make(name, **{k: v[run].item() for k, v in parameters.items()})
        bonus = tuple(EntropyBonus(b.coefficient[run].item()) for b in further)
        alone = Objective(base.surrogate, base.gates, aggregate, (*base.regularizers, *bonus))
        one = {k: v[run].detach() for k, v in given.items()}
        one["logits"].requires_grad_()
        expected = gradient(alone, one)
        assert expected[0].shape == ()
        assert_same((loss[run], grad[run], {k: v[run] for k, v in metrics.items()}), expected)


@recipes
@aggregates
def test_no_tokens_no_loss(name, aggregate):
    """A run without tokens has loss 0, gradient 0 and metrics 0, beside runs that have some."""
    given = leaves((R, B, T))
    given["mask"][1] = False
    loss, grad, metrics = gradient(built(name, aggregate, *REGULARIZERS), given)
    assert (metrics["gate/dropped_fraction"][[0, 2]] < 1).all()
    assert loss[1] == 0
    assert (grad[1] == 0).all()
    assert all(v[1] == 0 for v in metrics.values())
    assert torch.isfinite(grad).all()
    assert (loss[[0, 2]] != 0).all()


def test_values_cannot_tell_clipping_surrogates_apart():
    """PPO-clip, GPPO and ERC share their value and differ in their gradient."""
    given = leaves()
    clip = Objective(PPOClip(0.2, 0.28))
    all_three = [clip, Objective(GPPO(0.2, 0.28)), clip.gated(EntropyRatio())]
    (loss, first, _), *others = [gradient(o, given) for o in all_three]
    assert all(other[0] == loss for other in others)
    gradients = [first, *(other[1] for other in others)]
    for a, b in itertools.combinations(gradients, 2):
        assert (a - b).abs().max() > 1e-3


@recipes
def test_losses_keep_dtype_and_metrics_carry_no_gradient(name):
    """float32 in, float32 out, also with float64 hyperparameters; metrics are detached scalars."""
    given = {k: v.detach().float() if v.is_floating_point() else v for k, v in leaves().items()}
    given["logits"].requires_grad_()
    weight = torch.tensor(0.1, dtype=torch.float64)
    parameters = {k: weight + v for k, v in RECIPES[name].parameters.items()}
    objective = make(name, **parameters).regularized(KLEstimate(weight.expand(1), "k2", "old"))
    assert (
        objective(TokenBatch.from_logits(**{k: v[None] for k, v in given.items()}))[0].dtype
        is torch.float32
    )
    loss, _, metrics = gradient(make(name), given)
    assert loss.dtype is torch.float32
    assert loss.shape == ()
    terms = sum(value for key, value in metrics.items() if key.startswith("loss/"))
    torch.testing.assert_close(terms, loss)
    for value in metrics.values():
        assert value.shape == ()
        assert not value.requires_grad
        assert value.dtype is torch.float32


@recipes
def test_specs_are_plain_json(name):
    """Provenance survives JSON without extensions, infinities and tensors included."""
    parameters = dict.fromkeys(RECIPES[name].parameters, torch.tensor([2.0, 3.0]))
    for objective in (make(name), make(name, **parameters)):
        text = json.dumps(objective.spec(), allow_nan=False)
        assert json.loads(text) == objective.spec()
    open_band = Objective(PPOClip(math.inf, math.inf)).gated(EntropyRatio(math.inf, 1))
    assert open_band.spec()["gates"] == [
        {"type": "EntropyRatio", "low": "inf", "high": 1, "eps": 1e-8}
    ]


@recipes
def test_specs_say_whether_micro_batches_matter(name):
    """Recipes that choose among a batch's tokens say so, and no others."""
    assert make(name).spec()["over_batch"] == (name in OVER_BATCH)
    assert set(OVER_BATCH) == {
        "clip-cov",
        "kl-cov",
        "high-entropy-only",
        "m2po",
        "placebo-erc-dapo",
    }


@recipes
def test_asking_for_the_gates_first_costs_no_gradient(name):
    """keep and bound look at a batch without gradients; the loss of that batch has them still."""
    given = leaves()
    objective = make(name)
    _, expected, _ = gradient(objective, given)
    batch = TokenBatch.from_logits(**given)
    objective.bound(batch)
    objective.keep(batch)
    (grad,) = torch.autograd.grad(objective(batch)[0], given["logits"])
    assert torch.equal(grad, expected)


def test_hyperparameters_of_another_number_of_runs_are_refused():
    """One line with the hyperparameter, how many values it has, and the batch's runs."""
    objective = make("erc-dapo", band_low=torch.tensor([0.1, 0.2]))
    for shape in ((R, B, T), (B, T)):
        message = r"EntropyRatio\.low: 2 values, one per run, but the batch's run axes are \("
        with pytest.raises(ValueError, match=message):
            objective(TokenBatch.from_logits(**leaves(shape)))


def test_composition_leaves_the_base_alone():
    """gated and regularized return new objectives; all gates must keep a token."""
    base = make("dapo")
    narrow, wide = EntropyRatio(0.01, 0.01), EntropyRatio(math.inf, math.inf)
    both = base.gated(wide).gated(narrow)
    batch = TokenBatch.from_logits(**leaves())
    assert both.gates == (wide, narrow)
    assert base.gates == ()
    assert torch.equal(both.keep(batch), base.gated(narrow).keep(batch))
    assert base.regularized(EntropyBonus(0.1)).regularizers == (EntropyBonus(0.1),)


def test_one_name_one_term():
    """Two regularizers of one name would share a metric."""
    with pytest.raises(ValueError, match="entropy_bonus more than once"):
        make("dapo").regularized(EntropyBonus(0.1), EntropyBonus(0.2))


def test_clip_metrics_count_what_they_say():
    """Bound: the clip determines the value. Outside: the ratio alone. None without a clip."""
    ratio = torch.tensor([[0.5, 0.5, 2.0, 2.0, 1.0, 20.0]])
    advantage = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0]])
    batch = TokenBatch(ratio.log(), torch.zeros(1, 6), advantage, torch.ones(1, 6))
    _, metrics = Objective(PPOClip(0.2, 0.28))(batch)
    assert metrics["clip/ratio_bound_fraction"].item() == pytest.approx(2 / 6)
    assert metrics["clip/ratio_outside_fraction"].item() == pytest.approx(5 / 6)
    dual = Objective(DualClip(PPOClip(0.2, 0.28), 10.0))
    assert dual.bound(batch).tolist() == [[False, True, True, False, False, True]]
    for surrogate in (Reinforce(), ImportanceWeighted()):
        _, metrics = Objective(surrogate)(batch)
        assert not any(key.startswith("clip/") for key in metrics)
