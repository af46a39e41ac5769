"""The rivals of entropy ratio clipping: masks by divergence, rejection, penalties, an exact projection."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, settings
from hypothesis import given as given_
from hypothesis import strategies as st
from objective_batches import B, R, T, gradient, leaves
from torch.distributions import Bernoulli, Categorical, kl_divergence

from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import binary_kl, kl
from erc_bench.core.projection import kl_projection
from erc_bench.objectives import (
    TOPR,
    VESPO,
    BehaviourWeighted,
    Objective,
    ProbabilityShift,
    Projected,
    ProjectionKL,
    RolloutRejection,
    SampledKL,
    SampledTV,
    SecondMoment,
    SequenceTrustRegion,
    make,
)

EXACT = {"rtol": 1e-9, "atol": 1e-12}
logps = st.floats(-8, -1e-3)
advantages = st.floats(-2, 2)


def one_token(logp, old_logp, a, **optional):
    one = torch.ones(1, 1, dtype=torch.float64)
    optional = {name: value * one for name, value in optional.items()}
    return TokenBatch((logp * one).requires_grad_(), old_logp * one, a * one, one, **optional)


def weight(objective, batch):
    """What multiplies ``grad log pi`` of a lone token when its loss is minimised."""
    (grad,) = torch.autograd.grad(objective(batch)[0], batch.logp, retain_graph=True)
    return -grad.item()


# -- the policy that drew the tokens -------------------------------------------------------------


@pytest.mark.parametrize("name", ["pg-is", "dppo-tv", "dppo-kl", "m2po", "drpo", "vespo", "topr"])
def test_rollout_log_probabilities_stand_in_the_old_policys_place(name):
    """What is anchored at the rollout sees pi/mu alone: with rollout_logp the loss and gradient are those
    of a batch in which that was the old policy, whatever the old policy was.
    """
    given = leaves((4 * B, T))
    batch = TokenBatch.from_logits(**given)
    bypassed = TokenBatch(batch.logp, batch.rollout_logp, batch.advantage, batch.mask)
    for one, other in zip(*(gradient_of(make(name), x) for x in (batch, bypassed)), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    plain = TokenBatch(batch.logp, batch.old_logp, batch.advantage, batch.mask)
    assert (
        gradient_of(make(name), plain)[1] - gradient_of(make(name), batch)[1]
    ).abs().max() > 1e-3


def gradient_of(objective, batch):
    loss, _ = objective(batch)
    return loss, torch.autograd.grad(loss, batch.logp, retain_graph=True)[0]


# -- DPPO ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given_(logps, logps)
def test_binary_kl_is_that_of_two_outcomes(p, q):
    """By torch's Bernoulli, to rounding; it never exceeds the KL of distributions that split the rest."""
    x, y = torch.tensor([p, q], dtype=torch.float64)
    expected = kl_divergence(Bernoulli(x.exp()), Bernoulli(y.exp()))
    torch.testing.assert_close(binary_kl(x, y), expected, rtol=1e-6, atol=1e-12)
    shares = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], dtype=torch.float64)
    whole = [
        torch.cat([z.exp()[None], (1 - z.exp()) * s]) for z, s in zip((x, y), shares, strict=True)
    ]
    assert binary_kl(x, y) <= kl(*(w.log() for w in whole)) + 1e-12


def test_binary_kl_at_certain_and_impossible_actions():
    """0 between equals, also at probability 0 and 1; infinite where an outcome was lost; precise near 1."""
    log = torch.tensor([0.0, -math.inf, 0.0, -1.0], dtype=torch.float64)
    assert (binary_kl(log, log) == 0).all()
    assert binary_kl(log[3], log[0]) == binary_kl(log[3], log[1]) == math.inf
    tiny = torch.tensor([-1e-12, -2e-12], dtype=torch.float64)
    expected = 1e-12 * (1 - math.log(2))
    assert binary_kl(*tiny).item() == pytest.approx(expected, rel=1e-3)


@settings(deadline=None)
@given_(logps, logps, advantages, st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_dppo_kl_drops_what_moved_too_far_its_own_way(logp, old_logp, a, low, high):
    """A > 0, pi > mu and KL > high, or A < 0, pi < mu and KL > low: no gradient; else r A grad log pi."""
    distance = binary_kl(*torch.tensor([old_logp, logp], dtype=torch.float64)).item()
    assume(all(abs(distance - d) > 1e-9 for d in (low, high)))
    dropped = distance > (high if a > 0 else low) and a * (logp - old_logp) > 0
    batch = one_token(logp, old_logp, a)
    assert SampledKL(low, high).keep(batch).item() is not dropped
    expected = 0.0 if dropped else a * math.exp(logp - old_logp)
    assert weight(make("dppo-kl", delta_low=low, delta_high=high), batch) == pytest.approx(expected)


# -- rejection by what the engine said -----------------------------------------------------------


STATISTICS = {
    "ratio": math.exp,
    "k2": lambda x: x * x / 2,
    "k3": lambda x: math.exp(x) - 1 - x,
}


def kept(kind, level, low, high, row):
    """One response's decisions, token by token, by a loop over the definition."""
    log_ratios = [x for x in row if x is not None]
    each = [low <= STATISTICS[kind](x) <= high for x in log_ratios]
    if level == "token":
        return each
    if level == "max":
        return [all(each)] * len(each)
    total = sum(log_ratios) if kind == "ratio" else sum(map(STATISTICS[kind], log_ratios))
    total = total / len(log_ratios) if level == "mean" else total
    statistic = math.exp(total) if kind == "ratio" else total
    return [low <= statistic <= high] * len(each)


@pytest.mark.parametrize("level", ["token", "sum", "mean", "max"])
@pytest.mark.parametrize(
    ("kind", "low", "high"), [("ratio", 0.7, 1.4), ("k2", 0, 0.1), ("k3", 0, 0.2)]
)
def test_rejection_is_its_definition(kind, level, low, high):
    """Against a loop; the gradient is the base's where kept and zero elsewhere, denominators stay."""
    given = leaves((60, T))
    batch = TokenBatch.from_logits(**given)
    gate = RolloutRejection(kind, level, low, high)
    gap = (batch.old_logp - batch.rollout_logp).tolist()
    rows = [
        [x for x, m in zip(row, mask, strict=True) if m]
        for row, mask in zip(gap, batch.mask.tolist(), strict=True)
    ]
    expected = [x for row in rows for x in kept(kind, level, low, high, row)]
    found = gate.keep(batch)[batch.mask]
    assert found.tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert gate.over_sequences == (level != "token")
    base = make("seq-tis")
    grads = [gradient(o, given)[1] for o in (base, base.gated(gate))]
    keep = (gate.keep(batch) | ~batch.mask).unsqueeze(-1)
    torch.testing.assert_close(grads[1], torch.where(keep, grads[0], 0.0), **EXACT)


def test_a_response_is_weighed_by_the_product_of_its_tokens():
    """seq-tis: min(prod rho, cap) on every token; icepop: rho itself inside its bounds, 0 outside."""
    rollout = torch.tensor([[-0.3, -0.2, 5.0], [0.4, 0.1, 0.2]], dtype=torch.float64)
    zero = torch.zeros_like(rollout)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    batch = TokenBatch(zero, zero, zero + 1, mask, rollout_logp=rollout)
    weights = make("seq-tis", cap=1.5).surrogate.weight(batch)
    torch.testing.assert_close(weights.squeeze(-1), torch.tensor([1.5, math.exp(-0.7)]).double())
    logp = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    loss, _ = make("icepop", low=0.7, high=1.3)(
        TokenBatch(logp, zero, zero + 1, mask, rollout_logp=rollout)
    )
    (grad,) = torch.autograd.grad(loss, logp)
    inside = [[0.0, math.exp(0.2), 0], [0.0, math.exp(-0.1), math.exp(-0.2)]]
    torch.testing.assert_close(-5 * grad, torch.tensor(inside).double())


# -- M2PO ----------------------------------------------------------------------------------------


def algorithm_1(moment, constrained, tau):
    """M2PO masking as the paper writes it: take the largest out until the mean of the rest fits."""
    keep = [True] * len(moment)
    trust = [i for i, chosen in enumerate(constrained) if chosen]
    while trust and sum(moment[i] for i in trust) / len(trust) > tau:
        worst = max(trust, key=moment.__getitem__)
        keep[worst] = False
        trust.remove(worst)
    return keep


@settings(deadline=None)
@given_(st.integers(0, 2**16), st.floats(0.001, 0.5), st.sampled_from([0.05, 0.3, 1.0]))
def test_m2po_masks_as_algorithm_1_does(seed, tau, drift):
    """Of each run for itself, among A > 0, r > 1 and A < 0, r < 1."""
    g = torch.Generator().manual_seed(seed)
    logp, a = torch.randn(2, R, 4, 5, generator=g, dtype=torch.float64)
    mask = torch.rand(R, 4, 5, generator=g) < 0.8
    batch = TokenBatch(drift * logp, torch.zeros_like(logp), a, mask)
    keep = SecondMoment(tau).keep(batch)
    for run in range(R):
        x, y = (z[run][mask[run]] for z in (drift * logp, a))
        expected = algorithm_1(x.square().tolist(), (x * y > 0).tolist(), tau)
        assert keep[run][mask[run]].tolist() == expected
    bounds = torch.tensor([0.02, 0.2, math.inf])
    own = SecondMoment(bounds).keep(batch)
    for run in range(R):
        assert torch.equal(own[run], SecondMoment(bounds[run].item()).keep(batch)[run])


# -- trust region masking ------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["max", "mean"])
def test_trm_drops_responses_by_their_exact_divergence(criterion):
    """KL(old || new) of torch.distributions; the whole response, and nothing of the others."""
    given = leaves((60, T))
    batch = TokenBatch.from_logits(**given)
    old, new = (Categorical(logits=given[k].detach()) for k in ("old_logits", "logits"))
    exact = torch.where(batch.mask, kl_divergence(old, new), 0.0)
    tokens = batch.mask.sum(-1)
    response = exact.max(-1).values if criterion == "max" else exact.sum(-1) / tokens
    gate = SequenceTrustRegion(0.05, criterion)
    keep = gate.keep(batch)
    assert torch.equal(keep, (response <= 0.05).unsqueeze(-1).expand_as(keep))
    assert 0 < keep[batch.mask].sum() < batch.mask.sum()
    base, grad = (gradient(o, given)[1] for o in (make("pg-is"), make("pg-is").gated(gate)))
    torch.testing.assert_close(grad, torch.where(keep.unsqueeze(-1), base, 0.0), **EXACT)


# -- DRPO ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given_(logps, logps, advantages, st.floats(0.02, 1))
def test_drpos_weight_fades_to_the_edge_and_turns_round_outside(logp, old_logp, a, delta):
    """r A (1 - sign(A) (pi - mu)/delta): DPPO's edge is where it is zero (Table 1 of the paper)."""
    shift = math.exp(logp) - math.exp(old_logp)
    batch = one_token(logp, old_logp, a)
    expected = math.exp(logp - old_logp) * (a - abs(a) * shift / delta)
    objective = make("drpo", delta=delta)
    assert weight(objective, batch) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    value = -math.exp(logp - old_logp) * a
    value += abs(a) * math.exp(old_logp) * (math.exp(logp - old_logp) - 1) ** 2 / (2 * delta)
    assert objective(batch)[0].item() == pytest.approx(value, rel=1e-9, abs=1e-12)
    if abs(a) > 1e-6 and abs(abs(shift) - delta) > 1e-9:
        leads_back = weight(objective, batch) * a < 0
        assert leads_back == (not SampledTV(delta, delta).keep(batch).item())


# -- TROLL ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given_(st.integers(0, 2**16), st.floats(1e-3, 0.3), st.integers(2, 9))
def test_the_projection_is_the_nearest_distribution_in_the_region(seed, delta, vocabulary):
    """It meets the bound, is the trained policy inside, has the geometric form outside, and no other
    distribution of the region is nearer (in KL(q || pi)).
    """
    g = torch.Generator().manual_seed(seed)
    new, old, other = torch.randn(3, 20, vocabulary, generator=g, dtype=torch.float64).log_softmax(
        -1
    )
    q, outside = kl_projection(new, old, delta)
    assert torch.equal(outside, kl(new, old) > delta)
    assert torch.equal(q[~outside], new[~outside])
    torch.testing.assert_close(q.exp().sum(-1), torch.ones(20, dtype=torch.float64), **EXACT)
    met = torch.full_like(new[outside, 0], delta)
    torch.testing.assert_close(kl(q, old)[outside], met, rtol=1e-8, atol=1e-12)
    # log q - log pi_old is proportional to log pi - log pi_old, up to a constant
    along, gap = ((x - old)[outside] for x in (q, new))
    along, gap = along - along.mean(-1, keepdim=True), gap - gap.mean(-1, keepdim=True)
    share = (along * gap).sum(-1, keepdim=True) / gap.square().sum(-1, keepdim=True)
    torch.testing.assert_close(along, share * gap, rtol=1e-6, atol=1e-9)
    assert ((share > 0) & (share < 1)).all()
    rival, _ = kl_projection(other, old, delta)
    assert (kl(q, new) <= kl(rival, new) + 1e-9).all()


def test_the_projections_gradient_is_that_of_finite_differences():
    """Through the multiplier too, with a bound for each run; nothing flows to the old policy."""
    g = torch.Generator().manual_seed(0)
    new, old = 2 * torch.randn(2, R, 2, 3, 5, generator=g, dtype=torch.float64)
    delta = torch.tensor([0.01, 0.03, 0.1], dtype=torch.float64)
    new.requires_grad_()

    def projected(logits):
        return kl_projection(logits.log_softmax(-1), old.log_softmax(-1), delta)[0]

    assert kl_projection(new.log_softmax(-1), old.log_softmax(-1), delta)[1].all()
    assert torch.autograd.gradcheck(projected, (new,), eps=1e-6, atol=1e-6)
    # the bound is met whatever the logits, so along it the divergence does not change
    met = kl(projected(new), old.log_softmax(-1))
    (grad,) = torch.autograd.grad(met.sum(), new)
    assert grad.abs().max() < 1e-7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_projection_survives_impossible_actions(dtype):
    """Actions that one of the two policies has lost: finite value and gradient, inside the region."""
    new = torch.tensor([[[0.7, 0.3, 0.0], [0.0, 0.5, 0.5], [0.5, 0.5, 0.0]]]).log().to(dtype)
    old = torch.tensor([[[0.3, 0.7, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]]).log().to(dtype)
    new.requires_grad_()
    q, outside = kl_projection(new, old, 0.05)
    assert outside.all()
    (grad,) = torch.autograd.grad(q.exp().sum(), new)
    assert torch.isfinite(grad).all()
    assert (kl(q.float().clamp(min=-1e4), old.float().clamp(min=-1e4)) < 0.06).all()


def test_trolls_loss_is_the_projected_ratio_and_a_regression():
    """Value by its definition; the network's own gradient inside the region is that of r A; the penalty
    moves the network towards the projection and is zero inside.
    """
    given = leaves((4 * B, T))
    batch = TokenBatch.from_logits(**given)
    q, outside = kl_projection(batch.log_probs, batch.old_log_probs, 0.05)
    at = batch.action.unsqueeze(-1)
    ratio = (q - batch.old_log_probs).gather(-1, at).squeeze(-1).exp()
    mask = batch.mask
    torch.testing.assert_close(
        Projected(0.05)(batch)[mask], -(ratio * batch.advantage)[mask], **EXACT
    )
    penalty = ProjectionKL(1.0, 0.05).penalty(batch)
    torch.testing.assert_close(penalty[mask], kl(batch.log_probs, q)[mask], **EXACT)
    assert (penalty[~outside] == 0).all()
    assert (penalty[outside & mask] > 0).all()
    troll, base = make("troll"), make("grpo", clip_low=math.inf, clip_high=math.inf)
    grads = [gradient(o, given)[1] for o in (troll, base)]
    inside = mask & ~outside
    assert inside.any()
    torch.testing.assert_close(grads[0][inside], grads[1][inside], **EXACT)
    # a step down the penalty alone brings the trained policy nearer to the region's edge
    (grad,) = torch.autograd.grad(penalty[outside & mask].sum(), given["logits"])
    moved = {**given, "logits": given["logits"].detach() - 0.1 * grad}
    after = TokenBatch.from_logits(**moved)
    nearer = kl(after.log_probs, q) < kl(batch.log_probs, q)
    assert nearer[outside & mask].all()


def test_a_mask_is_no_projection():
    """Outside the region a gate leaves no gradient; TROLL's moves the projection along the edge, and its
    first-order effect on the divergence of the projected policy is zero.
    """
    new = torch.tensor([[[1.5, 0.0, -1.0]]], dtype=torch.float64, requires_grad=True)
    old = torch.zeros(1, 1, 3, dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    action = torch.zeros(1, 1, dtype=torch.long)
    batch = TokenBatch.from_logits(new, old, action, one, one)
    loss, _ = Objective(Projected(0.05))(batch)
    (grad,) = torch.autograd.grad(loss, new, retain_graph=True)
    assert grad.abs().max() > 1e-3
    gated, _ = Objective(BehaviourWeighted()).gated(SequenceTrustRegion(0.05))(batch)
    assert (torch.autograd.grad(gated, new, retain_graph=True)[0] == 0).all()
    q, _ = kl_projection(batch.log_probs, batch.old_log_probs, 0.05)
    (slope,) = torch.autograd.grad(kl(q, batch.old_log_probs).sum(), new)
    assert (slope * grad).sum().abs() < 1e-9


# -- weights of whole responses ------------------------------------------------------------------


@settings(deadline=None)
@given_(st.lists(st.floats(-1.5, 1.5), min_size=1, max_size=4), advantages)
def test_vespo_and_topr_weigh_log_pi_by_the_responses_ratio(log_ratios, a):
    """phi(w) = w^k exp(lambda (1 - w)), and min(w, 1) at A < 0: constants, the same for every token."""
    assume(abs(sum(log_ratios)) > 1e-9)
    w = math.exp(sum(log_ratios))
    k, rate = (2.0, 3.0) if a >= 0 else (3.0, 2.0)
    logp = torch.tensor([log_ratios], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros_like(logp)
    batch = TokenBatch(logp, zero, zero + a, zero + 1)
    for surrogate, factor in (
        (VESPO(), w**k * math.exp(rate * (1 - w))),
        (TOPR(), min(w, 1.0) if a < 0 else 1.0),
    ):
        loss = surrogate(batch)
        (grad,) = torch.autograd.grad(loss.sum(), logp, retain_graph=True)
        torch.testing.assert_close(loss, -factor * a * logp, **EXACT)
        torch.testing.assert_close(grad, torch.full_like(grad, -factor * a), **EXACT)


def test_probability_shift_of_half_precision_is_finite():
    """Log-ratios of 1e4 in float16, where the square of the ratio overflows."""
    logp = torch.tensor([[-1e4, -0.1, -8.0]], dtype=torch.float16, requires_grad=True)
    old = torch.tensor([[-0.1, -1e4, -1e4]], dtype=torch.float16)
    penalty = ProbabilityShift().penalty(TokenBatch(logp, old, old * 0 + 1, old * 0 + 1))
    assert torch.isfinite(penalty).all()
    assert torch.isfinite(torch.autograd.grad(penalty.sum(), logp)[0]).all()
