"""The rules about gradients, masks, batches and numbers; ``ratio_properties`` has the others.

In every rule ``r`` is the sampled action's ratio and ``A`` its advantage. Everything is computed in
float64 and differentiated by autograd, unless the rule is about precision.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from erc_bench.conformance import probes
from erc_bench.conformance.aggregation import fit_aggregation, weights
from erc_bench.conformance.comparing import (
    require_equal,
    require_finite,
    require_same,
    token,
)
from erc_bench.conformance.losses import PolicyLoss
from erc_bench.conformance.origins import computes_from
from erc_bench.conformance.probes import CONSTANT, Fields
from erc_bench.conformance.registry import NotApplicable, ViolationError, prop

__all__: list[str] = []


@prop(catches="a per-token loss returned where a scalar is expected, or NaN from an empty mean")
def scalar_finite_loss(loss: PolicyLoss) -> str:
    """The loss of an ordinary batch is one finite number.

    An optimiser needs one number, and a NaN in it ends the run.
    """
    fields = probes.tokens()
    found = loss.evaluate(fields)
    require_finite(found, fields, "ordinary batch")
    return f"loss {float(found.loss):.4g}"


@prop(catches="a surrogate that is detached")
def gradient_exists(loss: PolicyLoss) -> str:
    """On-policy, every unmasked token with A != 0 has a gradient.

    A loss with the right value and no gradient trains nothing, and no curve of the loss shows it.
    """
    fields = probes.row_advantage(probes.on_policy(probes.tokens()))
    push = loss.push(fields)
    lost = (fields["mask"] & (push == 0)).nonzero().tolist()
    count = int(fields["mask"].sum())
    if lost:
        place = token(fields, *lost[0])
        raise ViolationError(
            f"{len(lost)} of {count} tokens have no gradient on-policy, first: {place}"
        )
    return f"smallest |dL/dlogp| {float(push[fields['mask']].abs().min()):.3g} over {count} tokens"


@prop(catches="a ratio that is not 1 on-policy, or weights that are no aggregate's")
def on_policy_gradient(loss: PolicyLoss) -> str:
    """At r = 1 the gradient is the policy gradient -w A grad log pi, with an aggregate's weights w.

    On the first update after a rollout no clip or gate has a reason to act, so all surrogates agree.
    """
    fields = probes.row_advantage(probes.on_policy(probes.tokens()))
    found = fit_aggregation(loss, fields)
    spread = weights(loss, fields)[fields["mask"]]
    return f"{found.name}; weights {float(spread.min()):.4g} to {float(spread.max()):.4g}"


@prop(catches="a mask forgotten in the numerator")
def masked_tokens(loss: PolicyLoss) -> str:
    """What stands in masked slots changes neither loss nor gradient, and gets no gradient.

    Prompts, tool output and padding are not the policy's actions.
    """
    fields = probes.fill_masked(probes.tokens(), -1.0)
    other = probes.fill_masked(fields, -2.5)
    first, second = loss.evaluate(fields), loss.evaluate(other)
    require_equal("other numbers in masked slots", first.loss, second.loss)
    masked = ~fields["mask"]
    for name in first.gradient:
        given = first.gradient[name][masked].abs().max()
        if float(given) > 0:
            raise ViolationError(f"masked tokens get gradients of {name} up to {float(given):.4g}")
        require_same(
            "other numbers in masked slots", first.gradient[name], second.gradient[name], fields
        )
    return f"no change from {int(masked.sum())} masked slots"


@prop(catches="multiplying by the mask where it must be selected: 0 times NaN is NaN")
def masked_nan(loss: PolicyLoss) -> str:
    """NaN and infinity in masked slots reach neither loss nor gradient.

    Engines leave log(0) and uninitialised memory there. Replace such values before computing with
    them (masked_fill), because the gradient at NaN is NaN even if the token's loss is dropped later.
    """
    fields = probes.tokens()
    clean = loss.evaluate(fields)
    for junk in (math.nan, math.inf, -math.inf):
        dirty = probes.fill_masked(fields, junk)
        found = loss.evaluate(dirty)
        require_finite(found, dirty, f"{junk} in masked slots")
        require_equal(f"{junk} in masked slots", clean.loss, found.loss)
        require_same(
            f"{junk} in masked slots", clean.gradient["logp"], found.gradient["logp"], fields
        )
    return "loss and gradients unchanged by nan, inf and -inf"


@prop(catches="a mask forgotten in the denominator")
def padding_columns(loss: PolicyLoss) -> str:
    """Padding to a longer width changes nothing.

    A batch is as wide as its longest response. If padding counted, the size of every step would
    depend on that one response.
    """
    fields = probes.tokens()
    first = loss.evaluate(fields)
    second = loss.evaluate(probes.pad(fields, columns=4))
    require_equal("4 columns of padding", first.loss, second.loss)
    width = fields["mask"].shape[1]
    gap = require_same(
        "4 columns of padding", first.gradient["logp"], second.gradient["logp"][:, :width], fields
    )
    return f"largest relative change {gap:.1e} from 4 columns"


@prop(catches="a mean over rows that counts rows without a token")
def padding_rows(loss: PolicyLoss) -> str:
    """Rows without a token change nothing.

    Batches are filled up with empty rows to divide evenly over devices.
    """
    fields = probes.tokens()
    first = loss.evaluate(fields)
    second = loss.evaluate(probes.pad(fields, rows=3))
    require_equal("3 empty rows", first.loss, second.loss)
    count = len(fields["mask"])
    gap = require_same(
        "3 empty rows", first.gradient["logp"], second.gradient["logp"][:count], fields
    )
    return f"largest relative change {gap:.1e} from 3 rows"


@prop(catches="a mean over the micro-batch where the whole batch's count is known")
def micro_batches(loss: PolicyLoss) -> str:
    """Micro-batches of 1, 2 and 3 rows add up to the whole batch, in loss and gradient.

    The parts are given the whole batch's counts where the signature takes them, and are otherwise
    weighted as the loss's own aggregate would weight them. Gradient accumulation must not change the
    objective.
    """
    fields = probes.tokens()
    parts = [probes.rows(fields, torch.arange(a, b)) for a, b in pairwise((0, 1, 3, 6))]
    whole = loss.evaluate(fields, "logp")
    if loss.takes_denominators:
        found = [loss.evaluate(part, "logp", whole=fields) for part in parts]
        where = " (config.global_batch_info)" if loss.kind.startswith("verl") else ""
        shares, how = [1.0] * 3, f"given the whole batch's counts{where}"
    else:
        fitted = fit_aggregation(loss, probes.row_advantage(probes.on_policy(fields)))
        found = [loss.evaluate(part, "logp") for part in parts]
        shares = [fitted.share(part, fields) for part in parts]
        how = f"weighted by {fitted.divides_by if fitted.divides_by != 'nothing' else '1'}"
    total = sum(s * f.loss for s, f in zip(shares, found, strict=True))
    gradient = torch.cat([s * f.gradient["logp"] for s, f in zip(shares, found, strict=True)])
    assert isinstance(total, torch.Tensor)
    what = f"sum of micro-batches, {how}"
    gap = require_same(what, whole.gradient["logp"], gradient, fields)
    gap = max(gap, require_equal(what, whole.loss, total))
    return f"largest relative difference {gap:.1e}, {how}"


@prop(catches="a loss that treats the first row as a baseline")
def permutation(loss: PolicyLoss) -> str:
    """The order of rows, and of tokens in a row, changes nothing but the order of the gradient.

    A batch is a set of responses. A loss that discounts over tokens breaks the second half of the
    rule and needs a waiver.
    """
    fields = probes.tokens()
    first = loss.evaluate(fields)
    gaps = []
    row, column = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([2, 4, 0, 3, 1])
    gradient = first.gradient["logp"]
    for what, other, expected in (
        ("rows in another order", probes.rows(fields, row), gradient[row]),
        ("tokens in another order", probes.columns(fields, column), gradient[:, column]),
    ):
        second = loss.evaluate(other)
        require_equal(what, first.loss, second.loss)
        gaps.append(require_same(what, expected, second.gradient["logp"], other))
    return f"largest relative difference {max(gaps):.1e}"


@prop(catches="advantages normalised again inside the loss")
def advantage_scale(loss: PolicyLoss) -> str:
    """Three times the advantages give three times the gradient.

    The gradient at A = 0, which comes from penalties, is subtracted first. Scaling advantages is the
    estimator's task.
    """
    fields = probes.tokens()
    first = loss.push_of_advantage(fields)
    larger = probes.changed(fields, advantage=3 * fields["advantage"])
    gap = require_same("A times 3", 3 * first, loss.push_of_advantage(larger), fields)
    return f"largest relative difference {gap:.1e}"


@prop(catches="the advantage's sign flipped")
def advantage_sign(loss: PolicyLoss) -> str:
    """A step against the gradient raises log pi where A > 0 and lowers it where A < 0, at every r.

    The gradient of penalties, which is there at A = 0 too, is subtracted first.
    """
    grid = torch.logspace(math.log10(0.05), math.log10(20), 61)
    fields = probes.ratios(grid)
    push = loss.push_of_advantage(fields) * fields["advantage"]
    wrong = (push > 0).nonzero().tolist()
    if wrong:
        raise ViolationError(
            f"{len(wrong)} of {push.numel()} probes are pushed the wrong way; the first, "
            f"{token(fields, *wrong[0])}, has dL/dlogp = {float(push[tuple(wrong[0])]):+.4g} times A"
        )
    if not bool((push < 0).any()):
        raise ViolationError("no token is pushed anywhere, whatever r and A")
    return f"the right way for all r from {float(grid[0]):.2g} to {float(grid[-1]):.2g}"


@prop(catches="a gradient through old_logp or through the advantage")
def old_quantities(loss: PolicyLoss) -> str:
    """Old and reference log-probabilities, old entropies, advantages and rewards get no gradient.

    They are data. Where they share a graph with the policy (a shared trunk, advantages computed from
    log-probabilities), a gradient through them optimises something else.
    """
    fields = probes.tokens()
    found = loss.evaluate(fields, *CONSTANT)
    for name, gradient in found.gradient.items():
        size = gradient.abs().flatten(1).max(-1).values if gradient.ndim > 1 else gradient.abs()
        if not bool((size == 0).all()):
            row = int((size != 0).nonzero()[0])
            raise ViolationError(
                f"the gradient of {name} is up to {float(size[row]):.4g} in row {row}; detach it"
            )
    return f"no gradient through {', '.join(n for n in found.gradient if n in loss.reads)}"


@prop(catches="a missing clamp of the log-ratio")
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


@prop(catches="NaN from a row without a token")
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
        if case == "no token at all" and bool((found.gradient["logp"] != 0).any()):
            raise ViolationError(f"{case}: there is a gradient")
    return "finite: one token, an empty row, no token at all"


def _one_extreme(fields: probes.Fields, row: int, log_ratio: float) -> probes.Fields:
    """The same batch with |A| = 0.5 everywhere and the first token of one row at the log-ratio."""
    old_logp, new_logp = fields["old_logp"].clone(), fields["logp"].clone()
    new_logp[row, 0], old_logp[row, 0] = min(0.0, log_ratio), min(0.0, -log_ratio)
    advantage = 0.5 * fields["advantage"].sign()
    return probes.changed(fields, logp=new_logp, old_logp=old_logp, advantage=advantage)


@prop(catches="a log-ratio exponentiated in float16, where exp(12) overflows")
def half_precision(loss: PolicyLoss) -> str:
    """In float16 and bfloat16 the loss is near float64's, and finite with a token at a log-ratio of +-20.

    Autocast hands losses half-precision log-probabilities. Only one token is that far away, with
    |A| = 0.5, since a mean over many such tokens could exceed float16's range.
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
        for row, log_ratio in ((0, 20.0), (0, -20.0), (1, 20.0), (1, -20.0)):
            far = probes.cast(_one_extreme(base, row, log_ratio), dtype)
            found = loss.evaluate(far, "logp")
            require_finite(found, far, f"log r = {log_ratio:+g} at row {row}, token 0 in {name}")
    return f"finite; the loss within {100 * max(gaps):.2g} % of float64's"


@prop(catches="a float64 constant that promotes a float32 loss")
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


@prop(catches="a tensor made on the default device")
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
        found = called({name: value.to("meta") for name, value in probes.tokens().items()})
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


@prop(catches="noise drawn inside the loss")
def determinism(loss: PolicyLoss) -> str:
    """The same batch twice gives the same bits, loss and gradient.

    Random choices belong in the sampler, where they are seeded and recorded.
    """
    fields = probes.tokens()
    first, second = loss.evaluate(fields), loss.evaluate(fields)
    same = torch.equal(first.loss, second.loss) and all(
        torch.equal(first.gradient[n], second.gradient[n]) for n in first.gradient
    )
    if not same:
        gap = abs(float(first.loss - second.loss))
        raise ViolationError(
            f"the same batch twice: losses {gap:.3g} apart, or different gradients"
        )
    return "equal bits"


@prop(catches="advantages normalised in place")
def inputs_unmodified(loss: PolicyLoss) -> str:
    """The batch is not written to.

    It is used again by the next epoch, by the metrics, and by the other loss in a comparison.
    """
    fields = probes.tokens()
    given = {name: value.clone() for name, value in fields.items()}
    for name in ("logp", "entropy"):
        given[name].requires_grad_()
    before = {name: value.detach().clone() for name, value in given.items()}
    try:
        loss(given)
    except RuntimeError as error:
        if "in-place" in str(error):
            raise ViolationError("it writes to logp or entropy, which autograd refuses") from None
        raise
    for name, value in before.items():
        if not torch.equal(value, given[name]):
            gap = (value.double() - given[name].detach().double()).abs().max()
            raise ViolationError(f"it writes to {name}: changed by up to {float(gap):.4g}")
    return f"{len(before)} fields as they were"
