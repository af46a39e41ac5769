"""Masked and log-space primitives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_bench.core.numerics import (
    clamp_log_ratio,
    entropy,
    entropy_ratio,
    k1,
    k2,
    k3,
    kl,
    masked_mean,
    masked_sum,
    over_tokens,
    require_parameter,
)

logits = st.lists(st.floats(-8, 8), min_size=2, max_size=6)


def test_masked_entries_reach_neither_value_nor_gradient():
    """NaN and infinity under the mask change nothing, and their gradient is exactly zero."""
    x = torch.tensor([[1.0, math.nan], [math.inf, 4.0]], requires_grad=True)
    mask = torch.tensor([[True, False], [False, True]])
    assert masked_sum(x, mask).item() == 5
    mean = masked_mean(x, mask)
    assert mean.item() == 2.5
    (gradient,) = torch.autograd.grad(mean, x)
    assert gradient.tolist() == [[0.5, 0.0], [0.0, 0.5]]


def test_mean_of_nothing_is_zero():
    """An empty mask gives 0, not NaN."""
    assert masked_mean(torch.ones(3, 2, 4), torch.zeros(3, 2, 4).bool()).tolist() == [0, 0, 0]


@settings(deadline=None, max_examples=50)
@given(logits)
def test_entropy_agrees_with_torch(values):
    """H is torch.distributions' entropy."""
    log_probs = torch.log_softmax(torch.tensor(values, dtype=torch.float64), -1)
    expected = torch.distributions.Categorical(logits=log_probs).entropy()
    torch.testing.assert_close(entropy(log_probs), expected, rtol=1e-12, atol=1e-12)


def test_impossible_actions_add_nothing_to_entropy():
    """0 log 0 = 0, with the gradient of the distribution without that action."""
    short = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    long = torch.tensor([0.3, -1.0, -math.inf], dtype=torch.float64, requires_grad=True)
    values, gradients = [], []
    for x in (short, long):
        value = entropy(torch.log_softmax(x, -1))
        values.append(value)
        gradients.append(torch.autograd.grad(value, x)[0])
    assert values[0] == values[1]
    torch.testing.assert_close(gradients[1][:2], gradients[0])
    assert gradients[1][2] == 0


@settings(deadline=None, max_examples=50)
@given(logits, logits)
def test_kl_agrees_with_torch(first, second):
    """KL(p || q) is torch.distributions' KL."""
    size = min(len(first), len(second))
    p, q = (
        torch.log_softmax(torch.tensor(x[:size], dtype=torch.float64), -1) for x in (first, second)
    )
    pair = [torch.distributions.Categorical(logits=x) for x in (p, q)]
    expected = torch.distributions.kl_divergence(*pair)
    torch.testing.assert_close(kl(p, q), expected, rtol=1e-10, atol=1e-12)


def test_kl_at_the_edge_of_the_simplex():
    """Actions that p lacks add nothing, also to gradients; actions that only q lacks make it infinite."""
    p = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64).log().requires_grad_()
    q = torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64).log().requires_grad_()
    value = kl(p, q)
    assert value.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    for gradient in torch.autograd.grad(value, (p, q)):
        assert torch.isfinite(gradient).all()
        assert gradient[2] == 0
    assert kl(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log()).item() == math.inf
    assert kl(torch.tensor([1.0, 0.0]).log(), torch.tensor([0.5, 0.5]).log()).item() == (
        pytest.approx(math.log(2))
    )


@pytest.mark.parametrize("measure", [entropy, lambda x: kl(x, x), lambda x: kl(x[[1, 0]], x)])
def test_nan_stays_visible(measure):
    """A NaN log-probability is not mistaken for an impossible action."""
    assert torch.isnan(measure(torch.tensor([math.nan, -1.0]))).all()


@settings(deadline=None, max_examples=50)
@given(logits, st.integers(0, 5))
def test_k1_and_k3_are_unbiased(values, shift):
    """E_p[k1] = E_p[k3] = KL(p || q), by exact expectation; k2 and k3 are never negative."""
    p = torch.log_softmax(torch.tensor(values, dtype=torch.float64), -1)
    q = p.roll(shift)
    for estimator in (k1, k3):
        expectation = (p.exp() * estimator(q - p)).sum()
        torch.testing.assert_close(expectation, kl(p, q), rtol=1e-9, atol=1e-9)
    assert (k2(q - p) >= 0).all()
    assert (k3(q - p) >= 0).all()


def test_k3_is_accurate_near_zero():
    """k3 of a tiny log-ratio is half its square, also in float32."""
    tiny = torch.tensor(1e-3)
    assert k3(tiny).item() == pytest.approx(5e-7, rel=1e-2)


def test_entropy_ratio_of_deterministic_states_is_one():
    """0/0 is 1: a state that was and is deterministic has not moved."""
    zero = torch.zeros(2)
    assert entropy_ratio(zero, zero).tolist() == [1, 1]


def test_log_ratios_are_clamped_to_twenty():
    """The ratio stays finite, in value and gradient."""
    x = torch.tensor([-50.0, 1.0, math.inf], requires_grad=True)
    ratio = clamp_log_ratio(x).exp()
    assert torch.isfinite(ratio).all()
    assert torch.autograd.grad(ratio.sum(), x)[0].tolist() == [0, pytest.approx(math.e), 0]


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [(torch.float16, 11), (torch.bfloat16, 20), (torch.float32, 20), (torch.float64, 20)],
)
def test_every_dtype_can_hold_its_largest_ratio(dtype, limit):
    """From -1e4 to 1e4 the ratio and its reciprocal are finite and positive, the dtype is kept."""
    x = torch.tensor([-1e4, 1e4], dtype=dtype)
    clamped = clamp_log_ratio(x)
    assert clamped.dtype is dtype
    assert clamped.tolist() == [-limit, limit]
    for estimate in (torch.exp, k1, k2, k3):
        assert estimate(clamped).dtype is dtype
        assert torch.isfinite(estimate(clamped)).all()
    assert (clamped.exp() > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_entropy_and_its_ratio_keep_the_dtype(dtype):
    """Near-deterministic and masked-out actions give finite entropies; 0/0 is 1 in any dtype."""
    x = torch.tensor([[0.0, -1e4, -torch.inf], [0.0, 0.0, -torch.inf]], dtype=dtype)
    x.requires_grad_()
    h = entropy(torch.log_softmax(x, -1))
    assert h.dtype is dtype
    assert h.tolist() == [0, pytest.approx(math.log(2), rel=1e-2)]
    assert torch.isfinite(torch.autograd.grad(h.sum(), x)[0]).all()
    h = h.detach()
    rho = entropy_ratio(h, h)
    assert rho.dtype is dtype
    assert rho.tolist() == [1, 1]


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 10), st.floats(0, 10))
def test_entropy_ratio_is_its_formula(new, old):
    """(H + eps) / (H_old + eps), in float64; eps may be a tensor."""
    x, y = torch.tensor([new, old], dtype=torch.float64)
    assert entropy_ratio(x, y).item() == pytest.approx((new + 1e-8) / (old + 1e-8), rel=1e-14)
    eps = torch.tensor(0.1, dtype=torch.float64)
    assert entropy_ratio(x, y, eps).item() == pytest.approx((new + 0.1) / (old + 0.1), rel=1e-14)


def test_hyperparameters_take_shape_and_dtype():
    """Floats pass; (R,) becomes (R, 1, 1) in the dtype of the tokens; anything larger is refused."""
    assert over_tokens(0.1) == 0.1
    assert over_tokens(torch.tensor(0.1)).shape == ()
    shaped = over_tokens(torch.tensor([0.1, 0.2], dtype=torch.float64), torch.zeros(1))
    assert shaped.shape == (2, 1, 1)
    assert shaped.dtype is torch.float32
    with pytest.raises(ValueError, match=r"shape \(2, 1\), must be \(\) or \(R,\)"):
        over_tokens(torch.zeros(2, 1))


class Owner:
    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (-0.1, {"above": 0}, r"Owner\.value: -0\.1, must be > 0$"),
        (math.nan, {"above": 0}, r"nan, must be > 0$"),
        (math.nan, {}, r"nan, must be a number$"),
        (math.inf, {"at_least": 0, "finite": True}, r"inf, must be >= 0 and finite$"),
        (torch.tensor([0.1, -1.0]), {"above": 0}, r"-1, must be > 0$"),
        (torch.ones(2, 2), {}, r"shape \(2, 2\), must be \(\) or \(R,\)$"),
        ("0.1", {}, r"'0\.1', must be a number"),
        (True, {}, r"True, must be a number"),
        (None, {}, r"None, must be a number"),
    ],
)
def test_bad_hyperparameters_are_refused_in_one_line(value, limits, message):
    """The message names owner, field, value and what is allowed."""
    with pytest.raises(ValueError, match=message):
        require_parameter(Owner(value), "value", **limits)


@pytest.mark.parametrize("value", [0.1, 1, math.inf, torch.tensor(2.0), torch.tensor([1.0, 2.0])])
def test_good_hyperparameters_pass(value):
    """Infinity is a number."""
    require_parameter(Owner(value), "value", above=0)
