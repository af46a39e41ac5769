"""Chunked log-probability and entropy against whole distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from erc_bench.core.large_vocabulary import CHUNK_LOGITS, logp, logp_and_entropy
from erc_bench.core.numerics import entropy

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def whole(logits: Tensor, action: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Both quantities from ``log_softmax``."""
    log_probs = torch.log_softmax(logits / temperature, -1)
    return log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1), entropy(log_probs)


def drawn(*shape: int, seed: int = 0, dtype=torch.float64, scale=3.0) -> tuple[Tensor, Tensor]:
    """Logits that take a gradient, and actions."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)
    action = torch.randint(shape[-1], shape[:-1], generator=generator)
    return logits.to(dtype).requires_grad_(), action


def gradient(function, logits: Tensor, action: Tensor, **options) -> Tensor:
    """Of a loss with another weight at every token, for both results."""
    weight = torch.linspace(-1, 2, action.numel(), dtype=torch.float64).view(action.shape)
    loss = 0.0
    for result in function(logits, action, **options):
        if result.requires_grad:
            loss = loss + (weight * result).sum()
            weight = weight.cos()
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("shape", [(7,), (5, 1), (5, 11), (2, 3, 4, 11), (0, 11), (2, 0, 3)])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 2])
def test_values_and_gradients_are_those_of_log_softmax(shape, temperature):
    """Any leading axes, none and no tokens included; float64 to 1e-12."""
    logits, action = drawn(*shape)
    ours = logp_and_entropy(logits, action, temperature=temperature, entropy_gradient=True)
    for x, y in zip(ours, whole(logits, action, temperature), strict=True):
        assert x.shape == action.shape
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        gradient(logp_and_entropy, logits, action, temperature=temperature, entropy_gradient=True),
        gradient(whole, logits, action, temperature=temperature),
        rtol=1e-12,
        atol=1e-12,
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-50, 50) | st.just(-math.inf), min_size=1, max_size=6),
    st.floats(0.2, 5),
)
def test_any_distribution(values, temperature):
    """Entropy is torch.distributions' of the tokens that are possible."""
    values[0] = 0.0
    logits = torch.tensor([values], dtype=torch.float64)
    _, found = logp_and_entropy(logits, torch.tensor([0]), temperature=temperature)
    possible = torch.tensor([v for v in values if v > -math.inf], dtype=torch.float64)
    expected = torch.distributions.Categorical(logits=possible / temperature).entropy()
    assert found.item() == pytest.approx(expected.item(), rel=1e-11, abs=1e-12)
    assert found >= 0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradcheck(temperature):
    """Both gradients are those of finite differences."""
    logits, action = drawn(3, 5, scale=1.0)
    assert torch.autograd.gradcheck(
        lambda x: logp_and_entropy(
            x, action, chunk=2, temperature=temperature, entropy_gradient=True
        ),
        (logits,),
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(0, 12), st.sampled_from(DTYPES))
def test_chunks_change_nothing(chunk, tokens, dtype):
    """Any chunk, larger than the number of tokens included, gives the same bits."""
    logits, action = drawn(tokens, 9, dtype=dtype)
    default = logp_and_entropy(logits, action, entropy_gradient=True)
    for x, y in zip(
        default,
        logp_and_entropy(logits, action, chunk=chunk, entropy_gradient=True),
        strict=True,
    ):
        assert torch.equal(x, y)
    if tokens:
        grads = [
            gradient(logp_and_entropy, logits, action, chunk=c, entropy_gradient=True)
            for c in (None, chunk)
        ]
        assert torch.equal(*grads)


@pytest.mark.parametrize("dtype", DTYPES)
def test_narrow_logits_are_computed_in_float32(dtype):
    """Values within float32 rounding of the same logits in float64, gradients within the dtype's."""
    logits, action = drawn(6, 500, dtype=dtype)
    exact = logits.detach().double().requires_grad_()
    results = logp_and_entropy(logits, action, entropy_gradient=True)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    for x, y in zip(results, whole(exact, action), strict=True):
        assert x.dtype is wide
        torch.testing.assert_close(x.double(), y, rtol=3e-6, atol=0)
    found = gradient(logp_and_entropy, logits, action, entropy_gradient=True)
    assert found.dtype is dtype
    eps = max(torch.finfo(dtype).eps, 2e-6)
    smallest = torch.finfo(dtype).smallest_normal
    torch.testing.assert_close(
        found.double(), gradient(whole, exact, action), rtol=eps, atol=eps * 1e-2 + smallest
    )


def test_impossible_tokens_change_nothing():
    """Logits -inf add nothing to values and gradients; sampled, they have log-probability -inf."""
    short, action = drawn(4, 5)
    logits = torch.cat([short.detach(), torch.full((4, 3), -math.inf)], 1).requires_grad_()
    for x, y in zip(logp_and_entropy(logits, action), logp_and_entropy(short, action), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-14, atol=1e-14)
    for both in (False, True):
        found = gradient(logp_and_entropy, logits, action, entropy_gradient=both)
        assert torch.isfinite(found).all()
        assert found[:, 5:].eq(0).all()
        expected = gradient(logp_and_entropy, short, action, entropy_gradient=both)
        torch.testing.assert_close(found[:, :5], expected, rtol=1e-13, atol=1e-13)

    sampled = torch.full((4,), 7)
    assert logp_and_entropy(logits, sampled)[0].eq(-math.inf).all()
    found = gradient(lambda *x: [logp(*x)], logits, sampled)
    torch.testing.assert_close(found, gradient(lambda *x: whole(*x)[:1], logits, sampled))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_possible_token_is_certain(dtype):
    """H and log p are exactly 0, and so are their gradients: at V = 1 and beside -inf."""
    for row in ([3.0], [-math.inf, 3.0, -math.inf]):
        logits = torch.tensor([row, row], dtype=dtype, requires_grad=True)
        action = torch.full((2,), row.index(3.0))
        results = logp_and_entropy(logits, action, entropy_gradient=True)
        assert [x.tolist() for x in results] == [[0.0, 0.0], [0.0, 0.0]]
        found = gradient(logp_and_entropy, logits, action, entropy_gradient=True)
        assert found.tolist() == [[0.0] * len(row)] * 2


@pytest.mark.parametrize("gap", [10, 15, 20, 25])
@pytest.mark.parametrize("vocabulary", [1000, 151_936])
def test_entropy_of_an_almost_certain_token_keeps_its_relative_precision(gap, vocabulary):
    """In float32 too: an entropy ratio's band is 5 %, whatever the entropies."""
    logits = torch.full((1, vocabulary), 0.37)
    logits[0, 3] += gap + 0.1234
    action = torch.tensor([3])
    _, expected = whole(logits.double(), action)
    _, found = logp_and_entropy(logits, action)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_ties_of_the_likeliest_tokens_all_count():
    """V equal logits have entropy log V, whatever else there is."""
    for ties in (1, 2, 3, 4096):
        logits = torch.full((1, 5000), -30.0, dtype=torch.float32)
        logits[0, :ties] = 5.0
        _, found = logp_and_entropy(logits, torch.tensor([0]))
        _, expected = whole(logits.double(), torch.tensor([0]))
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_entropy_takes_a_gradient_only_where_asked():
    """A gate's entropy is a constant; the log-probability's gradient is the same either way."""
    logits, action = drawn(4, 6)
    log_p, constant = logp_and_entropy(logits, action)
    assert log_p.requires_grad
    assert not constant.requires_grad
    (alone,) = torch.autograd.grad(log_p.sum(), logits)
    log_p, entropy_ = logp_and_entropy(logits, action, entropy_gradient=True)
    assert entropy_.requires_grad
    (beside,) = torch.autograd.grad(log_p.sum(), logits, retain_graph=True)
    assert torch.equal(alone, beside)
    (of_entropy,) = torch.autograd.grad(entropy_.sum(), logits)
    (expected,) = torch.autograd.grad(whole(logits, action)[1].sum(), logits)
    torch.testing.assert_close(of_entropy, expected, rtol=1e-12, atol=1e-12)


def test_log_probability_alone_is_the_same():
    """``logp`` has the values and gradient of ``logp_and_entropy``, bit for bit."""
    logits, action = drawn(4, 600, dtype=torch.float32)
    both, _ = logp_and_entropy(logits, action, temperature=0.8, chunk=3)
    alone = logp(logits, action, temperature=0.8, chunk=3)
    assert torch.equal(both, alone)
    grads = [torch.autograd.grad(x.sum(), logits)[0] for x in (both, alone)]
    assert torch.equal(*grads)


def test_nothing_is_differentiated_twice():
    """A second derivative is an error, not a wrong number."""
    logits, action = drawn(2, 3)
    log_p, _ = logp_and_entropy(logits, action)
    (first,) = torch.autograd.grad(log_p.square().sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_any_integer_is_an_action(dtype):
    """The gradient reaches a leaf through any integer type of action."""
    logits, action = drawn(3, 4)
    logp(logits, action.to(dtype)).sum().backward()
    assert logits.grad.sum().abs() < 1e-12


def views(base: Tensor) -> dict[str, Tensor]:
    """Views whose leading axes are no single one, or whose rows are strided."""
    return {
        "all but the last": base[:, :-1],
        "transposed": base.transpose(0, 1),
        "expanded": base[:1, :1].expand(3, 4, -1),
        "every other logit": base[..., ::2],
    }


@pytest.mark.parametrize("name", views(torch.zeros(2, 2, 2)))
def test_strided_logits(name):
    """Views need not be contiguous."""
    base, _ = drawn(5, 6, 8)
    logits = views(base)[name]
    action = torch.arange(logits[..., 0].numel()).view(logits.shape[:-1]) % logits.shape[-1]
    for x, y in zip(logp_and_entropy(logits, action, chunk=4), whole(logits, action), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    options = {"chunk": 4, "entropy_gradient": True}
    torch.testing.assert_close(
        gradient(lambda *x: logp_and_entropy(*x, **options), logits, action),
        gradient(whole, logits, action),
        rtol=1e-12,
        atol=1e-12,
    )


def peak_bytes(function) -> int:
    """Most bytes of the CPU allocator alive at once in a call, beside those alive before it.

    The profiler reports every allocation and release, also those inside of torch's operations.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        result = function()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    del result
    return peak


def extra_chunks(
    tokens: int, chunk: int, dtype, *, strided: bool = False, **options
) -> list[float]:
    """Peak memory of forward and backward beside inputs and results, in float32 chunks."""
    vocabulary = 4096
    logits = torch.zeros(2, tokens // 2 + strided, vocabulary, dtype=dtype)[:, : tokens // 2]
    logits.requires_grad_()
    action = torch.zeros(2, tokens // 2, dtype=torch.int64)
    results: list[Tensor] = []
    forward = peak_bytes(
        lambda: results.extend(logp_and_entropy(logits, action, chunk=chunk, **options))
    )
    loss = sum(x.sum() for x in results if x.requires_grad)
    backward = peak_bytes(lambda: torch.autograd.grad(loss, logits))
    backward -= logits.numel() * logits.element_size()
    return [x / (chunk * vocabulary * 4) for x in (forward, backward)]


def test_the_memory_measurement_sees_a_whole_softmax():
    """log_softmax, its bounded copy, exponential, that without the likeliest, and product: five times."""
    logits = torch.zeros(64, 4096)
    peak = peak_bytes(lambda: entropy(torch.log_softmax(logits, -1)))
    assert 4.9 < peak / (logits.numel() * 4) < 5.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("entropy_gradient", [False, True])
@pytest.mark.parametrize("strided", [False, True])
def test_memory_is_bounded_by_the_chunk(dtype, entropy_gradient, strided):
    """Two chunks of float32 beside inputs and results; twice the tokens take no more."""
    options = {"entropy_gradient": entropy_gradient, "strided": strided}
    few = extra_chunks(128, 8, dtype, **options)
    many = extra_chunks(256, 8, dtype, **options)
    wide = extra_chunks(256, 16, dtype, **options)
    assert max(*few, *many, *wide) < 2.1
    for a, b in zip(few, many, strict=True):
        assert b - a < 0.05  # the few numbers kept per token
    narrow = dtype is torch.bfloat16
    assert many[1] == pytest.approx(narrow + entropy_gradient, abs=0.1)


def test_default_chunk_is_a_number_of_logits():
    """Without a chunk, memory depends on neither tokens nor vocabulary; one token at least."""
    for vocabulary in (2**12, 2**16):
        logits = torch.zeros(2**22 // vocabulary, vocabulary, dtype=torch.bfloat16)
        action = torch.zeros(len(logits), dtype=torch.int64)
        peak = peak_bytes(lambda x=logits, a=action: logp_and_entropy(x, a))
        assert 1.9 < peak / (4 * CHUNK_LOGITS) < 2.1
    single, _ = logp_and_entropy(torch.zeros(1, CHUNK_LOGITS + 1), torch.tensor([0]))
    assert single.item() == pytest.approx(-math.log(CHUNK_LOGITS + 1), rel=1e-6)


@pytest.mark.parametrize("function", [logp, logp_and_entropy])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chunk": 0}, "chunk: 0, must be an integer >= 1"),
        ({"chunk": -3}, "chunk: -3, must be an integer >= 1"),
        ({"chunk": 1.5}, "chunk: 1.5, must be an integer >= 1"),
        ({"chunk": True}, "chunk: True, must be an integer >= 1"),
        ({"temperature": 0}, "temperature: 0, must be > 0 and finite"),
        ({"temperature": -0.5}, "temperature: -0.5, must be > 0 and finite"),
        ({"temperature": math.nan}, "temperature: nan, must be > 0 and finite"),
        ({"temperature": math.inf}, "temperature: inf, must be > 0 and finite"),
        ({"logits": torch.zeros(2, 3, dtype=torch.int64)}, "logits: torch.int64, must be one of "),
        ({"logits": torch.zeros(2, 3, dtype=torch.complex64)}, "logits: torch.complex64, must be"),
        ({"logits": torch.zeros(())}, r"logits: shape \(\), must be \(..., V\) with V >= 1"),
        ({"logits": torch.zeros(2, 0)}, r"logits: shape \(2, 0\), must be \(..., V\) with V >= 1"),
        (
            {"logits": torch.zeros(2, 3, device="meta")},
            "action: on cpu, must be on meta like logits",
        ),
        ({"action": torch.zeros(3).long()}, r"action: shape \(3,\), must be \(2,\) like logits"),
        ({"action": torch.zeros(2, 3).long()}, r"action: shape \(2, 3\), must be \(2,\)"),
        ({"action": torch.zeros(2)}, "action: torch.float32, must be integers"),
        ({"action": torch.zeros(2).bool()}, "action: torch.bool, must be integers"),
        ({"action": torch.tensor([0, 3])}, "action: 3, must be from 0 to 2"),
        ({"action": torch.tensor([-100, 1])}, "action: -100, must be from 0 to 2"),
    ],
)
def test_errors_name_field_value_and_what_is_allowed(function, changed, message):
    """One line, before any work."""
    arguments = {"logits": torch.zeros(2, 3), "action": torch.zeros(2).long(), **changed}
    with pytest.raises(ValueError, match=f"^{message}"):
        function(arguments.pop("logits"), arguments.pop("action"), **arguments)
