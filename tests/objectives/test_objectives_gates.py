"""The gates of the zoo, against loops, exact gradients and torch's own distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, settings
from hypothesis import given as given_
from hypothesis import strategies as st
from objective_batches import OVER_BATCH, B, R, T, V, gradient, leaves
from torch.distributions import Categorical, kl_divergence

from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import entropy, entropy_slope
from erc_bench.objectives import (
    CEGPPO,
    CISPO,
    GMPO,
    GPPO,
    GSPO,
    SAPO,
    ClipCovariance,
    CovarianceKL,
    DirectionalEntropyRatio,
    DualClip,
    EntropyRatio,
    HighEntropy,
    ImportanceWeighted,
    KLTrustRegion,
    Objective,
    PPOClip,
    Reinforce,
    RolloutRejection,
    SampledKL,
    SampledTV,
    SecondMoment,
    SequenceTrustRegion,
    TruncatedImportance,
    TVTrustRegion,
    make,
)

SURROGATES = [
    Reinforce(),
    ImportanceWeighted(),
    PPOClip(),
    GPPO(),
    CEGPPO(),
    CISPO(),
    SAPO(),
    GSPO(0.2, 0.2),
    GMPO(),
    DualClip(),
    TruncatedImportance(),
]
GATES = [
    EntropyRatio(),
    DirectionalEntropyRatio(),
    KLTrustRegion(),
    TVTrustRegion(),
    SequenceTrustRegion(),
    SequenceTrustRegion(0.01, "mean"),
    SampledTV(),
    SampledKL(),
    RolloutRejection(low=0.5, high=2.0),
    RolloutRejection("ratio", "sum", 0.5, 2.0),
    RolloutRejection("k2", "max", high=0.1),
    RolloutRejection("k3", "mean", high=0.01),
    SecondMoment(),
    HighEntropy(),
    ClipCovariance(0.2, 0.1, 5.0),
]

gates = pytest.mark.parametrize("gate", GATES, ids=str)

logits = st.lists(st.floats(-4, 4), min_size=2, max_size=6)
advantages = st.floats(-3, 3).filter(lambda a: abs(a) > 1e-3)


def state(new, old, a, action):
    """One token in a tabular state: the batch, and the logits as a leaf."""
    leaf = torch.tensor([[new]], dtype=torch.float64, requires_grad=True)
    before = torch.tensor([[old]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    index = torch.tensor([[action % len(new)]])
    return TokenBatch.from_logits(leaf, before, index, a * one, one), leaf


def entropy_of(values):
    return entropy(torch.log_softmax(values, -1)).squeeze()


@settings(deadline=None, max_examples=60)
@given_(logits, st.integers(0, 5), advantages, st.floats(0.1, 1))
def test_the_entropys_first_order_change_is_that_of_the_true_gradient(new, action, a, drift):
    """Down the true gradient of the token's loss, of every surrogate: the directional derivative of
    the entropy has the formula's sign or is zero (for r A it is r times the formula), and a tiny
    step changes the entropy with that sign.
    """
    batch, leaf = state(new, [drift * x for x in new], a, action)
    formula = DirectionalEntropyRatio().entropy_change(batch).item()
    (slope,) = torch.autograd.grad(entropy_of(leaf), leaf)
    for surrogate in SURROGATES:
        (g,) = torch.autograd.grad(surrogate(batch).sum(), leaf, retain_graph=True)
        derivative = -(slope * g).sum().item()
        if g.abs().max() == 0:
            continue  # clipped
        if surrogate == ImportanceWeighted():
            expected = batch.ratio.item() * formula
            assert derivative == pytest.approx(expected, rel=1e-9, abs=1e-12)
        if abs(formula) < 1e-6:
            continue
        assert derivative * formula > 0, surrogate
        step = 1e-4 / g.norm()
        moved = entropy_of(leaf.detach() - step * g) - entropy_of(leaf.detach())
        if abs(step * derivative) > 1e-7:  # where the second order cannot turn the sign
            assert moved.item() * formula > 0, surrogate


@settings(deadline=None, max_examples=100)
@given_(logits, st.floats(0.2, 2.5), st.integers(0, 5), advantages)
def test_the_directional_gate_drops_what_leads_further_out(new, heat, action, a):
    """Outside the band exactly the tokens whose true gradient step moves rho away from 1."""
    batch, leaf = state(new, [x * heat for x in new], a, action)
    gate = DirectionalEntropyRatio(0.05, 0.05)
    (g,) = torch.autograd.grad(ImportanceWeighted()(batch).sum(), leaf, retain_graph=True)
    (slope,) = torch.autograd.grad(entropy_of(leaf), leaf)
    change = -(slope * g).sum().item()
    assume(abs(change) > 1e-9)
    rho = gate.ratio(batch).item()
    outwards = (rho >= 1.05 and change > 0) or (rho <= 0.95 and change < 0)
    assert gate.keep(batch).item() is not outwards


def test_the_directional_gate_keeps_all_that_erc_keeps():
    """It drops some of what ERC drops, on both sides, and keeps some on both."""
    batch = TokenBatch.from_logits(**leaves((40, T)))
    erc, directional = EntropyRatio(), DirectionalEntropyRatio()
    outside, dropped = ~erc.keep(batch), ~directional.keep(batch)
    assert not (dropped & ~outside).any()
    rho = erc.ratio(batch)
    for side in (rho > 1, rho < 1):
        assert (dropped & side & batch.mask).any()
        assert (outside & ~dropped & side & batch.mask).any()


@pytest.mark.parametrize("kind", [EntropyRatio, DirectionalEntropyRatio])
def test_one_sided_bands(kind):
    """An open side drops nothing on its side, and what the other side drops stays."""
    batch = TokenBatch.from_logits(**leaves((40, T)))
    rho = kind().ratio(batch)
    both = kind(0.05, 0.05).keep(batch)
    for low, high, side in ((1.0, 0.05, rho > 1), (0.05, math.inf, rho < 1)):
        keep = kind(low, high).keep(batch)
        assert torch.equal(keep, both | ~side)
        assert not keep.all()
    assert kind(1.0, math.inf).keep(batch).all()


@gates
def test_gates_are_inert_in_nothing_but_their_own_rule(gate):
    """Each keeps some tokens and drops some; no gradient; masked tokens hold NaN and change nothing."""
    given = leaves((4 * B, T))
    batch = TokenBatch.from_logits(**given)
    keep = gate.keep(batch)
    assert keep.dtype is torch.bool
    assert keep.shape == batch.mask.shape
    assert not keep[batch.mask].all()
    assert keep[batch.mask].any()
    hidden = {
        k: torch.where(
            batch.mask.view(*batch.mask.shape, *[1] * (v.ndim - 2)), v.detach(), math.nan
        )
        for k, v in given.items()
        if v.is_floating_point() and k != "reward"
    }
    whole = {f: getattr(batch, f) for f in ("log_probs", "old_log_probs")}
    garbage = TokenBatch(
        batch.logp,
        batch.old_logp,
        hidden["advantage"],
        batch.mask,
        batch.entropy,
        batch.old_entropy,
        batch.action,
        rollout_logp=hidden["rollout_logp"],
        **{k: v.detach().masked_fill(~batch.mask[..., None], math.nan) for k, v in whole.items()},
    )
    assert torch.equal(gate.keep(garbage)[batch.mask], keep[batch.mask])


@gates
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gates_survive_impossible_actions_and_certain_states(gate, dtype):
    """-inf where an action has no probability, entropy 0, and log-ratios of 20: a decision in every
    dtype, and on the first update after a rollout none is dropped by a gate on drift.
    """
    log_probs = torch.tensor([[[0.0, -math.inf, -math.inf], [-0.6931, -0.6931, -math.inf]]])
    log_probs = log_probs.to(dtype)
    action = torch.tensor([[0, 1]])
    logp = log_probs.gather(-1, action[..., None]).squeeze(-1)
    h = entropy(log_probs)
    ones = torch.ones(1, 2, dtype=dtype)

    def batch(new, new_logp, new_entropy, a):
        return TokenBatch(new_logp, logp, a * ones, ones, new_entropy, h, action, new, log_probs)

    for a in (1, -1):
        keep = gate.keep(batch(log_probs, logp, h, a))
        assert keep.all() or getattr(gate, "over_batch", False)
        swapped = log_probs.flip(-2)
        for shift in (20, -20):
            gate.keep(batch(swapped, logp + shift, h.flip(-1), a))
    assert torch.isfinite(entropy_slope(log_probs, logp, h)).all()
    impossible = entropy_slope(log_probs, torch.full_like(logp, -math.inf), h)
    assert torch.isfinite(impossible).all()


def test_trust_regions_are_exact():
    """KL(old || new) by torch.distributions and half the L1 distance; the bound itself is inside."""
    given = leaves((4 * B, T))
    batch = TokenBatch.from_logits(**given)
    new, old = (Categorical(logits=given[k]) for k in ("logits", "old_logits"))
    kl, tv = kl_divergence(old, new), 0.5 * (old.probs - new.probs).abs().sum(-1)
    mask = batch.mask
    for gate, distance in ((KLTrustRegion, kl), (TVTrustRegion, tv)):
        torch.testing.assert_close(gate().distance(batch)[mask], distance[mask])
        for delta in (0.01, 0.07, 0.3):
            assert torch.equal(gate(delta).keep(batch)[mask], distance[mask] <= delta)
    certain = torch.tensor([[[0.0, -math.inf]]])
    even = torch.tensor([[[0.5, 0.5]]]).log()
    zero = torch.zeros(1, 1)
    lost = TokenBatch(zero, zero, zero, zero + 1, log_probs=certain, old_log_probs=even)
    assert KLTrustRegion().distance(lost).item() == math.inf
    assert [KLTrustRegion(d).keep(lost).item() for d in (1e9, math.inf)] == [False, True]
    assert [TVTrustRegion(d).keep(lost).item() for d in (0.49, 0.5)] == [False, True]


def test_the_kl_oracle_sees_what_the_entropy_cannot():
    """(.7, .2, .1) to (.2, .7, .1) has rho = 1: ERC keeps it, the exact gates do not."""
    old = torch.tensor([[[0.7, 0.2, 0.1]]]).log()
    new = torch.tensor([[[0.2, 0.7, 0.1]]]).log()
    one = torch.ones(1, 1)
    batch = TokenBatch.from_logits(new, old, torch.zeros(1, 1, dtype=torch.long), one, one)
    assert EntropyRatio().keep(batch).item()
    assert not KLTrustRegion().keep(batch).item()
    assert not TVTrustRegion(0.49).keep(batch).item()


@settings(deadline=None)
@given_(st.floats(-6, 0), st.floats(-6, 0), st.floats(-2, 2))
def test_sampled_tv_is_dppos_mask(logp, old_logp, a):
    """A > 0 and pi - pi_old > d, or A < 0 and pi_old - pi > d; a lower bound of the exact one."""
    one = torch.ones(1, 1, dtype=torch.float64)
    batch = TokenBatch(logp * one, old_logp * one, a * one, one)
    gain = math.exp(logp) - math.exp(old_logp)
    assume(all(abs(abs(gain) - d) > 1e-9 for d in (0.1, 0.2)))
    masked = (a > 0 and gain > 0.2) or (a < 0 and -gain > 0.1)
    assert SampledTV(0.1, 0.2).keep(batch).item() is not masked


@settings(deadline=None, max_examples=60)
@given_(st.integers(0, 2**16), st.floats(0.01, 1.2), st.floats(0.05, 1))
def test_high_entropy_is_the_quantiles_mask(seed, fraction, density):
    """H >= the 1 - fraction quantile over the unmasked tokens, by torch.quantile."""
    g = torch.Generator().manual_seed(seed)
    h = torch.rand(6, 7, generator=g, dtype=torch.float64)
    mask = torch.rand(6, 7, generator=g) < density
    assume(mask.any())
    zero = torch.zeros_like(h)
    keep = HighEntropy(fraction).keep(TokenBatch(zero, zero, zero, mask, h, h))
    below = max(1 - fraction, 0.0)
    place = below * (int(mask.sum()) - 1)
    assume(abs(place - round(place)) > 1e-5 or place == 0)  # there rounding decides
    level = torch.quantile(h[mask], below, interpolation="higher")
    assert torch.equal(keep[mask], h[mask] >= level)


def test_tied_entropies_are_kept_together():
    """Tokens as uncertain as the last one that is kept are kept."""
    h = torch.tensor([[1.0, 1.0, 1.0, 0.2, 0.1]])
    zero = torch.zeros_like(h)
    batch = TokenBatch(zero, zero, zero, zero + 1, h, h)
    assert HighEntropy(0.2).keep(batch).tolist() == [[True, True, True, False, False]]


def part_of_covariance(batch):
    """By a mean over a list: of the paper's definition, on one run."""
    a, logp = (x.detach()[batch.mask] for x in (batch.advantage, batch.logp))
    return (a - a.mean()) * (logp - logp.mean())


def test_clip_cov_drops_a_share_of_the_candidates():
    """max(1, floor(fraction n)) tokens with low < cov < high that the clip has not bound already."""
    batch = TokenBatch.from_logits(**leaves((200, T)))
    n = int(batch.mask.sum())
    cov, clip = part_of_covariance(batch), PPOClip()
    free = ~clip.bound(batch)[batch.mask]
    for besides, allowed in ((None, torch.ones_like(free)), (clip, free)):
        candidates = (cov > 0.2) & (cov < 1.5) & allowed
        for fraction in (1e-9, 0.01, 0.1):
            keep = ClipCovariance(fraction, 0.2, 1.5, besides).keep(batch)[batch.mask]
            assert (~keep).sum() == max(1, int(fraction * n))
            assert candidates[~keep].all()
        every = ClipCovariance(1.0, 0.2, 1.5, besides).keep(batch)[batch.mask]
        assert torch.equal(every, ~candidates)
    assert ClipCovariance(0.1, math.inf).keep(batch).all()


@pytest.mark.parametrize("vocabulary", [2, 50, None])
def test_clip_cov_draws_from_no_generator_and_favours_no_place(vocabulary):
    """The choice is a function of the run's data; over many responses every column, either half of
    the rows and every action is chosen equally often; another batch makes another choice.
    """
    g = torch.Generator().manual_seed(3)
    shape = (4000, 5)
    logp, a = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    action = torch.randint(vocabulary or 2, shape, generator=g)
    state = torch.get_rng_state()
    gate = ClipCovariance(0.05, -math.inf, math.inf)

    def dropped(action):
        given = {} if vocabulary is None else {"action": action}
        return ~gate.keep(TokenBatch(logp, logp, a, torch.ones(shape), **given))

    first = dropped(action)
    assert first.sum() == 1000
    assert torch.equal(first, dropped(action))
    assert ((first.sum(0) - 200).abs() < 5 * math.sqrt(200)).all()
    assert abs(first[:2000].sum() - 500) < 5 * math.sqrt(250)
    if vocabulary is not None:
        expected = 1000 / vocabulary
        counts = action[first].bincount(minlength=vocabulary)
        assert ((counts - expected).abs() < 5 * math.sqrt(expected) + 1).all()
        action[0, 0] = 1 - action[0, 0].clamp(max=1)
        overlap = (first & dropped(action)).sum()  # 50 by chance
        assert overlap < 100
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("gate", [HighEntropy(0.3), ClipCovariance(0.2, 0.1, 5.0)], ids=str)
def test_selections_look_at_each_run_alone(gate):
    """A run in a population is gated as the run alone, bit for bit; runs need no tokens."""
    given = leaves((R, 2 * B, T))
    given["mask"][1] = False
    together = gate.keep(TokenBatch.from_logits(**given))
    for run in range(R):
        alone = gate.keep(TokenBatch.from_logits(**{k: v[run] for k, v in given.items()}))
        mask = given["mask"][run]
        assert torch.equal(together[run][mask], alone[mask])
    assert gate.keep(TokenBatch(*torch.zeros(3, 0, 3), torch.ones(0, 3), torch.zeros(0, 3))).all()


@pytest.mark.parametrize("name", OVER_BATCH)
def test_selections_are_not_micro_batch_invariant(name):
    """What over_batch admits: two halves with the whole's denominators are not the whole."""
    given = leaves((4 * B, T))
    objective = make(name)
    if name == "clip-cov":
        objective = make(name, fraction=0.05, cov_low=0.0)
    if name == "m2po":
        objective = make(name, tau=0.3)
    batch = TokenBatch.from_logits(**given)
    whole = objective.denominators(batch)
    parts = [slice(0, 2 * B), slice(2 * B, 4 * B)]
    loss = sum(objective(batch.rows(part), whole)[0] for part in parts)
    (grad,) = torch.autograd.grad(loss, given["logits"])
    assert (grad - gradient(objective, given)[1]).abs().max() > 1e-6


def test_kl_cov_penalises_the_largest_covariances():
    """|log r| of the k tokens of largest cov, over all tokens; its gradient is sign(log r) there."""
    given = leaves((200, T))
    batch = TokenBatch.from_logits(**given)
    n = int(batch.mask.sum())
    cov = part_of_covariance(batch)
    for fraction in (1e-9, 0.02, 1.0):
        k = max(1, int(fraction * n))
        chosen = torch.zeros(n, dtype=torch.bool)
        chosen[cov.topk(k).indices] = True
        piece = CovarianceKL(0.7, fraction)
        assert torch.equal(piece.chosen(batch)[batch.mask], chosen)
        logp = batch.logp.detach().requires_grad_()
        leaf = TokenBatch(logp, batch.old_logp, batch.advantage, batch.mask)
        plain = Objective(ImportanceWeighted())
        (base,) = torch.autograd.grad(plain(leaf)[0], logp, retain_graph=True)
        loss, metrics = plain.regularized(piece)(leaf)
        (grad,) = torch.autograd.grad(loss, logp)
        expected = 0.7 * (chosen * leaf.log_ratio[batch.mask].sign()) / n
        torch.testing.assert_close((grad - base)[batch.mask], expected)
        term = 0.7 * (chosen * leaf.log_ratio[batch.mask].abs()).sum() / n
        torch.testing.assert_close(metrics["loss/kl_cov"], term.detach())


PER_RUN = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: DirectionalEntropyRatio(x, x / 2, 1e-3 * x),
        lambda x: KLTrustRegion(x / 2),
        lambda x: TVTrustRegion(x / 2),
        lambda x: SampledTV(x / 3, x / 4),
        HighEntropy,
        lambda x: ClipCovariance(x, x / 4, 5 * x),
    ],
    ids=["directional", "kl", "tv", "sampled-tv", "high-entropy", "clip-cov"],
)
def test_gates_hyperparameters_may_differ_between_runs(build):
    """A value per run equals R gates with floats; another run's value would keep others."""
    given = leaves((R, 20 * B, T))
    together = build(PER_RUN).keep(TokenBatch.from_logits(**given))
    for run in range(R):
        batch = TokenBatch.from_logits(**{k: v[run] for k, v in given.items()})
        assert torch.equal(together[run], build(PER_RUN[run].item()).keep(batch))
        assert not torch.equal(together[run], build(PER_RUN[run - 1].item()).keep(batch))


@pytest.mark.parametrize(
    ("piece", "field"),
    [
        (DirectionalEntropyRatio(), "entropy"),
        (KLTrustRegion(), "old_log_probs"),
        (TVTrustRegion(), "old_log_probs"),
        (HighEntropy(), "entropy"),
    ],
)
def test_missing_fields_of_gates_are_named(piece, field):
    """Field, and the gate that needs it."""
    batch = TokenBatch(*torch.zeros(3, 1, 2), torch.ones(1, 2))
    message = rf"TokenBatch\.{field}: not given, but {type(piece).__name__} needs it"
    with pytest.raises(ValueError, match=message):
        Objective(Reinforce()).gated(piece)(batch)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DirectionalEntropyRatio(low=0), r"^DirectionalEntropyRatio\.low: 0, must be > 0$"),
        (lambda: KLTrustRegion(0), r"^KLTrustRegion\.delta: 0, must be > 0$"),
        (lambda: TVTrustRegion(math.nan), r"^TVTrustRegion\.delta: nan, must be > 0$"),
        (lambda: SampledTV(high=-1), r"^SampledTV\.high: -1, must be > 0$"),
        (lambda: HighEntropy(0), r"^HighEntropy\.fraction: 0, must be > 0$"),
        (lambda: ClipCovariance(-1), r"^ClipCovariance\.fraction: -1, must be > 0$"),
        (lambda: ClipCovariance(low=math.nan), r"^ClipCovariance\.low: nan, must be a number$"),
        (lambda: CovarianceKL(1.0, 0), r"^CovarianceKL\.fraction: 0, must be > 0$"),
    ],
)
def test_bad_hyperparameters_of_gates(build, message):
    """Owner, field, value and what is allowed, in one line."""
    with pytest.raises(ValueError, match=message):
        build()


def test_the_slope_needs_no_batch():
    """Shapes (..., V) to (...): leading axes as they come."""
    log_probs = torch.randn(2, 3, 4, V, dtype=torch.float64).log_softmax(-1)
    slope = entropy_slope(log_probs, log_probs[..., 0], entropy(log_probs))
    assert slope.shape == (2, 3, 4)
