"""Single pieces: values, gradients and bad inputs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, settings
from hypothesis import given as given_
from hypothesis import strategies as st
from objective_batches import gradient, leaves

from erc_bench.core.batch import TokenBatch
from erc_bench.objectives import (
    GPPO,
    RECIPES,
    Aggregate,
    DualClip,
    EntropyBonus,
    EntropyRatio,
    ExactKL,
    FixedHorizon,
    Gate,
    ImportanceWeighted,
    KLEstimate,
    Objective,
    PositiveNLL,
    PPOClip,
    Regularizer,
    Reinforce,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    Surrogate,
    TokenMean,
    make,
    recipe,
)

LOW, HIGH, C = 0.2, 0.28, 3.0


def token(surrogate, ratio, advantage):
    """Loss of one token and its gradient with respect to log pi."""
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    zero, one = torch.zeros_like(logp), torch.ones_like(logp)
    loss = surrogate(TokenBatch(logp, zero, advantage * one, one))
    (grad,) = torch.autograd.grad(loss.sum(), logp)
    return loss.item(), grad.item()


ratios = st.floats(0.01, 20)
signed = st.floats(-3, 3)
#: Products with a subnormal advantage lose their digits, and two different ratios give one loss.
normal = st.floats(-3, 3, allow_subnormal=False)


@settings(deadline=None)
@given_(ratios, signed)
def test_surrogates_have_their_closed_forms(r, a):
    """Value and gradient factor of every surrogate at one token, off the kinks."""
    assume(all(abs(r - kink) > 1e-9 for kink in (1 - LOW, 1 + HIGH, C)))
    binds = (a > 0 and r > 1 + HIGH) or (a < 0 and r < 1 - LOW)
    clipped = min(max(r, 1 - LOW), 1 + HIGH)
    value = -min(r * a, clipped * a)
    dual = a < 0 and r > C
    expected = {
        Reinforce(): (-a * math.log(r), -a),
        ImportanceWeighted(): (-a * r, -a * r),
        PPOClip(LOW, HIGH): (value, 0 if binds else -a * r),
        GPPO(LOW, HIGH): (value, -a * clipped if binds else -a * r),
        DualClip(PPOClip(LOW, HIGH), C): (-a * C, 0) if dual else (value, 0 if binds else -a * r),
        DualClip(GPPO(LOW, HIGH), C): (
            (-a * C, 0) if dual else (value, -a * clipped if binds else -a * r)
        ),
    }
    for surrogate, pair in expected.items():
        assert token(surrogate, r, a) == pytest.approx(pair, rel=1e-9, abs=1e-12), surrogate


@settings(deadline=None)
@given_(ratios, normal)
def test_bound_means_the_clip_determines_the_value(r, a):
    """Exactly where the loss differs from the unclipped one."""
    one = torch.ones(1, 1, dtype=torch.float64)
    batch = TokenBatch(math.log(r) * one, 0 * one, a * one, one)
    plain = ImportanceWeighted()(batch)
    for surrogate in (PPOClip(LOW, HIGH), GPPO(LOW, HIGH), DualClip(PPOClip(LOW, HIGH), C)):
        assert torch.equal(surrogate.bound(batch), surrogate(batch) != plain)


def test_open_clips_are_importance_weighting():
    """low >= 1 and high = inf never clip."""
    given = leaves()
    expected = gradient(Objective(ImportanceWeighted()), given)
    actual = gradient(Objective(PPOClip(math.inf, math.inf)), given)
    assert torch.equal(actual[0], expected[0])
    torch.testing.assert_close(actual[1], expected[1])


def keep(low, high, entropy, old_entropy):
    zero = torch.zeros(1, len(entropy), dtype=torch.float64)
    new, old = torch.tensor([entropy, old_entropy], dtype=torch.float64).unsqueeze(1)
    batch = TokenBatch(zero, zero, zero, zero + 1, new, old)
    return EntropyRatio(low, high).keep(batch)[0].tolist()


def test_the_band_is_open():
    """Both bounds are strict, as in the release; the first update is never gated."""
    eps = 1e-8
    exact = [(1 - 0.5) * (1 + eps) - eps, (1 + 0.5) * (1 + eps) - eps]
    assert keep(0.5, 0.5, exact, [1, 1]) == [False, False]
    assert keep(0.5, 0.5, [exact[0] + 1e-9, exact[1] - 1e-9], [1, 1]) == [True, True]
    assert keep(1e-9, 1e-9, [0.0, 1e-30, 3.0], [0.0, 1e-30, 3.0]) == [True] * 3


def test_open_sides_never_drop():
    """low >= 1 keeps entropies rounded below zero, high = inf keeps everything above."""
    assert keep(1.0, 0.1, [-1e-6, 0.0, 2.0], [1e-7, 1.0, 1.0]) == [True, True, False]
    assert keep(0.1, math.inf, [1e30, 1.0, 0.0], [0.0, 0.0, 1.0]) == [True, True, False]
    assert keep(math.inf, math.inf, [-1e-6, 1e30, 0.0], [1e-7, 0.0, 0.0]) == [True] * 3
    half = torch.tensor([[0.0, 1.0]], dtype=torch.float16)  # eps underflows: rho is NaN and inf
    batch = TokenBatch(half, half, half, half >= 0, half, 0 * half)
    assert EntropyRatio(math.inf, math.inf).keep(batch).tolist() == [[True, True]]


def test_bands_may_be_open_for_some_runs_only():
    """A tensor band is checked elementwise."""
    entropy = torch.full((2, 1, 1), 5.0)
    batch = TokenBatch(*torch.zeros(3, 2, 1, 1), torch.ones(2, 1, 1), entropy, entropy / 5)
    gate = EntropyRatio(0.1, torch.tensor([0.1, math.inf]))
    assert gate.keep(batch).flatten().tolist() == [False, True]


def test_aggregates_by_hand():
    """Rows of 1, 3 and 0 tokens: who is divided by what. The empty row counts nowhere."""
    mask = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0]]).bool()
    x = torch.tensor([[6.0, 9, 9], [1, 2, 3], [9, 9, 9]])
    expected = {
        TokenMean(): 12 / 4,
        SequenceMeanTokenMean(): (6 + 2) / 2,
        SequenceMeanTokenSum(): (6 + 6) / 2,
        FixedHorizon(5): 12 / (2 * 5),
    }
    for aggregate, value in expected.items():
        assert aggregate(x, mask).item() == pytest.approx(value), aggregate
        by_parts = (aggregate.weights(mask) * x).sum() / aggregate.denominator(mask)
        assert by_parts.item() == pytest.approx(value), aggregate
        assert (aggregate.weights(mask)[~mask] == 0).all()


def test_exact_kl_gradient_is_that_of_the_distribution():
    """d KL(old || pi) / d logits = pi - pi_old; the reverse by torch.distributions."""
    given = leaves()
    mask = given["mask"].unsqueeze(-1)
    new, old = (given[k].softmax(-1) for k in ("logits", "old_logits"))
    zero = Objective(Reinforce()), Objective(Reinforce()).regularized(ExactKL(2.0))
    (_, base, _), (_, grad, metrics) = (gradient(o, given) for o in zero)
    tokens = given["mask"].sum()
    torch.testing.assert_close(grad - base, 2 * (new - old).where(mask, 0.0) / tokens)
    policy, reference = (torch.distributions.Categorical(p) for p in (new, old))
    for direction, pair in {"forward": (reference, policy), "reverse": (policy, reference)}.items():
        penalty = ExactKL(1.0, "old", direction).penalty(TokenBatch.from_logits(**given))
        expected = torch.distributions.kl_divergence(*pair)
        torch.testing.assert_close(penalty[given["mask"]], expected[given["mask"]])
    assert metrics["loss/kl_forward_old"] > 0


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_exact_kl_ignores_masked_distributions(direction):
    """NaN distributions under the mask reach neither loss nor gradient."""
    mask = torch.tensor([[True, False]])
    log_probs = torch.tensor([[[0.2, 0.8], [math.nan, math.nan]]]).log().requires_grad_()
    old = torch.tensor([[[0.5, 0.5], [math.nan, math.nan]]]).log()
    zero = torch.zeros(1, 2)
    batch = TokenBatch(zero, zero, zero, mask, log_probs=log_probs, old_log_probs=old)
    loss, _ = Objective(Reinforce()).regularized(ExactKL(1.0, "old", direction))(batch)
    (grad,) = torch.autograd.grad(loss, log_probs)
    assert loss > 0
    assert torch.isfinite(grad).all()
    assert (grad[0, 1] == 0).all()


def test_kl_estimates_estimate_the_kl_from_the_policy():
    """Expectation over the policy's own actions of k1 and k3 is KL(pi || ref)."""
    logp, ref = torch.randn(2, 1, 1, 6, dtype=torch.float64).log_softmax(-1)
    expected = (logp.exp() * (logp - ref)).sum()
    for kind in ("k1", "k3"):
        rows = logp[0]  # every action once
        batch = TokenBatch(rows, rows, rows, torch.ones(1, 6), ref_logp=ref[0])
        value = (rows.exp() * KLEstimate(1.0, kind).penalty(batch)).sum()
        torch.testing.assert_close(value, expected)


def test_positive_nll_counts_rewarded_responses_only():
    """Mean of -log pi over tokens of responses with reward exactly 1, by the objective's aggregate."""
    given = leaves()
    given["reward"] = torch.tensor([1.0, 0.0, 0.999, 1.0, -1.0, 0.0]).double()
    batch = TokenBatch.from_logits(**given)
    rows = [0, 3]
    for aggregate in (TokenMean(), SequenceMeanTokenMean(), SequenceMeanTokenSum()):
        objective = Objective(Reinforce(), aggregate=aggregate, regularizers=(PositiveNLL(0.1),))
        _, metrics = objective(batch)
        expected = 0.1 * aggregate(-batch.logp[rows], batch.mask[rows])
        torch.testing.assert_close(metrics["loss/positive_nll"], expected.detach())
    given["reward"] = torch.zeros(6).double()
    assert objective(TokenBatch.from_logits(**given))[1]["loss/positive_nll"] == 0


@pytest.mark.parametrize(
    ("piece", "field"),
    [
        (EntropyRatio(), "entropy"),
        (ExactKL(1.0), "old_log_probs"),
        (ExactKL(1.0, "ref"), "ref_log_probs"),
        (KLEstimate(1.0), "ref_logp"),
        (EntropyBonus(1.0), "entropy"),
        (PositiveNLL(), "reward"),
    ],
)
def test_missing_fields_are_named(piece, field):
    """Field, and the piece that needs it."""
    batch = TokenBatch(*torch.zeros(3, 1, 2), torch.ones(1, 2))
    base = Objective(Reinforce())
    objective = base.gated(piece) if isinstance(piece, Gate) else base.regularized(piece)
    message = rf"TokenBatch\.{field}: not given, but {type(piece).__name__} needs it"
    with pytest.raises(ValueError, match=message):
        objective(batch)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EntropyRatio(low=-0.1), r"^EntropyRatio\.low: -0\.1, must be > 0$"),
        (lambda: EntropyRatio(high=math.nan), r"^EntropyRatio\.high: nan, must be > 0$"),
        (lambda: EntropyRatio(eps=0), r"^EntropyRatio\.eps: 0, must be > 0 and finite$"),
        (lambda: PPOClip(low=0), r"^PPOClip\.low: 0, must be > 0$"),
        (lambda: GPPO(high=torch.tensor([0.1, -0.2])), r"^GPPO\.high: -0\.2, must be > 0$"),
        (lambda: DualClip(PPOClip(), 1), r"^DualClip\.c: 1, must be > 1$"),
        (lambda: FixedHorizon(math.inf), r"^FixedHorizon\.horizon: inf, must be > 0 and finite$"),
        (lambda: EntropyBonus(-1), r"^EntropyBonus\.coefficient: -1, must be >= 0 and finite$"),
        (lambda: ExactKL(1.0, "new"), r"^ExactKL\.reference: 'new', must be 'old' or 'ref'$"),
        (lambda: ExactKL(1.0, direction="up"), r"^ExactKL\.direction: 'up', must be 'forward' or"),
        (lambda: KLEstimate(1.0, "k4"), r"^KLEstimate\.kind: 'k4', must be 'k1' or 'k2' or 'k3'$"),
    ],
)
def test_bad_hyperparameters(build, message):
    """Owner, field, value and what is allowed, in one line."""
    with pytest.raises(ValueError, match=message):
        build()


def test_pieces_satisfy_their_protocols():
    """Structural types, so that a stranger's piece needs no import from here."""
    assert isinstance(PPOClip(), Surrogate)
    assert isinstance(EntropyRatio(), Gate)
    assert isinstance(TokenMean(), Aggregate)
    assert isinstance(PositiveNLL(), Regularizer)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_say_what_they_are(name):
    """One sentence, an equation, a source; parameters have defaults; at most six lines."""
    found = recipe(name)
    assert found.name == name
    assert found.description.endswith(".")
    assert found.equation
    assert found.equation not in found.description
    assert found.source
    assert make(name) == found.build(**found.parameters)


def test_recipes_are_what_their_papers_say():
    """Clip ranges, aggregation, advantage and sampling."""
    assert make("dapo").surrogate == PPOClip(0.2, 0.28)
    assert make("dapo").aggregate == TokenMean()
    assert make("grpo").aggregate == SequenceMeanTokenMean()
    assert make("grpo").regularizers == ()
    assert make("grpo", beta=0.1).regularizers == (KLEstimate(0.1, "k3", "ref"),)
    assert make("erc-dapo") == make("dapo").gated(EntropyRatio(0.05, 0.05))
    assert make("erc-gppo", band_high=0.1) == make("gppo").gated(EntropyRatio(0.05, 0.1))
    also = {"high-entropy-only", "icepop", "seq-tis", "seq-mis", "seq-k3-rs"}
    on_dapo = {n for n in RECIPES if "dapo" in n} | also
    assert {n for n, r in RECIPES.items() if r.dynamic_sampling} == on_dapo
    assert {n for n, r in RECIPES.items() if r.overlong_penalty} == on_dapo
    assert recipe("ppo-clip").advantage == "gae"


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("erc_dapo", {}, r"'erc_dapo' is unknown; did you mean erc-dapo\? \(known: reinforce, "),
        ("zzz", {}, r"'zzz' is unknown \(known: .*tv-gate-dapo, .*placebo-RECIPE\)$"),
        (
            "dapo",
            {"band_low": 1},
            r"dapo has no parameter 'band_low' \(allowed: clip_low, clip_high, positive_nll\)",
        ),
        ("reinforce", {"x": 1}, r"reinforce has no parameter 'x' \(allowed: none\)"),
    ],
)
def test_unknown_recipes_and_parameters(name, overrides, message):
    """What is known, and a suggestion."""
    with pytest.raises(ValueError, match=message):
        make(name, **overrides)
