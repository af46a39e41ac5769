"""What must not change a loss: splits, order of rows, padding, runs in one batch; and what must."""

from __future__ import annotations

import inspect
import itertools
import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given as given_
from hypothesis import settings
from hypothesis import strategies as st
from objective_batches import OVER_BATCH, B, R, T, V, built

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

TRAINED = ("logp", "entropy", "log_probs")
AGGREGATES = [TokenMean(), SequenceMeanTokenMean(), SequenceMeanTokenSum(), FixedHorizon(8.7)]
REGULARIZERS = [
    *(ExactKL(0.3, r, d) for r in ("old", "ref") for d in ("forward", "reverse")),
    *(KLEstimate(0.3, k, r) for r in ("old", "ref") for k in ("k1", "k2", "k3")),
    EntropyBonus(0.2),
    PositiveNLL(0.1),
]
RATIO_SURROGATES = [
    ImportanceWeighted(),
    PPOClip(),
    GPPO(),
    DualClip(PPOClip(), 3.0),
    DualClip(GPPO(), 3.0),
]
EXACT = {"rtol": 1e-12, "atol": 1e-12}

recipes = pytest.mark.parametrize("name", RECIPES)
aggregates = pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda a: type(a).__name__)
regularizers = pytest.mark.parametrize("regularizer", REGULARIZERS, ids=lambda r: r.name)


def raw(shape=(B, T), *, seed=0, drift=0.6):
    """Every field of a batch, independent leaves in float64: gaps in the mask, an empty row."""
    g = torch.Generator().manual_seed(seed)
    old, noise, ref = torch.randn(3, *shape, V, generator=g, dtype=torch.float64)
    noise *= torch.where(torch.rand(*shape, 1, generator=g) < 0.3, 0.1, 1.2)
    log_probs, old_log_probs, ref_log_probs = (
        x.log_softmax(-1) for x in (old + drift * noise, old, ref)
    )
    action = torch.randint(V, shape, generator=g)

    def sampled(x):
        return x.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    mask = torch.rand(shape, generator=g) < 0.7
    mask[..., 1, :] = False
    return {
        "order": torch.randperm(mask.numel(), generator=g).view(shape).double(),
        "logp": sampled(log_probs),
        "old_logp": sampled(old_log_probs),
        "advantage": torch.randn(shape, generator=g, dtype=torch.float64),
        "mask": mask,
        "entropy": -(log_probs.exp() * log_probs).sum(-1),
        "old_entropy": -(old_log_probs.exp() * old_log_probs).sum(-1),
        "action": action,
        "log_probs": log_probs,
        "old_log_probs": old_log_probs,
        "ref_logp": sampled(ref_log_probs),
        "ref_log_probs": ref_log_probs,
        "rollout_logp": sampled(old_log_probs) + 0.01,
        "reward": torch.randint(0, 2, shape[:-1], generator=g).double(),
    }


def evaluate(objective, given, parts=None):
    """Loss, gradient with respect to each trained field, metrics; over micro-batches if given."""
    inputs = {k: v.detach().requires_grad_() for k, v in given.items() if k in TRAINED}
    batch = TokenBatch(**given | inputs)
    if parts is None:
        loss, metrics = objective(batch)
    else:
        whole = objective.denominators(batch)
        results = [objective(batch.rows(part), whole) for part in parts]
        loss = sum(r[0] for r in results)
        metrics = {k: sum(r[1][k] for r in results) for k in results[0][1]}
    found = torch.autograd.grad(loss.sum(), list(inputs.values()), allow_unused=True)
    gradients = {
        k: torch.zeros_like(v) if g is None else g
        for (k, v), g in zip(inputs.items(), found, strict=True)
    }
    return loss.detach(), gradients, metrics


def assert_same(first, second):
    torch.testing.assert_close(first, second, **EXACT)


@pytest.mark.parametrize("name", [n for n in RECIPES if n not in OVER_BATCH])
@aggregates
@regularizers
def test_random_splits_of_ragged_batches_add_up(name, aggregate, regularizer):
    """With the whole batch's denominators any split, also into empty parts, gives its loss,
    gradient and metrics to 1e-12: gaps in masks, rows without a token, runs.
    """
    seed = sum(map(ord, f"{name}{aggregate}{regularizer}"))
    g = torch.Generator().manual_seed(seed)
    objective = built(name, aggregate, regularizer)
    for shape in ((B, T), (R, B, T)):
        given = raw(shape, seed=seed)
        cuts = [0, *sorted(torch.randint(B + 1, (3,), generator=g).tolist()), B]
        parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
        assert_same(evaluate(objective, given, parts), evaluate(objective, given))


@pytest.mark.parametrize("name", [n for n in RECIPES if n != "clip-cov"])  # shuffles by place
@aggregates
def test_the_order_of_responses_does_not_matter(name, aggregate):
    """Permuted rows give the same loss and metrics of every term, and the permuted gradient."""
    given = raw()
    order = torch.randperm(B)
    objective = built(name, aggregate, *REGULARIZERS)
    loss, gradients, metrics = evaluate(objective, given)
    permuted = evaluate(objective, {k: v[order] for k, v in given.items()})
    assert_same(permuted, (loss, {k: v[order] for k, v in gradients.items()}, metrics))


@recipes
@aggregates
def test_garbage_under_the_mask_reaches_nothing(name, aggregate):
    """Appended rows and columns, and gaps inside, full of NaN and infinities in every field: the
    same loss, metrics and gradients, and gradients of exactly zero where masked.
    """
    given = raw()
    objective = built(name, aggregate, *REGULARIZERS)
    loss, gradients, metrics = evaluate(objective, given)
    inside = torch.zeros(B + 2, T + 3, dtype=torch.bool)
    inside[:B, :T] = given["mask"]
    padded = {}
    for key, x in given.items():
        shape = (B + 2, *((T + 3, *x.shape[2:]) if key != "reward" else ()))
        if not x.is_floating_point():
            y = torch.full(shape, 10**6 if key == "action" else 0, dtype=x.dtype)
        else:  # every kind of garbage in every field
            kinds = torch.tensor([math.nan, math.inf, -math.inf, 1e300], dtype=x.dtype)
            y = kinds[torch.randint(4, shape)]
        kept = inside[:B, :T] if x.is_floating_point() and key != "reward" else ...
        y[tuple(slice(n) for n in x.shape)][kept] = x[kept]
        padded[key] = y
    found_loss, found, found_metrics = evaluate(objective, padded)
    assert_same((found_loss, found_metrics), (loss, metrics))
    for key in TRAINED:
        assert_same(found[key][:B, :T], gradients[key])
        assert (found[key][~inside] == 0).all(), key


@recipes
@regularizers
def test_only_the_trained_policy_gets_a_gradient(name, regularizer):
    """Nothing flows into old, reference and rollout fields, advantages and rewards that require a
    gradient; something flows into the trained log-probability.
    """
    given = {k: v.requires_grad_() if v.is_floating_point() else v for k, v in raw().items()}
    loss, _ = built(name, None, regularizer)(TokenBatch(**given))
    leaves = {f.name: given[f.name] for f in fields(TokenBatch) if given[f.name].requires_grad}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    reached = {key for key, g in zip(leaves, found, strict=True) if g is not None}
    assert "logp" in reached
    assert reached <= set(TRAINED)
    assert len(leaves) == 12


@recipes
@aggregates
def test_an_open_band_equals_the_base_exactly(name, aggregate):
    """Bands (inf, inf), (1, inf) and (2.5, inf) change no bit of value and gradient, also where an
    entropy is zero, or was.
    """
    given = raw(drift=1.5)
    given["entropy"][0] = 0.0
    given["old_entropy"][2] = 0.0
    given["entropy"][3] = given["old_entropy"][3] = 0.0
    base = Objective(make(name).surrogate, aggregate=aggregate)
    loss, gradients, _ = evaluate(base, given)
    for low in (math.inf, 1.0, 2.5):
        found = evaluate(base.gated(EntropyRatio(low, math.inf)), given)
        assert torch.equal(found[0], loss)
        assert all(torch.equal(found[1][k], gradients[k]) for k in TRAINED)
        assert found[2]["gate/dropped_fraction"] == 0
    assert evaluate(base.gated(EntropyRatio()), given)[2]["gate/dropped_fraction"] > 0


@pytest.mark.parametrize("surrogate", RATIO_SURROGATES, ids=str)
@aggregates
def test_at_ratio_one_every_surrogate_is_reinforce(surrogate, aggregate):
    """Where the policy has not moved the gradient of r A is that of A log pi."""
    given = raw(drift=0.0)
    reinforce = evaluate(Objective(Reinforce(), aggregate=aggregate), given)[1]["logp"]
    found = evaluate(Objective(surrogate, aggregate=aggregate), given)[1]["logp"]
    assert_same(found, reinforce)
    weights = aggregate.weights(given["mask"], torch.float64)
    scale = aggregate.denominator(given["mask"])
    assert_same(found, -given["advantage"] * weights / scale)


@pytest.mark.parametrize("surrogate", [Reinforce(), *RATIO_SURROGATES], ids=str)
@aggregates
def test_the_gate_takes_the_gradient_and_nothing_else(surrogate, aggregate):
    """Per token: exactly zero outside the band (by a loop), unchanged inside; loss unchanged; a
    regularizer's gradient stays.
    """
    given = raw()
    base = Objective(surrogate, aggregate=aggregate)
    loss, gradients, _ = evaluate(base, given)
    gated_loss, gated, metrics = evaluate(base.gated(EntropyRatio(0.1, 0.05)), given)
    assert torch.equal(gated_loss, loss)
    dropped = 0
    for b in range(B):
        for t in range(T):
            rho = (given["entropy"][b, t] + 1e-8) / (given["old_entropy"][b, t] + 1e-8)
            out = bool(given["mask"][b, t]) and not 0.9 < rho.item() < 1.05
            dropped += out
            expected = 0.0 if out else gradients["logp"][b, t].item()
            assert gated["logp"][b, t].item() == expected
    assert 0 < dropped < given["mask"].sum()
    share = dropped / given["mask"].sum().item()
    assert metrics["gate/dropped_fraction"].item() == pytest.approx(share, abs=1e-12)
    bonus = EntropyBonus(0.2)
    with_bonus = evaluate(base.gated(EntropyRatio(0.1, 0.05)).regularized(bonus), given)[1]
    alone = evaluate(base.regularized(bonus), given)[1]
    assert torch.equal(with_bonus["entropy"], alone["entropy"])
    assert (alone["entropy"][given["mask"]] != 0).all()


PER_RUN = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
WITH_PARAMETERS = {
    "surrogate": lambda x: Objective(DualClip(GPPO(x, 2 * x), 1.1 + x)),
    "band and eps": lambda x: Objective(PPOClip()).gated(EntropyRatio(x, x / 2, 1e-3 * x)),
    "coefficients": lambda x: Objective(
        PPOClip(),
        aggregate=SequenceMeanTokenMean(),
        regularizers=(
            ExactKL(x, "ref", "reverse"),
            KLEstimate(2 * x),
            EntropyBonus(x),
            PositiveNLL(x),
        ),
    ),
}


@pytest.mark.parametrize("build", WITH_PARAMETERS.values(), ids=WITH_PARAMETERS)
def test_every_hyperparameter_may_differ_between_runs(build):
    """(R, B, T) with a value per run equals R calls with a float; another run's value would differ."""
    given = raw((R, B, T))
    loss, gradients, metrics = evaluate(build(PER_RUN), given)
    for run in range(R):
        one = {k: v[run] for k, v in given.items()}
        alone = evaluate(build(PER_RUN[run].item()), one)
        together = (
            loss[run],
            {k: v[run] for k, v in gradients.items()},
            {k: v[run] for k, v in metrics.items()},
        )
        assert_same(together, alone)
        other = evaluate(build(PER_RUN[run - 1].item()), one)
        assert (other[1]["logp"] - alone[1]["logp"]).abs().max() > 1e-6


@settings(deadline=None, max_examples=60)
@given_(st.integers(0, 2**16), st.floats(0, 1))
def test_aggregates_equal_a_loop(seed, density):
    """Sums over rows and tokens written out, for any mask, the empty one included (0, not NaN)."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 5, generator=g, dtype=torch.float64)
    mask = torch.rand(4, 5, generator=g) < density
    rows = [[x[b, t].item() for t in range(5) if mask[b, t]] for b in range(4)]
    rows = [row for row in rows if row]
    count = max(len(rows), 1)
    expected = {
        TokenMean(): sum(map(sum, rows)) / max(sum(map(len, rows)), 1),
        SequenceMeanTokenMean(): sum(sum(row) / len(row) for row in rows) / count,
        SequenceMeanTokenSum(): sum(map(sum, rows)) / count,
        FixedHorizon(8.7): sum(map(sum, rows)) / (count * 8.7),
    }
    for aggregate, value in expected.items():
        found = aggregate(x.masked_fill(~mask, math.nan), mask)
        assert found.item() == pytest.approx(value, rel=1e-12, abs=1e-12), aggregate


@pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_aggregates_keep_the_dtype(aggregate, dtype):
    """The loss has the dtype of what is aggregated; more tokens than float16 counts are no zero."""
    mask = torch.ones(300, 300, dtype=torch.bool)
    found = aggregate(torch.full((300, 300), 0.01, dtype=dtype), mask)
    assert found.dtype is dtype
    length = {TokenMean: 90000, SequenceMeanTokenSum: 300}.get(type(aggregate), 1)
    expected = {SequenceMeanTokenMean: 0.01, FixedHorizon: 3 / 8.7}.get(
        type(aggregate), 900 / length
    )
    assert found.item() == pytest.approx(expected, rel=2e-2)


REFERENCES = {
    "kl_k1_ref": lambda x: x["logp"] - x["ref_logp"],
    "kl_k2_ref": lambda x: (x["logp"] - x["ref_logp"]) ** 2 / 2,
    "kl_k3_ref": lambda x: (x["ref_logp"] - x["logp"]).exp() - 1 - x["ref_logp"] + x["logp"],
    "kl_k1_old": lambda x: x["logp"] - x["old_logp"],
    "kl_k2_old": lambda x: (x["logp"] - x["old_logp"]) ** 2 / 2,
    "kl_k3_old": lambda x: (x["old_logp"] - x["logp"]).exp() - 1 - x["old_logp"] + x["logp"],
    "kl_forward_old": lambda x: torch.nn.functional.kl_div(
        x["log_probs"], x["old_log_probs"], reduction="none", log_target=True
    ).sum(-1),
    "kl_forward_ref": lambda x: torch.nn.functional.kl_div(
        x["log_probs"], x["ref_log_probs"], reduction="none", log_target=True
    ).sum(-1),
    "kl_reverse_old": lambda x: torch.nn.functional.kl_div(
        x["old_log_probs"], x["log_probs"], reduction="none", log_target=True
    ).sum(-1),
    "kl_reverse_ref": lambda x: torch.nn.functional.kl_div(
        x["ref_log_probs"], x["log_probs"], reduction="none", log_target=True
    ).sum(-1),
    "entropy_bonus": lambda x: -x["entropy"],
}


@regularizers
def test_regularizers_equal_their_formula(regularizer):
    """Value and gradient with respect to every trained field are those of the formula, averaged
    over the tokens it counts and times its coefficient.
    """
    given = raw()
    plain = Objective(Reinforce())
    loss, gradients, metrics = evaluate(plain.regularized(regularizer), given)
    base_loss, base, _ = evaluate(plain, given)
    leaves = {k: v.detach().requires_grad_() if k in TRAINED else v for k, v in given.items()}
    counted = given["mask"]
    if regularizer.name == "positive_nll":
        counted = counted & (given["reward"] == 1).unsqueeze(-1)
        penalty = -leaves["logp"]
    else:
        penalty = REFERENCES[regularizer.name](leaves)
    expected = regularizer.coefficient * penalty[counted].mean()
    found = torch.autograd.grad(expected, [leaves[k] for k in TRAINED], allow_unused=True)
    assert_same(loss - base_loss, expected.detach())
    assert_same(metrics[f"loss/{regularizer.name}"], expected.detach())
    assert any(g is not None for g in found)
    for key, g in zip(TRAINED, found, strict=True):
        assert_same(gradients[key] - base[key], torch.zeros_like(given[key]) if g is None else g)


@aggregates
def test_without_a_rewarded_response_there_is_no_likelihood_term(aggregate):
    """The term and its gradient are exactly zero; partial and negative rewards do not count."""
    given = raw()
    given["reward"] = torch.tensor([0.0, 0.5, -1.0, 0.999, 2.0, 0.0], dtype=torch.float64)
    plain = Objective(Reinforce(), aggregate=aggregate)
    loss, gradients, metrics = evaluate(plain.regularized(PositiveNLL(0.1)), given)
    base_loss, base, _ = evaluate(plain, given)
    assert metrics["loss/positive_nll"] == 0
    assert loss == base_loss
    assert torch.equal(gradients["logp"], base["logp"])


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_fit_in_six_lines(name):
    """A recipe composes; what needs more than six lines of code is a piece of its own."""
    source = inspect.getsource(RECIPES[name].build)
    body = source.rpartition('"""')[2].strip().splitlines()
    assert 1 <= len(body) <= 6
    assert "return" in body[-1]
    source = RECIPES[name].source
    assert "arXiv:" in source or "(19" in source or source == "control of this project"
    assert "\n" not in RECIPES[name].equation
    base = next(
        (n for n in ("dapo", "gppo", "seq-tis") if RECIPES[name].equation.startswith(n)), None
    )
    assert " A" in f" {RECIPES[name].equation}" or base


EXTREME = [-1e4, -25.0, -18.0, -12.0, -1.0, 0.0, 1.0, 12.0, 18.0, 25.0, 1e4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("surrogate", RATIO_SURROGATES, ids=str)
def test_extreme_ratios_stay_finite(surrogate, dtype):
    """Log-ratios from -1e4 to 1e4 give finite losses and gradients in the dtype they came in."""
    for shift, advantage in itertools.product(EXTREME, (0.5, 0.0, -0.5)):
        check_extreme(surrogate, dtype, shift, advantage)


def check_extreme(surrogate, dtype, shift, advantage):
    logp = torch.tensor([[shift, 0.0]], dtype=dtype, requires_grad=True)
    zero = torch.zeros(1, 2, dtype=dtype)
    batch = TokenBatch(logp, zero, zero + advantage, zero + 1, zero, zero)
    loss, metrics = Objective(surrogate).gated(EntropyRatio())(batch)
    (grad,) = torch.autograd.grad(loss, logp)
    assert loss.dtype is dtype
    assert torch.isfinite(loss)
    assert torch.isfinite(grad).all()
    if abs(shift) > 20:
        assert grad[0, 0] == 0
    assert grad[0, 1].item() == pytest.approx(-advantage / 2, rel=1e-2)
    assert all(v.dtype is dtype and torch.isfinite(v) for v in metrics.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("log_ratio", [-10.9, -9.0, -5.0])
def test_gppo_bounds_the_gradient_of_vanished_actions(log_ratio, dtype):
    """Below the clip the gradient is (1 - low) |A| however small r is: no 1/r is formed on the way."""
    logp = torch.tensor([[log_ratio]], dtype=dtype, requires_grad=True)
    zero = torch.zeros(1, 1, dtype=dtype)
    loss, _ = Objective(GPPO(0.2, 0.2))(TokenBatch(logp, zero, zero - 8, zero + 1))
    (grad,) = torch.autograd.grad(loss, logp)
    assert loss.item() == pytest.approx(6.4, rel=1e-2)
    assert grad.item() == pytest.approx(6.4, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_first_update_is_not_gated_in_any_dtype(dtype):
    """Equal entropies, zero and tiny ones included, have rho = 1; eps as a tensor changes nothing."""
    entropy = torch.tensor([[0.0, 1e-7, 1e-4, 0.5, 10.0]], dtype=dtype)
    batch = TokenBatch(*torch.zeros(3, 1, 5, dtype=dtype), torch.ones(1, 5), entropy, entropy)
    for eps in (1e-8, torch.tensor(1e-8)):
        gate = EntropyRatio(0.01, 0.01, eps)
        assert gate.ratio(batch).tolist() == [[1.0] * 5]
        assert gate.keep(batch).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_extreme_estimates_stay_finite(kind, dtype):
    """KL estimates of half-precision log-probabilities are finite in value and gradient."""
    logp = torch.tensor([EXTREME], dtype=dtype, requires_grad=True)
    zero = torch.zeros_like(logp).detach()
    penalty = KLEstimate(1.0, kind).penalty(TokenBatch(logp, zero, zero, zero + 1, ref_logp=zero))
    (grad,) = torch.autograd.grad(penalty.sum(), logp)
    assert penalty.dtype is dtype
    assert torch.isfinite(penalty).all()
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("bad", [0, -0.05, math.nan, -math.inf])
@pytest.mark.parametrize("per_run", [False, True])
def test_bands_clips_and_limits_must_be_positive(bad, per_run):
    """0, negative numbers and NaN are refused by name, as floats and in tensors."""
    value = torch.tensor([0.1, bad]) if per_run else bad
    for build, name in (
        (lambda x: EntropyRatio(low=x), "EntropyRatio.low"),
        (lambda x: EntropyRatio(high=x), "EntropyRatio.high"),
        (lambda x: PPOClip(low=x), "PPOClip.low"),
        (lambda x: PPOClip(high=x), "PPOClip.high"),
        (lambda x: GPPO(low=x), "GPPO.low"),
        (lambda x: make("erc-dapo", band_low=x), "EntropyRatio.low"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: .*, must be > 0$") as e:
            build(value)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("c", [1, 1.0, 0.5, 0, -3, math.nan])
def test_the_dual_clip_must_exceed_one(c):
    """At c <= 1 it would cut ratios inside the clip range."""
    with pytest.raises(ValueError, match=r"^DualClip\.c: .*, must be > 1$"):
        DualClip(PPOClip(), c)
    with pytest.raises(ValueError, match=r"^DualClip\.c: .*, must be > 1$"):
        make("dual-clip", c=torch.tensor([3.0, float(c)]))
