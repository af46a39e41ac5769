"""Kinds of losses that public code and public bug reports taught: each is judged for what it is.

Every loss is right at the level robustness, so that a verdict is about what its name says.
"""

from __future__ import annotations

import pytest
import torch

from erc_bench.conformance import adapt, check
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


def weight_of_value(logp, old_logp, advantage, mask, rollout_logp):
    losses = surrogate(logp, old_logp, advantage, mask)
    w = log_ratio(old_logp.detach(), rollout_logp, mask).exp().clamp(max=2.0)
    return mean(losses + (w - 1) * losses.detach(), mask)


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
    weight_of_value: ("rollout_weight", "value, and no gradient"),
}
RIGHT = {
    bonus: ("entropy_gradient", "coefficient 0.01: raises"),
    bonus_turned: ("entropy_gradient", "coefficient -0.01: LOWERS"),
    kl_k2: ("reference_penalty", "coefficient 0.05"),
    kl_k1_weighted: ("reference_penalty", "from both sides"),
    weight: ("rollout_weight", "truncated above 2"),
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
