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
    first = torch.tensor(0)
    assert drift.tv_unsampled(old, new, first).item() == pytest.approx(abs(p - q) / 2, abs=1e-12)
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
    assert drift.tv_unsampled(old, new, torch.tensor(2)).item() == pytest.approx(0.5)
    kl = drift.kl_exact(old, new)
    assert kl.item() == pytest.approx(0.5 * math.log(3.5))
    assert drift.hidden_violation(kl, torch.zeros(()), 0.2, 0.2).item()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**16), st.floats(0, 5))
def test_pinsker_and_friends(seed, scale):
    """TV^2 <= KL/2, 0 <= unsampled TV <= TV <= 1 and KL >= 0."""
    b = batch(scale, seed=seed)
    kl = drift.kl_exact(b.old_log_probs, b.log_probs)
    tv = drift.tv(b.old_log_probs, b.log_probs)
    unsampled = drift.tv_unsampled(b.old_log_probs, b.log_probs, b.action)
    assert (kl >= -1e-12).all()
    assert (tv.square() <= kl / 2 + 1e-14).all()
    assert (unsampled >= 0).all()
    assert (unsampled <= tv + 1e-12).all()
    assert (tv <= 1 + 1e-12).all()


def test_estimators_are_unbiased_for_kl_of_old_to_new():
    """sum_a p_old(a) k(log r(a)) is KL(old || new) for k1 and k3."""
    b = batch()
    log_ratio = b.log_probs - b.old_log_probs
    exact = drift.kl_exact(b.old_log_probs, b.log_probs)
    for estimator in (drift.k1, drift.k3):
        expectation = (b.old_log_probs.exp() * estimator(log_ratio)).sum(-1)
        torch.testing.assert_close(expectation, exact)


def test_hidden_violations_need_both():
    """KL above delta, strictly, and a ratio inside the clip range, bounds included."""
    kl = torch.tensor([[0.02, 0.02, 0.02, 0.01, 0.02]])
    log_ratio = torch.tensor([[1.0, 1.25, 0.5, 1.0, 1.5]]).log()
    hidden = drift.hidden_violation(kl, log_ratio, low=0.5, high=0.25, delta=0.01)
    assert hidden.tolist() == [[True, True, True, False, False]]


def test_measure_is_the_masked_mean_of_its_parts():
    """Every metric equals the elementwise function, averaged over the run's unmasked tokens."""
    b = batch()
    measured = drift.measure(
        b, clip_low=0.1, clip_high=0.2, band_low=0.03, band_high=0.06, delta=0.05
    )
    old, new = b.old_log_probs, b.log_probs
    kl, rho = drift.kl_exact(old, new), drift.entropy_ratio(b.entropy, b.old_entropy)
    expected = {
        "kl_exact": kl,
        "kl_reverse": drift.kl_exact(new, old),
        "kl_k1": drift.k1(b.log_ratio),
        "kl_k2": drift.k2(b.log_ratio),
        "kl_k3": drift.k3(b.log_ratio),
        "tv": drift.tv(old, new),
        "tv_unsampled": drift.tv_unsampled(old, new, b.action),
        "violation_fraction": kl > 0.05,
        "hidden_violation_fraction": (kl > 0.05) & (b.ratio >= 0.9) & (b.ratio <= 1.2),
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
        tokens = violations = hidden = outside = 0
        sums = dict.fromkeys(("kl_exact", "kl_reverse", "tv", "tv_unsampled"), 0.0)
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
                sums["tv_unsampled"] += sum(change) - change[a]
        counted = {
            "violation_fraction": violations,
            "hidden_violation_fraction": hidden,
            "out_of_band_fraction": outside,
        }
        for name, total in (sums | counted).items():
            found = measured[f"drift/{name}"][run].item()
            assert found == pytest.approx(total / max(tokens, 1), rel=1e-9, abs=1e-12), name


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**16), st.floats(0, 4))
def test_total_variation_splits_at_the_sampled_action(seed, scale):
    """Unsampled part + |p_a - q_a| / 2 = TV; at r = 1 all of it is unsampled."""
    b = batch(scale, seed=seed)
    p, q = b.old_logp.exp(), b.logp.exp()
    parts = drift.tv_unsampled(b.old_log_probs, b.log_probs, b.action) + (p - q).abs() / 2
    whole = drift.tv(b.old_log_probs, b.log_probs)
    torch.testing.assert_close(parts[b.mask], whole[b.mask], rtol=1e-12, atol=1e-14)


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
