"""Drift measures against closed forms, torch.distributions and each other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_bench.core import drift
from erc_bench.core.batch import TokenBatch

R, B, T, V = 2, 3, 4, 5


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def batch(scale=0.5, dtype=torch.float64, seed=0, **changed):
    g = torch.Generator().manual_seed(seed)
    old = torch.randn(R, B, T, V, generator=g, dtype=dtype)
    new = old + scale * torch.randn(R, B, T, V, generator=g, dtype=dtype)
    action = torch.randint(V, (R, B, T), generator=g)
    mask = torch.rand(R, B, T, generator=g) < 0.7
    given = {"logits": new, "old_logits": old, "action": action, "mask": mask} | changed
    return TokenBatch.from_logits(advantage=torch.ones(R, B, T, dtype=dtype), **given)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_two_actions_have_closed_forms(p, q):
    """KL, its reverse, TV and entropy of Bernoulli distributions."""
    old, new = (torch.tensor([x, 1 - x], dtype=torch.float64).log() for x in (p, q))

    def divergence(a, b):
        return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

    assert drift.kl_exact(old, new).item() == pytest.approx(divergence(p, q), abs=1e-12)
    assert drift.kl_exact(new, old).item() == pytest.approx(divergence(q, p), abs=1e-12)
    assert drift.tv(old, new).item() == pytest.approx(abs(p - q), abs=1e-12)
    two = [
        drift.binary(x, torch.tensor(1)) for x in (old, new)
    ]  # with two actions nothing is hidden
    torch.testing.assert_close(two[0], old.flip(-1))
    assert drift.kl_exact(*two).item() == pytest.approx(divergence(p, q), abs=1e-12)
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert drift.entropy(old).item() == pytest.approx(entropy, abs=1e-12)


def test_a_swap_is_invisible_to_the_entropy_ratio():
    """(.7, .2, .1) to (.2, .7, .1): rho = 1, total variation 0.5, and r = 1 if the third was drawn."""
    old, new = (
        torch.tensor(p, dtype=torch.float64).log() for p in ([0.7, 0.2, 0.1], [0.2, 0.7, 0.1])
    )
    rho = drift.entropy_ratio(drift.entropy(new), drift.entropy(old))
    assert rho.item() == pytest.approx(1, abs=1e-12)
    assert drift.tv(old, new).item() == pytest.approx(0.5)
    assert drift.kl_exact(old, new).item() == pytest.approx(0.5 * math.log(3.5))
    two = [drift.binary(x, torch.tensor(2)) for x in (old, new)]
    assert drift.kl_exact(*two).item() == pytest.approx(0, abs=1e-12)
    assert drift.tv(*two).item() == pytest.approx(0, abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**16), st.floats(0, 5))
def test_pinsker_and_friends(seed, scale):
    """TV^2 <= KL/2, TV <= 1 and KL >= 0; telling only two outcomes apart lowers both (data processing)."""
    b = batch(scale, seed=seed)
    kl = drift.kl_exact(b.old_log_probs, b.log_probs)
    tv = drift.tv(b.old_log_probs, b.log_probs)
    two = [drift.binary(x, b.action) for x in (b.old_log_probs, b.log_probs)]
    assert (kl >= -1e-12).all()
    assert (drift.kl_exact(*two) <= kl + 1e-12).all()
    assert (drift.tv(*two) <= tv + 1e-12).all()
    assert (tv.square() <= kl / 2 + 1e-14).all()
    assert (tv <= 1 + 1e-12).all()


def test_estimators_are_unbiased_for_kl_of_old_to_new():
    """sum_a p_old(a) k(log r(a)) is KL(old || new) for k1 and k3."""
    b = batch()
    log_ratio = b.log_probs - b.old_log_probs
    exact = drift.kl_exact(b.old_log_probs, b.log_probs)
    for estimator in (drift.k1, drift.k3):
        expectation = (b.old_log_probs.exp() * estimator(log_ratio)).sum(-1)
        torch.testing.assert_close(expectation, exact)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**16), st.floats(0, 3))
def test_what_the_sampled_action_hides_obeys_the_chain_rule(seed, scale):
    """KL - binary KL = (1 - p_a) KL of the conditional distributions; TV - |p_a - q_a| likewise by hand."""
    b = batch(scale, seed=seed)
    measured = drift.measure(b)
    kept = torch.ones(R, B, T, V, dtype=torch.bool).scatter(-1, b.action.unsqueeze(-1), False)
    p, q = (x[kept].view(R, B, T, V - 1).exp() for x in (b.old_log_probs, b.log_probs))
    rest = p.sum(-1)
    p_other, q_other = (x / x.sum(-1, keepdim=True) for x in (p, q))
    kl = rest * (p_other * (p_other / q_other).log()).sum(-1)
    tv = ((p - q).abs().sum(-1) - (b.old_logp.exp() - b.logp.exp()).abs()) / 2
    for name, per_token in (("kl_hidden", kl), ("tv_hidden", tv)):
        found = torch.where(b.mask, per_token, 0).sum((1, 2)) / b.mask.sum((1, 2))
        torch.testing.assert_close(measured[f"drift/{name}"], found, rtol=1e-9, atol=1e-12)
    for kind in ("kl", "tv"):
        parts = measured[f"drift/{kind}_binary"] + measured[f"drift/{kind}_hidden"]
        whole = measured["drift/kl_exact" if kind == "kl" else "drift/tv"]
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.001, 0.999), st.floats(0.01, 0.99), st.floats(0.01, 3.0))
def test_the_clips_kl_is_the_largest_inside_its_range(p, low, high):
    """A grid over all ratios that the clip permits; without a bound where its upper edge passes 1."""
    old = torch.tensor([p, 1 - p], dtype=torch.float64).log()
    found = drift.clip_kl(old, low, high).item()
    if p * high >= 1 - p:
        assert found == math.inf
        return
    q = torch.linspace(p * (1 - low), p * (1 + high), 1001, dtype=torch.float64).clamp(max=1)
    inside = drift.kl_exact(old.expand(1001, 2), torch.stack([q, 1 - q], -1).log())
    assert found == pytest.approx(inside.max().item(), rel=1e-6, abs=1e-12)


def test_a_clip_without_a_lower_bound_permits_any_kl():
    """low = 1 lets the ratio fall to 0; a deterministic state's ratio cannot rise."""
    old = torch.tensor([[0.1, 0.9], [1.0, 0.0]]).log()
    assert drift.clip_kl(old, 1.0, 0.2).tolist() == [math.inf, math.inf]
    assert drift.clip_kl(old, 0.2, math.inf).tolist() == [math.inf, math.inf]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**16), st.floats(0, 2))
def test_an_excess_over_the_clips_kl_inside_its_range_is_carried_by_other_actions(seed, scale):
    """Of two actions no ratio inside the range exceeds it; of more, hidden KL makes the difference."""
    b = batch(scale, seed=seed)
    two = [drift.binary(x, b.action) for x in (b.old_log_probs, b.log_probs)]
    permitted = drift.clip_kl(two[0], 0.2, 0.2)
    inside = drift.inside_clip(b.log_ratio, 0.2, 0.2)
    assert (drift.kl_exact(*two) <= permitted + 1e-12)[inside].all()
    hidden = drift.kl_exact(b.old_log_probs, b.log_probs) - drift.kl_exact(*two)
    violates = inside & (drift.kl_exact(b.old_log_probs, b.log_probs) > permitted)
    assert (hidden > 0)[violates].all()


def test_both_bounds_lie_inside_the_clip():
    """1 - low <= r <= 1 + high."""
    ratio = torch.tensor([[1.0, 1.25, 0.5, 0.49, 1.26]])
    inside = drift.inside_clip(ratio.log(), low=0.5, high=0.25)
    assert inside.tolist() == [[True, True, True, False, False]]


def test_measure_is_the_masked_mean_of_its_parts():
    """Every metric equals the elementwise function, averaged over the run's unmasked tokens."""
    b = batch()
    measured = drift.measure(
        b, clip_low=0.1, clip_high=0.2, band_low=0.03, band_high=0.06, delta=0.05
    )
    old, new = b.old_log_probs, b.log_probs
    kl, rho = drift.kl_exact(old, new), drift.entropy_ratio(b.entropy, b.old_entropy)
    two = [drift.binary(x, b.action) for x in (old, new)]
    beyond, inside = kl > drift.clip_kl(two[0], 0.1, 0.2), (b.ratio >= 0.9) & (b.ratio <= 1.2)
    expected = {
        "kl_exact": kl,
        "kl_reverse": drift.kl_exact(new, old),
        "kl_k1": drift.k1(b.log_ratio),
        "kl_k2": drift.k2(b.log_ratio),
        "kl_k3": drift.k3(b.log_ratio),
        "tv": drift.tv(old, new),
        "kl_binary": drift.kl_exact(*two),
        "kl_hidden": kl - drift.kl_exact(*two),
        "tv_binary": (b.old_logp.exp() - b.logp.exp()).abs(),
        "tv_hidden": drift.tv(old, new) - drift.tv(*two),
        "violation_fraction": kl > 0.05,
        "hidden_violation_fraction": (kl > 0.05) & inside,
        "clip_kl_violation_fraction": beyond,
        "hidden_clip_kl_violation_fraction": beyond & inside,
        "out_of_band_fraction": (rho <= 0.97) | (rho >= 1.06),
        "out_of_paper_band_fraction": (rho <= 0.95) | (rho >= 1.05),
        "entropy_old": b.old_entropy,
        "entropy_new": b.entropy,
    }
    assert set(measured) == {f"drift/{name}" for name in expected}
    for name, per_token in expected.items():
        mean = [per_token[run][b.mask[run]].double().mean() for run in range(R)]
        torch.testing.assert_close(measured[f"drift/{name}"], torch.stack(mean), msg=name)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**16), st.sampled_from([0.05, 0.5, 2.0]))
def test_measured_fractions_equal_counting(seed, scale):
    """Violations, hidden violations and tokens outside the band, counted one by one in Python."""
    b = batch(scale, seed=seed)
    measured = drift.measure(b, clip_low=0.2, clip_high=0.28, delta=0.02)
    for run in range(R):
        tokens = violations = hidden = beyond = outside = 0
        sums = dict.fromkeys(("kl_exact", "kl_reverse", "kl_binary", "tv", "tv_hidden"), 0.0)
        for row in range(B):
            for t in range(T):
                if not b.mask[run, row, t]:
                    continue
                p = b.old_log_probs[run, row, t].exp().tolist()
                q = b.log_probs[run, row, t].exp().tolist()
                a = b.action[run, row, t].item()
                kl = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
                h_old, h_new = (-sum(x * math.log(x) for x in d) for d in (p, q))
                rho = (h_new + 1e-8) / (h_old + 1e-8)
                change = [abs(x - y) / 2 for x, y in zip(p, q, strict=True)]
                tokens += 1
                violations += kl > 0.02
                hidden += kl > 0.02 and 0.8 <= q[a] / p[a] <= 1.28
                outside += not 0.95 < rho < 1.05
                sums["kl_exact"] += kl
                sums["kl_reverse"] += sum(y * math.log(y / x) for x, y in zip(p, q, strict=True))
                sums["tv"] += sum(change)
                sums["tv_hidden"] += sum(change) - 2 * change[a]

                def binary(q, p=p[a]):
                    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

                sums["kl_binary"] += binary(q[a])
                edges = (0.8 * p[a], 1.28 * p[a])
                beyond += edges[1] < 1 and kl > max(map(binary, edges))
        counted = {
            "violation_fraction": violations,
            "hidden_violation_fraction": hidden,
            "clip_kl_violation_fraction": beyond,
            "out_of_band_fraction": outside,
        }
        for name, total in (sums | counted).items():
            found = measured[f"drift/{name}"][run].item()
            assert found == pytest.approx(total / max(tokens, 1), rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_measures_keep_the_dtype_and_stay_finite(dtype):
    """Also where a sampled action's ratio is beyond all clips and a policy is deterministic."""
    logits = torch.zeros(R, B, T, V, dtype=dtype)
    logits[..., 0, :] = torch.tensor([30.0, 0, 0, 0, 0], dtype=dtype)
    old = logits.flip(-2)
    ones = torch.ones(R, B, T, dtype=dtype)
    action = torch.zeros(R, B, T, dtype=torch.long)
    measured = drift.measure(TokenBatch.from_logits(logits, old, action, ones, ones))
    for name, value in measured.items():
        assert value.dtype is dtype, name
        assert torch.isfinite(value).all(), name
    # Two of four positions moved between (1, 0, 0, 0, 0) and uniform.
    assert measured["drift/tv"].tolist() == [pytest.approx(0.4, rel=1e-2)] * R
    assert measured["drift/kl_k1"].tolist() == [pytest.approx(0.0, abs=1e-2)] * R


def test_measure_of_one_batch_of_runs_is_that_of_each_run():
    """(R, B, T, V) equals R calls, with thresholds per run."""
    b = batch()
    delta = torch.tensor([0.01, 0.2])
    together = drift.measure(b, delta=delta, clip_low=delta, band_high=delta)
    for run in range(R):
        d = delta[run].item()
        alone = drift.measure(b[run], delta=d, clip_low=d, band_high=d)
        for name, value in alone.items():
            torch.testing.assert_close(together[name][run], value, msg=name)


def test_the_same_policy_has_not_drifted():
    """Every measure of change is exactly zero."""
    b = batch(scale=0.0)
    for name, value in drift.measure(b).items():
        if "entropy" not in name:
            assert (value == 0).all(), name


def test_masked_garbage_does_not_reach_the_measures():
    """NaN distributions under the mask, as of padding, change nothing."""
    b = batch()
    dirty_new, dirty_old = (
        x.masked_fill(~b.mask.unsqueeze(-1), torch.nan) for x in (b.log_probs, b.old_log_probs)
    )
    dirty = TokenBatch(
        logp=b.logp,
        old_logp=b.old_logp,
        advantage=b.advantage,
        mask=b.mask,
        action=b.action,
        log_probs=dirty_new,
        old_log_probs=dirty_old,
    )
    clean = drift.measure(b)
    for name, value in drift.measure(dirty).items():
        torch.testing.assert_close(value, clean[name], msg=name)


def test_impossible_actions_are_handled():
    """An action that neither policy has adds nothing; one that only the old had makes KL infinite."""
    logits = torch.randn(R, B, T, V, dtype=torch.float64)
    logits[..., 0] = -torch.inf
    lost = logits.clone()
    lost[..., 1] = -torch.inf
    action = torch.full((R, B, T), 2)
    old = batch(logits=logits + torch.randn_like(logits), old_logits=logits, action=action)
    assert all(torch.isfinite(v).all() for v in drift.measure(old).values())
    measured = drift.measure(batch(logits=lost, old_logits=logits, action=action))
    assert (measured["drift/kl_exact"] == torch.inf).all()
    assert torch.isfinite(measured["drift/kl_reverse"]).all()
    assert torch.isfinite(measured["drift/tv"]).all()


def test_nothing_to_measure_is_zero_and_without_gradient():
    """A run without tokens measures 0; no measure carries a gradient."""
    logits = torch.randn(R, B, T, V, requires_grad=True)
    mask = torch.ones(R, B, T)
    mask[0] = 0
    measured = drift.measure(batch(logits=logits, old_logits=logits + 1, mask=mask))
    for name, value in measured.items():
        assert value.shape == (R,), name
        assert not value.requires_grad, name
        assert value[0] == 0, name


def test_measure_says_what_it_needs():
    """Without whole distributions there is nothing exact to measure."""
    b = TokenBatch(*torch.zeros(3, B, T), torch.ones(B, T))
    with pytest.raises(ValueError, match=r"old_log_probs: not given, but drift\.measure needs it"):
        drift.measure(b)
