"""The surrogates of the zoo: closed forms, limits, ERC on top of every one, and what else holds them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from differential import trl_losses, verl_losses
from hypothesis import assume, settings
from hypothesis import given as given_
from hypothesis import strategies as st
from objective_batches import B, R, T, gradient, leaves

from erc_bench.core.batch import TokenBatch
from erc_bench.objectives import (
    CEGPPO,
    CISPO,
    GMPO,
    GPPO,
    GSPO,
    RECIPES,
    SAPO,
    TOPR,
    VESPO,
    BehaviourWeighted,
    DualClip,
    EntropyRatio,
    ImportanceWeighted,
    Objective,
    PPOClip,
    Projected,
    Reinforce,
    RolloutRejection,
    SequenceMeanTokenMean,
    SequenceTrustRegion,
    TruncatedImportance,
    make,
)

LOW, HIGH = 0.2, 0.28
SURROGATES = [
    Reinforce(),
    ImportanceWeighted(),
    PPOClip(),
    GPPO(),
    CEGPPO(),
    CISPO(LOW, HIGH),
    SAPO(),
    GSPO(LOW, HIGH),
    GMPO(LOW, HIGH),
    DualClip(GSPO(), 3.0),
    TruncatedImportance(CISPO(), 1.5),
    TruncatedImportance(PPOClip(), 1.5, "sequence"),
    BehaviourWeighted(),
    VESPO(),
    TOPR(),
]
EXACT = {"rtol": 1e-10, "atol": 1e-12}

surrogates = pytest.mark.parametrize(
    "surrogate",
    dict.fromkeys([*SURROGATES, *(recipe.objective.surrogate for recipe in RECIPES.values())]),
    ids=str,
)

#: Recipes whose loss no installed library has, and what holds them instead.
ELSEWHERE = {
    "erc-dapo": "the official release's numbers, test_objectives_golden.py",
    "erc-gppo": "the official release's numbers, test_objectives_golden.py",
    "gppo": "the official release's numbers, of which GPPO is the part without a gate",
    "ce-gppo": "closed forms; its release is a fork of verl that is not on a package index",
    "dapo-kl": "verl's and TRL's dapo, and the exact divergence of ppo-kl",
    "ppo-kl": "closed forms and autograd of the exact divergence",
    "ppo-kl-adaptive": "closed forms; verl has another controller, see docs/differences.md",
    "erc-directional-dapo": "an objective of this project",
    "kl-gate-dapo": "an objective of this project",
    "tv-gate-dapo": "an objective of this project",
    "placebo-erc-dapo": "a control of this project, test_objectives_placebo.py",
    "m2po": "the paper's algorithm 1; AReaL's mask counts other tokens, the release has a clip range",
    "trm": "torch's own divergences, test_objectives_rivals.py",
    "drpo": "closed forms; its release is no package",
    "troll": "closed forms, optimality and finite differences, test_objectives_rivals.py",
    "topr": "closed forms, test_objectives_rivals.py",
}


def test_every_recipe_is_compared_or_says_what_holds_it_instead():
    """A new recipe is compared with another library's loss (tests/differential), or says why not."""
    compared = {case.recipe for case in (*verl_losses.CASES, *trl_losses.CASES)}
    assert compared | set(ELSEWHERE) == set(RECIPES)
    assert not compared & set(ELSEWHERE)


def token(surrogate, r, a, **optional):
    """Loss of one token alone in its response, and its gradient with respect to log pi."""
    logp = torch.tensor([[math.log(r)]], dtype=torch.float64, requires_grad=True)
    zero, one = torch.zeros_like(logp), torch.ones_like(logp)
    loss = surrogate(TokenBatch(logp, zero, a * one, one, **optional))
    (grad,) = torch.autograd.grad(loss.sum(), logp)
    return loss.item(), grad.item()


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


@settings(deadline=None)
@given_(st.floats(0.01, 20), st.floats(-3, 3))
def test_the_zoos_surrogates_have_their_closed_forms(r, a):
    """Value and gradient factor at one token as functions of r and A, off the kinks."""
    kinks = (1 - LOW, 1 + HIGH, math.exp(-LOW), math.exp(HIGH))
    assume(all(abs(r - kink) > 1e-9 for kink in kinks))
    clipped = min(max(r, 1 - LOW), 1 + HIGH)
    above, below = a > 0 and r > 1 + HIGH, a < 0 and r < 1 - LOW
    b = 0.75 if above else 0.5 if below else 1.0
    gmpo = min(r, math.exp(HIGH)) if a > 0 else max(r, math.exp(-LOW))
    tau = 1.0 if a > 0 else 1.05
    p = sigmoid(tau * (r - 1))
    expected = {
        CEGPPO(LOW, HIGH, 0.5, 0.75): (
            -b * min(r * a, clipped * a),
            -b * a * (clipped if above or below else r),
        ),
        CISPO(LOW, HIGH): (-clipped * a * math.log(r), -clipped * a),
        SAPO(): (-4 / tau * p * a, -4 * p * (1 - p) * r * a),
        GMPO(LOW, HIGH): (-gmpo * a, -r * a if gmpo == r else 0.0),
        GSPO(LOW, HIGH): token(PPOClip(LOW, HIGH), r, a),
    }
    for surrogate, pair in expected.items():
        assert token(surrogate, r, a) == pytest.approx(pair, rel=1e-9, abs=1e-12), surrogate


@settings(deadline=None)
@given_(st.floats(0.01, 20), st.floats(-3, 3), st.floats(-3, 3))
def test_truncated_importance_multiplies_value_and_gradient(r, a, mismatch):
    """min(pi_old/pi_rollout, cap), a constant."""
    rollout = torch.tensor([[-mismatch]], dtype=torch.float64)  # the old log-probability is 0
    weight = min(math.exp(mismatch), 2.0)
    for base in (PPOClip(LOW, HIGH), SAPO(), CISPO()):
        found = token(TruncatedImportance(base, 2.0), r, a, rollout_logp=rollout)
        expected = [weight * x for x in token(base, r, a)]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def responses(seed):
    """Log-probabilities of responses with gaps and one empty; one advantage for each response."""
    g = torch.Generator().manual_seed(seed)
    old, step = torch.randn(2, B, T, generator=g, dtype=torch.float64)
    mask = torch.rand(B, T, generator=g) < 0.7
    mask[1] = False
    advantage = torch.randn(B, 1, generator=g, dtype=torch.float64).expand(B, T)
    shift = 0.4 * torch.randn(B, 1, generator=g, dtype=torch.float64)
    return (old + 0.3 * step + shift).requires_grad_(), old, advantage, mask


def clamp(x, low, high):
    return x.clamp(min=low).clamp(max=high)


def gspo_response(log_ratio, a):
    s = log_ratio.mean().exp()
    return -torch.minimum(s * a, clamp(s, 1 - LOW, 1 + HIGH) * a)


def gmpo_response(log_ratio, a):
    sign = a.sign()
    c = sign * torch.minimum(sign * log_ratio, sign * clamp(log_ratio, -LOW, HIGH))
    return -a * c.mean().exp()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("surrogate", "response"),
    [(GSPO(LOW, HIGH), gspo_response), (GMPO(LOW, HIGH), gmpo_response)],
    ids=["gspo", "gmpo"],
)
def test_token_forms_are_the_sequence_level_losses(surrogate, response, seed):
    """Value and gradient of the papers' loss per response, averaged over responses with a token;
    masked tokens and an empty response have no effect, not even NaN.
    """
    logp, old, advantage, mask = responses(seed)
    rows = [b for b in range(B) if mask[b].any()]
    expected = sum(response((logp - old)[b][mask[b]], advantage[b, 0]) for b in rows) / len(rows)
    (expected_grad,) = torch.autograd.grad(expected, logp)
    garbage = torch.where(mask, logp.detach(), math.nan).requires_grad_()
    batch = TokenBatch(garbage, old, advantage, mask)
    loss, _ = Objective(surrogate, aggregate=SequenceMeanTokenMean())(batch)
    (grad,) = torch.autograd.grad(loss, garbage)
    torch.testing.assert_close(loss, expected, **EXACT)
    torch.testing.assert_close(grad, expected_grad, **EXACT)
    assert (grad[~mask] == 0).all()


def test_a_responses_clip_counts_its_own_ratio():
    """GSPO's metrics compare the length-normalised ratio with the clip, not each token's."""
    log_ratio = torch.tensor([[0.5, -0.5], [0.3, 0.3]])
    ones = torch.ones(2, 2)
    batch = TokenBatch(log_ratio - 1, -ones, ones, ones)
    _, metrics = Objective(GSPO(LOW, HIGH))(batch)
    assert metrics["clip/ratio_outside_fraction"].item() == 0.5
    assert metrics["clip/ratio_bound_fraction"].item() == 0.5
    _, metrics = Objective(PPOClip(LOW, HIGH))(batch)
    assert metrics["clip/ratio_outside_fraction"].item() == 1


@pytest.mark.parametrize(
    "surrogate",
    [s for s in SURROGATES if s.clip_range is not None],
    ids=str,
)
def test_clip_ranges_and_bounds_agree(surrogate):
    """A bound token's ratio lies outside the clip range, DualClip's second clip aside."""
    given = leaves((4 * B, T))
    batch = TokenBatch.from_logits(**given)
    low, high = surrogate.clip_range
    ratio = surrogate.ratio(batch).detach()
    outside = (ratio < 1 - low) | (ratio > 1 + high)
    bound = surrogate.bound(batch) & batch.mask
    if isinstance(surrogate, DualClip):
        bound &= surrogate.base.bound(batch)
    assert bool((outside | ~bound).all())
    assert torch.equal(ratio[~batch.mask], torch.ones_like(ratio[~batch.mask]))
    if not isinstance(surrogate, TruncatedImportance):
        assert bound.any()


@pytest.mark.parametrize("surrogate", [GSPO(LOW, HIGH), GMPO(LOW, HIGH)], ids=str)
def test_bound_tokens_have_no_gradient_at_sequence_level(surrogate):
    """Where the clip determines the factor the gradient is zero, elsewhere it is not."""
    logp, old, advantage, mask = responses(0)
    batch = TokenBatch(logp, old, advantage, mask)
    (grad,) = torch.autograd.grad(surrogate(batch).sum(), logp)
    bound = surrogate.bound(batch) & mask
    assert 0 < bound.sum() < mask.sum()
    assert torch.equal(grad == 0, bound | ~mask)


def same(first, second, given, *, value=True):
    a, b = gradient(first, given), gradient(second, given)
    if value:
        torch.testing.assert_close(a[0], b[0], **EXACT)
    torch.testing.assert_close(a[1], b[1], **EXACT)
    assert a[1].abs().max() > 0


def test_settings_at_their_limits_give_the_base():
    """Weights of 1, open bands, open regions, open caps: the recipe's base, value and gradient."""
    given = leaves((4 * B, T))
    mismatched = given
    given = {k: v for k, v in given.items() if k != "rollout_logp"}
    weighted = Objective(ImportanceWeighted())
    weighted_by_response = Objective(ImportanceWeighted(), aggregate=SequenceMeanTokenMean())
    inf = math.inf
    for name, settings_, base in [
        ("ce-gppo", {"b_low": 1, "b_high": 1}, make("gppo")),
        ("erc-directional-dapo", {"band_low": inf, "band_high": inf}, make("dapo")),
        ("erc-dapo", {"band_low": 1, "band_high": inf}, make("dapo")),
        ("kl-gate-dapo", {"delta": inf}, make("dapo")),
        ("tv-gate-dapo", {"delta": 1}, make("dapo")),
        ("high-entropy-only", {"fraction": 1}, make("dapo")),
        ("dapo-tis", {"cap": inf}, make("dapo")),
        ("pg-is", {}, weighted),
        ("dppo-tv", {"delta_low": 1, "delta_high": 1}, weighted),
        ("dppo-kl", {"delta_low": inf, "delta_high": inf}, weighted),
        ("m2po", {"tau": inf}, weighted),
        ("trm", {"delta": inf}, weighted),
        ("drpo", {"delta": inf}, weighted),
        ("troll", {"delta": inf}, weighted_by_response),
        ("dapo-is", {}, make("dapo")),
        ("icepop", {}, make("dapo")),
        ("seq-tis", {}, make("dapo")),
        ("seq-mis", {}, make("dapo")),
        ("seq-k3-rs", {}, make("dapo")),
        ("kl-cov", {"beta": 0}, weighted),
        ("clip-cov", {"cov_low": inf, "clip_low": inf, "clip_high": inf}, weighted),
        ("ppo-kl", {"beta": 0}, weighted),
        ("ppo-entropy", {"bonus": 0}, make("ppo-clip")),
        ("dapo-entropy", {"bonus": 0}, make("dapo")),
        ("dapo-kl", {"beta": 0}, make("dapo")),
        ("dual-clip", {"c": inf}, make("ppo-clip")),
        ("ppo-kl-adaptive", {"beta": 3.0}, make("ppo-kl", beta=3.0)),
    ]:
        same(make(name, **settings_), base, given)
    for name, settings_, base in [
        ("icepop", {"low": 0, "high": inf}, make("dapo-is")),
        ("seq-mis", {"low": 0, "high": inf}, make("seq-tis", cap=inf)),
        ("seq-k3-rs", {"high": inf}, make("dapo")),
        ("dapo-is", {}, make("dapo-tis", cap=inf)),
        ("m2po", {"tau": inf}, make("pg-is")),
    ]:
        same(make(name, **settings_), base, mismatched)
    same(make("ce-gppo", b_low=0, b_high=0), make("ppo-clip"), given, value=False)
    same(make("cispo", clip_low=inf, clip_high=inf), weighted, given, value=False)
    old = torch.log_softmax(given["old_logits"], -1).gather(-1, given["action"][..., None])
    same(make("dapo-tis", cap=inf), make("dapo"), given | {"rollout_logp": old.squeeze(-1)})
    tis, dapo = (gradient(make(n), mismatched)[1] for n in ("dapo-tis", "dapo"))
    assert (tis - dapo).abs().max() > 1e-3


def test_a_single_tokens_response_is_a_token():
    """At T = 1 GSPO is PPO-clip."""
    given = leaves((4 * B, 1))
    same(
        make("gspo", clip_low=LOW, clip_high=HIGH),
        make("grpo", clip_low=LOW, clip_high=HIGH),
        given,
    )


def test_dr_grpo_is_dapo_up_to_its_denominator():
    """sum / (B T_max) against sum / tokens."""
    given = leaves()
    loss, grad, _ = gradient(make("dr-grpo", clip_high=HIGH, horizon=9.0), given)
    base_loss, base, _ = gradient(make("dapo"), given)
    scale = given["mask"].sum() / (B * 9)
    torch.testing.assert_close(loss, base_loss * scale)
    torch.testing.assert_close(grad, base * scale)


def test_dapo_takes_the_releases_positive_likelihood():
    """positive_nll adds its weight times the NLL of responses with reward 1; 0 needs no reward."""
    given = leaves()
    for name in ("dapo", "erc-dapo"):
        assert make(name).regularizers == ()
        plain, with_nll = (gradient(make(name, positive_nll=w), given) for w in (0.0, 0.1))
        assert with_nll[0] != plain[0]
        torch.testing.assert_close(with_nll[0], plain[0] + with_nll[2]["loss/positive_nll"])


@pytest.mark.parametrize("name", RECIPES)
def test_erc_composes_with_every_recipe(name):
    """On top of any recipe the band takes exactly the gated tokens' gradient of the surrogate; value,
    denominators and the regularizers' gradient stay.
    """
    given = leaves((2 * B, T))
    base = make(name)
    gated = base.gated(EntropyRatio())
    batch = TokenBatch.from_logits(**given)
    assert gated.denominators(batch).surrogate == base.denominators(batch).surrogate
    (loss, grad, metrics), (gated_loss, gated_grad, gated_metrics) = (
        gradient(o, given) for o in (base, gated)
    )
    assert torch.equal(gated_loss, loss)
    alone = Objective(base.surrogate, base.gates, base.aggregate)
    contribution = gradient(alone, given)[1]
    inside = EntropyRatio().keep(batch)
    dropped = (~inside & batch.mask).unsqueeze(-1)
    assert 0 < dropped.sum() < batch.mask.sum()
    expected = grad - torch.where(dropped, contribution, 0.0)
    torch.testing.assert_close(gated_grad, expected, **EXACT)
    assert metrics["loss/surrogate"] == gated_metrics["loss/surrogate"]


def bounded_in_half_precision(surrogate):
    """All but those that see whole distributions, or multiply the ratio by a weight without a bound."""
    return not isinstance(surrogate, Projected) and getattr(surrogate, "cap", 1.0) < math.inf


EXTREME = [-1e4, -25.0, -20.0, -11.0, 0.0, 11.0, 20.0, 25.0, 1e4]


@pytest.mark.parametrize(
    "surrogate",
    dict.fromkeys(
        s
        for s in (*SURROGATES, *(r.objective.surrogate for r in RECIPES.values()))
        if bounded_in_half_precision(s)
    ),
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_surrogate_is_finite_at_extreme_ratios(surrogate, dtype):
    """Log-ratios from -1e4 to 1e4, beside ordinary tokens: finite loss and gradient, dtype kept."""
    for shift, a in itertools.product(EXTREME, (0.5, 0.0, -0.5)):
        logp = torch.tensor([[shift, 0.0, -1.0], [0.1, 0.0, shift]], dtype=dtype)
        logp.requires_grad_()
        zero = torch.zeros_like(logp).detach()
        batch = TokenBatch(
            logp, zero, zero + a, zero + 1, zero, zero, rollout_logp=(-logp).detach()
        )
        objective = Objective(surrogate, aggregate=SequenceMeanTokenMean()).gated(EntropyRatio())
        loss, metrics = objective(batch)
        (grad,) = torch.autograd.grad(loss, logp)
        assert loss.dtype is dtype
        assert torch.isfinite(loss), (shift, a)
        assert torch.isfinite(grad).all(), (shift, a)
        assert all(torch.isfinite(v) for v in metrics.values())


def test_long_responses_do_not_overflow_in_half_precision():
    """A response's mean log-ratio is summed in float32: 8000 tokens at log r = 10 in float16."""
    logp = torch.full((1, 8000), 10.0, dtype=torch.float16, requires_grad=True)
    zero = torch.zeros(1, 8000, dtype=torch.float16)
    batch = TokenBatch(logp, zero, zero - 0.5, zero + 1)
    for surrogate in (GSPO(), GMPO()):
        per_token = surrogate(batch)
        assert torch.isfinite(per_token).all()
        assert per_token[0, 0].item() == pytest.approx(0.5 * math.exp(10), rel=2e-3)


PER_RUN = torch.tensor([0.15, 0.3, 0.6], dtype=torch.float64)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: CEGPPO(x, 2 * x, 3 * x, x),
        lambda x: CISPO(x, 2 * x),
        lambda x: SAPO(2 * x, x),
        lambda x: GSPO(x, x / 2),
        lambda x: GMPO(x, x / 2),
        lambda x: TruncatedImportance(PPOClip(), 2 * x),
        lambda x: TruncatedImportance(PPOClip(), 2 * x, "sequence"),
        lambda x: VESPO(x, 2 * x, 3 * x, x),
        lambda x: TOPR(2 * x),
        lambda x: Projected(x / 10),
    ],
    ids=["ce-gppo", "cispo", "sapo", "gspo", "gmpo", "tis", "seq-tis", "vespo", "topr", "troll"],
)
def test_hyperparameters_of_the_zoo_may_differ_between_runs(build):
    """(R, B, T) with a value per run equals R calls with floats; another run's value would not."""
    given = leaves((R, 4 * B, T))
    loss, grad, _ = gradient(Objective(build(PER_RUN)), given)
    for run in range(R):
        one = {k: v[run].detach() for k, v in given.items()}
        one["logits"].requires_grad_()
        alone = gradient(Objective(build(PER_RUN[run].item())), one)
        torch.testing.assert_close(loss[run], alone[0], **EXACT)
        torch.testing.assert_close(grad[run], alone[1], **EXACT)
        other = gradient(Objective(build(PER_RUN[run - 1].item())), one)
        assert (other[1] - alone[1]).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CEGPPO(low=0), r"^CEGPPO\.low: 0, must be > 0$"),
        (lambda: CEGPPO(b_low=-1), r"^CEGPPO\.b_low: -1, must be >= 0 and finite$"),
        (lambda: CEGPPO(b_high=math.inf), r"^CEGPPO\.b_high: inf, must be >= 0 and finite$"),
        (lambda: CISPO(high=math.nan), r"^CISPO\.high: nan, must be > 0$"),
        (lambda: SAPO(tau_positive=0), r"^SAPO\.tau_positive: 0, must be > 0 and finite$"),
        (lambda: SAPO(tau_negative=math.inf), r"^SAPO\.tau_negative: inf, must be > 0 and finite$"),
        (lambda: GSPO(high=-1), r"^GSPO\.high: -1, must be > 0$"),
        (lambda: GMPO(low=0), r"^GMPO\.low: 0, must be > 0$"),
        (lambda: TruncatedImportance(cap=0), r"^TruncatedImportance\.cap: 0, must be > 0$"),
        (
            lambda: TruncatedImportance(level="response"),
            r"^TruncatedImportance\.level: 'response', must be 'token' or 'sequence'$",
        ),
        (lambda: VESPO(k_negative=-1), r"^VESPO\.k_negative: -1, must be >= 0 and finite$"),
        (lambda: TOPR(0), r"^TOPR\.cap: 0, must be > 0$"),
        (lambda: Projected(0), r"^Projected\.delta: 0, must be > 0$"),
        (lambda: make("dppo-kl", delta_low=0), r"^SampledKL\.low: 0, must be > 0$"),
        (lambda: make("m2po", tau=-1), r"^SecondMoment\.tau: -1, must be > 0$"),
        (lambda: make("drpo", delta=0), r"^ProbabilityShift\.delta: 0, must be > 0$"),
        (lambda: make("trm", delta=math.nan), r"^SequenceTrustRegion\.delta: nan, must be > 0$"),
        (
            lambda: SequenceTrustRegion(criterion="sum"),
            r"^SequenceTrustRegion\.criterion: 'sum', must be 'max' or 'mean'$",
        ),
        (
            lambda: make("icepop", low=6.0),
            r"^RolloutRejection\.high: 5\.0, must be at least low \(6\.0\)$",
        ),
        (
            lambda: RolloutRejection("k1"),
            r"^RolloutRejection\.kind: 'k1', must be 'ratio' or 'k2' or 'k3'$",
        ),
        (lambda: make("dr-grpo", horizon=0), r"^FixedHorizon\.horizon: 0, must be > 0 and finite$"),
    ],
)
def test_bad_hyperparameters_of_the_zoo(build, message):
    """Owner, field, value and what is allowed, in one line."""
    with pytest.raises(ValueError, match=message):
        build()


def test_the_zoo_is_what_the_papers_say():
    """Defaults, aggregation and advantages as the table of the papers has them."""
    per_response = SequenceMeanTokenMean()
    assert make("gspo") == Objective(GSPO(3e-4, 4e-4), aggregate=per_response)
    assert make("gmpo") == Objective(GMPO(0.4, 0.4), aggregate=per_response)
    assert make("sapo") == Objective(SAPO(1.0, 1.05), aggregate=per_response)
    assert make("ce-gppo").surrogate == CEGPPO(0.2, 0.2, 0.5, 1.0)
    assert make("cispo").surrogate.low == 1
    assert RECIPES["dr-grpo"].advantage == "group-centred"
    by_gae = {n for n, r in RECIPES.items() if r.advantage == "gae"}
    assert by_gae == {"ppo-clip", "dual-clip", "ppo-kl", "ppo-kl-adaptive", "ppo-entropy"}
