"""The rules of the level ``robustness``: what a loss survives that its trainer may never hand it."""

from __future__ import annotations

import math

import torch

from erc_bench.conformance import probes
from erc_bench.conformance.comparing import (
    nonzero,
    require_equal,
    require_finite,
    require_given,
    require_same,
    token,
)
from erc_bench.conformance.losses import Evaluation, PolicyLoss
from erc_bench.conformance.origins import computes_from
from erc_bench.conformance.probes import CONSTANT, Fields
from erc_bench.conformance.registry import NotApplicable, ViolationError, prop

__all__: list[str] = []


@prop(
    catches="multiplying by the mask where it must be selected: 0 times NaN is NaN",
    mend="masked_fill every input before computing with it: x = x.masked_fill(~mask, 0)",
    level="robustness",
)
def masked_nan(loss: PolicyLoss) -> str:
    """NaN and infinity in masked slots reach neither loss nor gradient.

    Engines leave log(0) and uninitialised memory there. Replace such values before computing with
    them (masked_fill), because the gradient at NaN is NaN even if the token's loss is dropped later.
    """
    fields = probes.tokens()
    clean = loss.evaluate(fields)
    for junk in (math.nan, math.inf, -math.inf):
        what, dirty = f"{junk} in masked slots", probes.fill_masked(fields, junk)
        found = loss.evaluate(dirty)
        require_finite(found, dirty, what)
        require_equal(loss, what, clean.loss, found.loss)
        require_same(loss, what, clean.gradient["logp"], found.gradient["logp"], fields)
    return "loss and gradients unchanged by nan, inf and -inf"


@prop(
    catches="a gradient through old_logp or through the advantage",
    mend="detach what is data: old_logp.detach(), advantages.detach()",
    level="robustness",
)
def old_quantities(loss: PolicyLoss) -> str:
    """Old and reference log-probabilities, old entropies, advantages and rewards get no gradient.

    They are data. Trainers hand them over without a graph; where one has a graph with the policy (a
    shared trunk, advantages computed from log-probabilities), a gradient through it optimises
    something else.
    """
    fields = probes.tokens()
    found = loss.evaluate(fields, *CONSTANT)
    beside = loss.push(fields)
    for name, gradient in found.gradient.items():
        live = nonzero(loss, gradient, beside)
        if bool(live.any()):
            row = int(live.nonzero()[0, 0])
            size = float(gradient[row].abs().max())
            raise ViolationError(f"the gradient of {name} is up to {size:.4g} in row {row}")
    return f"no gradient through {', '.join(n for n in found.gradient if n in loss.reads)}"


@prop(
    catches="a missing clamp of the log-ratio",
    mend="clamp the log-ratio before exp: (logp - old_logp).clamp(-20, 20).exp()",
    level="robustness",
)
def extreme_log_ratios(loss: PolicyLoss) -> str:
    """Loss and gradient are finite at log-ratios of +-20 and +-10000, float64 and float32.

    One token that has become impossible must not end a run.
    """
    base = probes.tokens()
    for dtype in (torch.float64, torch.float32):
        for size in (20.0, 1e4):
            for low, high in (("logp", "old_logp"), ("old_logp", "logp")):
                far = {low: base["logp"] - size, high: base["logp"]}
                fields = probes.cast(probes.changed(base, **far), dtype)
                sign = "-" if low == "logp" else "+"
                case = f"log r = {sign}{size:g} in {str(dtype).removeprefix('torch.')}"
                require_finite(loss.evaluate(fields, "logp"), fields, case)
    return "finite at all log-ratios"


@prop(
    catches="NaN from a row without a token",
    mend="divide by a count that is at least 1: mask.sum().clamp(min=1)",
    level="robustness",
)
def degenerate_batches(loss: PolicyLoss) -> str:
    """One token, an empty row, and a batch without any token have finite losses and gradients.

    Filters and uneven splits produce such batches. Without tokens there is nothing to train on, and
    the gradient is zero.
    """
    one = probes.tokens(lengths=(1,), width=1)
    base = probes.tokens()
    empty_row = probes.changed(base, mask=base["mask"] & (torch.arange(6) != 2)[:, None])
    nothing = probes.changed(base, mask=torch.zeros_like(base["mask"]))
    for case, fields in (
        ("one token", one),
        ("an empty row", empty_row),
        ("no token at all", nothing),
    ):
        found = loss.evaluate(fields)
        require_finite(found, fields, case)
        gradient = found.gradient["logp"]
        if case == "no token at all" and bool(nonzero(loss, gradient, loss.push(base)).any()):
            raise ViolationError(f"{case}: there is a gradient")
    return "finite: one token, an empty row, no token at all"


def _one_extreme(fields: Fields, row: int, log_ratio: float) -> Fields:
    """The same batch with |A| = 0.1 everywhere and the first token of one row at the log-ratio."""
    old_logp, new_logp = fields["old_logp"].clone(), fields["logp"].clone()
    new_logp[row, 0], old_logp[row, 0] = min(0.0, log_ratio), min(0.0, -log_ratio)
    advantage = 0.1 * fields["advantage"].sign()
    return probes.changed(fields, logp=new_logp, old_logp=old_logp, advantage=advantage)


def _fits(exact: Evaluation, dtype: torch.dtype) -> bool:
    """Whether the true loss and gradient are numbers of the type, with room to compute them."""
    limit = torch.finfo(dtype).max / 4
    numbers = (exact.loss, *exact.gradient.values())
    return all(bool((number.abs() < limit).all()) for number in numbers)


@prop(
    catches="a log-ratio exponentiated in float16, where exp(12) overflows",
    mend="compute the ratio in float32: (logp - old_logp).float().clamp(-20, 20).exp()",
    level="robustness",
)
def half_precision(loss: PolicyLoss) -> str:
    """In float16 and bfloat16 the loss is near float64's, and finite with a token at a log-ratio of +-12.

    Autocast hands losses half-precision log-probabilities. One token is that far away, with
    |A| = 0.1, so that the true loss and gradient are numbers of float16 though exp(12) is none.
    """
    base = probes.tokens()
    exact = float(loss.evaluate(base).loss)
    gaps = []
    for dtype in (torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        fields = probes.cast(base, dtype)
        found = loss.evaluate(fields)
        require_finite(found, fields, f"ordinary batch in {name}")
        gap = abs(float(found.loss) - exact) / max(1.0, abs(exact))
        gaps.append(gap)
        if gap > 0.05:
            raise ViolationError(
                f"{name}: the loss is {float(found.loss):.4g} instead of {exact:.4g}"
            )
        for row, log_ratio in ((0, 12.0), (0, -12.0), (1, 12.0), (1, -12.0)):
            far = _one_extreme(base, row, log_ratio)
            if _fits(loss.evaluate(far, "logp"), dtype):
                far = probes.cast(far, dtype)
                case = f"log r = {log_ratio:+g} at row {row}, token 0 in {name}"
                require_finite(loss.evaluate(far, "logp"), far, case)
    return f"finite; the loss within {100 * max(gaps):.2g} % of float64's"


@prop(
    catches="a float64 constant that promotes a float32 loss",
    mend="make constants in the type of logp: torch.tensor(x, dtype=logp.dtype, device=logp.device)",
    level="robustness",
)
def dtype_kept(loss: PolicyLoss) -> str:
    """A float32 batch gives a float32 loss, a float64 batch a float64 one.

    Half precision may be computed and returned in float32. A float64 loss is slow on accelerators,
    and a float32 loss of a float64 batch hides errors that tests look for.
    """
    allowed = {
        torch.float64: {torch.float64},
        torch.float32: {torch.float32},
        torch.bfloat16: {torch.bfloat16, torch.float32},
        torch.float16: {torch.float16, torch.float32},
    }
    for given, kept in allowed.items():
        found = loss.evaluate(probes.cast(probes.tokens(), given)).loss.dtype
        if found not in kept:
            names = [str(d).removeprefix("torch.") for d in (given, found)]
            raise ViolationError(f"a {names[0]} batch gives a {names[1]} loss")
    return "float64, float32, bfloat16, float16"


@prop(
    catches="a tensor made on the default device",
    mend="make tensors where the batch is: torch.zeros_like(logp), or device=logp.device",
    level="robustness",
)
def device_kept(loss: PolicyLoss) -> str:
    """The loss lives where the batch does, and mixes in no tensor of another device.

    A loss that uses nothing but the batch and what it computes from it keeps the device. Any other is
    tried on torch's meta device, which refuses such a mix as accelerators do. That device computes no
    values, so a loss that reads one (``.item()``, ``if x.any()``) cannot be tried.
    """

    def called(fields: Fields) -> object:
        found = loss.call(fields, None)
        return found[0] if isinstance(found, tuple | list) else found

    fields = probes.tokens()
    if computes_from(fields.values(), lambda: called(fields)):
        return "kept (every tensor comes from the batch)"
    try:
        found = called({name: value.to("meta") for name, value in fields.items()})
    except (RuntimeError, NotImplementedError) as error:
        text = " ".join(str(error).split())
        if "expected device" in text or "same device" in text:
            raise ViolationError(f"a batch on another device: {text[:160]}") from None
        raise NotApplicable(
            f"it reads the values of tensors ({text[:80]}), which the meta device has not"
        ) from None
    place = getattr(found, "device", None)
    if place is not None and place.type != "meta":
        raise ViolationError(f"a batch on another device gives a loss on {place}")
    return "kept (meta device)"


@prop(
    catches="an entropy ratio of 0 / 0",
    mend="add a small number to both entropies: (H + 1e-8) / (H_old + 1e-8)",
    level="robustness",
)
def zero_entropy(loss: PolicyLoss) -> str:
    """Entropies of zero give finite losses and gradients; zero before and after is no change.

    Most tokens of a trained model are nearly certain, so their entropies are nearly zero.
    """
    require_given(loss, "entropy", "entropies")
    fields = probes.row_advantage(probes.on_policy(probes.tokens()))
    zero = torch.zeros_like(fields["entropy"])
    for case, entropies in (
        ("H = H_old = 0", {"entropy": zero, "old_entropy": zero}),
        ("H = 0", {"entropy": zero}),
        ("H_old = 0", {"old_entropy": zero}),
    ):
        require_finite(loss.evaluate(probes.changed(fields, **entropies)), fields, case)
    both = probes.changed(fields, entropy=zero, old_entropy=zero)
    before = loss.push_of_advantage(fields)
    lost = ~nonzero(loss, loss.push_of_advantage(both), before) & nonzero(loss, before)
    if bool(lost.any()):
        place = token(fields, *lost.nonzero()[0].tolist())
        raise ViolationError(f"H = H_old = 0: the gradient is dropped at {place}")
    return "finite; H = H_old = 0 keeps its gradient"
