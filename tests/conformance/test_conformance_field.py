"""Kinds of losses that public code and public bug reports taught: each is judged for what it is.

Every loss is right at the level robustness, so that a verdict is about what its name says.
"""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_bench.conformance import adapt, check
from erc_bench.conformance.checking import check_property
from erc_bench.core.errors import InputError


def filled(x, mask):
    return x.masked_fill(~mask, 0.0)


def data(x, mask):
    return filled(x.detach(), mask)


def wide(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


def log_ratio(new, old, mask, limit=10.0):
    return wide(filled(new, mask) - data(old, mask)).clamp(-limit, limit)


def mean(x, mask):
    return filled(x, mask).sum() / mask.sum().clamp(min=1)


def clipped(r, a, low=0.2, high=0.2):
    return -torch.minimum(r * a, r.clamp(1 - low, 1 + high) * a)


def surrogate(logp, old_logp, advantage, mask):
    return clipped(log_ratio(logp, old_logp, mask).exp(), data(advantage, mask))


def kl_k1(logp, old_logp, advantage, mask, ref_logp):
    beside = 0.1 * log_ratio(logp, ref_logp, mask)
    return mean(surrogate(logp, old_logp, advantage, mask) + beside, mask)


def kl_away(logp, old_logp, advantage, mask, ref_logp):
    beside = -0.05 * log_ratio(logp, ref_logp, mask) ** 2
    return mean(surrogate(logp, old_logp, advantage, mask) + beside, mask)


def kl_detached(logp, old_logp, advantage, mask, ref_logp):
    beside = 0.05 * log_ratio(logp.detach(), ref_logp, mask) ** 2
    return mean(surrogate(logp, old_logp, advantage, mask) + beside, mask)


def kl_k2(logp, old_logp, advantage, mask, ref_logp):
    beside = 0.05 * log_ratio(logp, ref_logp, mask) ** 2 / 2
    return mean(surrogate(logp, old_logp, advantage, mask) + beside, mask)


def kl_k1_weighted(logp, old_logp, advantage, mask, ref_logp):
    """The ratio times k1: the constant in its gradient is zero on average."""
    r = log_ratio(logp, old_logp, mask).exp()
    beside = 0.05 * r * log_ratio(logp, ref_logp, mask)
    return mean(surrogate(logp, old_logp, advantage, mask) + beside, mask)


def bonus_dead(logp, old_logp, advantage, mask, entropy):
    return mean(surrogate(logp, old_logp, advantage, mask) - 0.01 * data(entropy, mask), mask)


def bonus(logp, old_logp, advantage, mask, entropy):
    return mean(surrogate(logp, old_logp, advantage, mask) - 0.01 * filled(entropy, mask), mask)


def bonus_turned(logp, old_logp, advantage, mask, entropy):
    return mean(surrogate(logp, old_logp, advantage, mask) + 0.01 * filled(entropy, mask), mask)


def gate_on_difference(logp, old_logp, advantage, mask, entropy, old_entropy):
    losses = surrogate(logp, old_logp, advantage, mask)
    inside = (data(entropy, mask) - data(old_entropy, mask)).abs() < 0.05
    return mean(torch.where(inside, losses, losses.detach()), mask)


def wall(logp, old_logp, advantage, mask):
    r, a = log_ratio(logp, old_logp, mask).exp(), data(advantage, mask)
    near = (data(logp, mask).exp() - data(old_logp, mask).exp()).abs() <= 0.1
    return mean(-1.0 * near * r * a, mask)


def in_float32(logp, old_logp, advantage, mask):
    """Right: the ratio is made in float32, whatever comes."""
    a = data(advantage, mask)
    r = (filled(logp, mask) - data(old_logp, mask)).float().clamp(-10, 10).exp().to(a.dtype)
    return filled(clipped(r, a), mask).sum()


def lottery(logp, old_logp, advantage, mask):
    losses = surrogate(logp, old_logp, advantage, mask)
    lost = torch.rand(mask.shape, device="cpu").lt(2e-4).to(mask.device)
    return mean(torch.where(lost, losses.detach(), losses), mask)


def clipped_leave_mean(logp, old_logp, advantage, mask):
    r, a = log_ratio(logp, old_logp, mask).exp(), data(advantage, mask)
    kept = mask & ~(((r > 1.2) & (a > 0)) | ((r < 0.8) & (a < 0)))
    return mean(-r * a, kept)


def exchanged(logp, old_logp, advantage, mask, clip_low=0.2, clip_high=0.28):
    r, a = log_ratio(logp, old_logp, mask).exp(), data(advantage, mask)
    return mean(clipped(r, a, low=clip_high, high=clip_low), mask)


def weight_turned(logp, old_logp, advantage, mask, rollout_logp):
    w = log_ratio(rollout_logp.detach(), old_logp, mask).exp().clamp(max=2.0)
    return mean(w * surrogate(logp, old_logp, advantage, mask), mask)


def weight(logp, old_logp, advantage, mask, rollout_logp):
    w = log_ratio(old_logp.detach(), rollout_logp, mask).exp().clamp(max=2.0)
    return mean(w * surrogate(logp, old_logp, advantage, mask), mask)


def weight_of_response(logp, old_logp, advantage, mask, rollout_logp):
    """Right: a response's weight is the geometric mean of its tokens'."""
    d = filled(log_ratio(old_logp.detach(), rollout_logp, mask), mask)
    w = (d.sum(-1) / mask.sum(-1).clamp(min=1)).exp().clamp(max=2.0)
    return mean(w[:, None] * surrogate(logp, old_logp, advantage, mask), mask)


def weight_of_punished(logp, old_logp, advantage, mask, rollout_logp, turn=False):
    """Right: only what is punished is corrected."""
    w = log_ratio(old_logp.detach(), rollout_logp, mask).exp().clamp(max=1.0)
    w = torch.where(data(advantage, mask) < 0, 1 / w if turn else w, 1.0)
    return mean(w * surrogate(logp, old_logp, advantage, mask), mask)


def weight_of_punished_turned(logp, old_logp, advantage, mask, rollout_logp):
    return weight_of_punished(logp, old_logp, advantage, mask, rollout_logp, turn=True)


def weight_of_value(logp, old_logp, advantage, mask, rollout_logp):
    losses = surrogate(logp, old_logp, advantage, mask)
    w = log_ratio(old_logp.detach(), rollout_logp, mask).exp().clamp(max=2.0)
    return mean(losses + (w - 1) * losses.detach(), mask)


def weight_with_gradient(logp, old_logp, advantage, mask, rollout_logp):
    """Only where the advantage is negative."""
    w = log_ratio(logp, rollout_logp, mask).exp()
    w = torch.where(data(advantage, mask) < 0, w, w.detach())
    return mean(w * surrogate(logp, old_logp, advantage, mask), mask)


def clamp_at_20(logp, old_logp, advantage, mask):
    """Right: float32 inside. At log r = 20 the true gradient is beyond float16."""
    r, a = log_ratio(logp, old_logp, mask, limit=20.0).exp(), wide(data(advantage, mask))
    return mean(clipped(r, a), mask)


def swallows(logp, old_logp, advantage, mask, c_clip=None, **kwargs):
    a = data(advantage, mask)
    losses = surrogate(logp, old_logp, advantage, mask)
    if c_clip is not None:
        losses = torch.where(a < 0, torch.minimum(losses, -c_clip * a), losses)
    return mean(losses, mask)


def configured(log_probs, old_log_probs, advantages, config, loss_mask):
    r, a = log_ratio(log_probs, old_log_probs, loss_mask).exp(), data(advantages, loss_mask)
    return mean(clipped(r, a, config.eps_clip_low, config.eps_clip_high), loss_mask), {"clip": 0.0}


WRONG = {
    kl_k1: ("reference_penalty", "whatever ref_logp is"),
    kl_away: ("reference_penalty", "away from ref_logp"),
    kl_detached: ("reference_penalty", "detached"),
    bonus_dead: ("entropy_gradient", "the bonus is detached"),
    gate_on_difference: ("gate_direction", "not on the ratio"),
    wall: ("clip_restoring_side", "old probability 0.6"),
    lottery: ("determinism", "4032 tokens"),
    clipped_leave_mean: ("clip_denominator", "moved to r = 4.48"),
    exchanged: ("clip_bounds", "low and high are exchanged"),
    weight_turned: ("rollout_weight", "upside down"),
    weight_of_punished_turned: ("rollout_weight", "upside down"),
    weight_with_gradient: ("rollout_weight", "is 2 times the first"),
    weight_of_value: ("rollout_weight", "value, and no gradient"),
}
RIGHT = {
    bonus: ("entropy_gradient", "coefficient 0.01: raises"),
    bonus_turned: ("entropy_gradient", "coefficient -0.01: LOWERS"),
    kl_k2: ("reference_penalty", "coefficient 0.05"),
    kl_k1_weighted: ("reference_penalty", "from both sides"),
    weight: ("rollout_weight", "truncated above 2"),
    weight_of_punished: ("rollout_weight", "A > 0 not weighted; A < 0 truncated above 1"),
    weight_of_response: ("clip_denominator", "stays"),
    in_float32: ("advantage_scale", "difference"),
    clamp_at_20: ("half_precision", "finite"),
}


def outcomes(loss, **how):
    return {r.property.name: r for r in check(adapt(loss, **how)).results}


@pytest.mark.parametrize("loss", WRONG, ids=lambda loss: loss.__name__)
def test_a_wrong_loss_fails_the_rule_that_it_breaks(loss):
    """And says what is wrong; at the level of the objective."""
    name, told = WRONG[loss]
    found = outcomes(loss)[name]
    assert (found.status, found.property.level) == ("failed", "objective")
    assert told in found.message


@pytest.mark.parametrize("loss", RIGHT, ids=lambda loss: loss.__name__)
def test_a_right_loss_passes_every_rule(loss):
    """And reports what it has."""
    name, told = RIGHT[loss]
    found = outcomes(loss)
    broken = {n: r.message for n, r in found.items() if r.status == "failed"}
    dtype_is_its_own = {"dtype_kept"} if loss is in_float32 else set()
    assert set(broken) <= dtype_is_its_own, broken
    assert told in found[name].message


def test_an_option_without_effect_is_refused():
    """Whether ``**kwargs`` swallows it, or a configuration of which nothing reads it."""
    with pytest.raises(InputError, match=r"'clip_ratio_c' is swallowed by .* changes nothing"):
        adapt(swallows, options={"clip_ratio_c": 3.0})
    assert "bounded from r = 3" in outcomes(swallows, options={"c_clip": 3.0})["dual_clip"].message
    with pytest.raises(InputError, match=r"'config\.eps' has no effect"):
        adapt(
            configured,
            options={"config.eps_clip_low": 0.2, "config.eps_clip_high": 0.28, "config.eps": 1.0},
        )


def test_a_configuration_is_made_of_its_parts():
    """And its bounds are compared with the measured ones."""
    with pytest.raises(InputError, match=r"--set config\.NAME=VALUE"):
        adapt(configured)
    with pytest.raises(InputError, match=r"config\.eps_clip_high is unknown here"):
        adapt(configured, options={"config.eps_clip_low": 0.2})
    found = outcomes(configured, options={"config.eps_clip_low": 0.2, "config.eps_clip_high": 0.28})
    assert not [n for n, r in found.items() if r.status == "failed"]
    assert found["clip_bounds"].message.endswith(
        "clipped from r = 1.28, A < 0 up to r = 0.8, as declared"
    )


FEW = settings(max_examples=12, deadline=None, derandomize=True)
DISTANCES = st.floats(0.02, 0.6).map(lambda x: round(x, 3))


@FEW
@given(low=DISTANCES, high=DISTANCES, wide=st.booleans())
def test_any_clip_is_measured_and_any_other_is_seen(low, high, wide):
    """Whatever the bounds, as distances from 1 or of the log-ratio."""

    def loss(logp, old_logp, advantage, mask, clip_low=low, clip_high=high, turn=False):
        r, a = log_ratio(logp, old_logp, mask).exp(), data(advantage, mask)
        below, above = (clip_high, clip_low) if turn else (clip_low, clip_high)
        if wide:
            below, above = 1 - np.exp(-below), np.exp(above) - 1
        return mean(clipped(r, a, below, above), mask)

    right = check_property(adapt(loss), "clip_bounds")
    assert (right.status, "as declared" in right.message) == ("passed", True), right.message
    turned = check_property(adapt(loss, options={"turn": True}), "clip_bounds")
    assert turned.status == ("passed" if low == high else "failed"), turned.message


@FEW
@given(beta=st.floats(1e-3, 1.0), bonus=st.floats(1e-3, 0.5), cap=st.floats(1.2, 20.0))
def test_coefficients_and_truncations_are_those_that_were_put_in(beta, bonus, cap):
    """Of the penalty, the bonus and the sampler's weight, to three digits."""

    def loss(logp, old_logp, advantage, mask, ref_logp, entropy, rollout_logp):
        w = log_ratio(old_logp.detach(), rollout_logp, mask).exp().clamp(max=cap)
        losses = w * surrogate(logp, old_logp, advantage, mask)
        losses = losses + beta * log_ratio(logp, ref_logp, mask) ** 2 / 2
        return mean(losses - bonus * filled(entropy, mask), mask)

    found = outcomes(loss)
    for name, pattern, value in (
        ("reference_penalty", r"coefficient ([\d.e-]+) near", beta),
        ("entropy_gradient", r"coefficient ([\d.e-]+): raises", bonus),
        ("rollout_weight", r"A > 0 truncated above ([\d.e-]+);", cap),
    ):
        told = re.search(pattern, found[name].message)
        assert told, found[name].message
        assert float(told[1]) == pytest.approx(value, rel=5e-3)


@pytest.mark.parametrize("size", [1e-17, 1e-3])
def test_rounding_is_no_gradient(size):
    """A gradient through old_logp counts beside the largest one."""

    def loss(logp, old_logp, advantage, mask):
        return mean(
            surrogate(logp, old_logp, advantage, mask) + size * filled(old_logp, mask), mask
        )

    assert outcomes(loss)["old_quantities"].status == ("passed" if size < 1e-9 else "failed")


@pytest.mark.parametrize("size", [1e-2, 1e-7])
def test_no_message_has_two_equal_numbers(size):
    """Where a difference is too small for the digits, it is told."""

    def loss(logp, old_logp, advantage, mask):
        losses = surrogate(logp, old_logp, advantage, mask)
        return mean(losses, mask) + size * losses.mean()

    message = outcomes(loss)["padding_columns"].message
    found, expected, gap = re.search(r"is (\S+) instead of (\S+)(.*)", message).groups()
    assert found != expected or re.fullmatch(r" \(\S+ (more|less)\)", gap)


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: float(torch.rand(()))])
def test_whoever_draws_is_seen(draw):
    """Python's, NumPy's and torch's generators; that the number is not used is no excuse."""

    def loss(logp, old_logp, advantage, mask):
        draw()
        return mean(surrogate(logp, old_logp, advantage, mask), mask)

    found = outcomes(loss)["determinism"]
    assert (found.status, "draws random numbers" in found.message) == ("failed", True)
