"""The rules about gradients, masks and batches: whether a loss optimises what it claims to.

In every rule ``r`` is the sampled action's ratio and ``A`` its advantage. Everything is computed in
float64 and differentiated by autograd. ``ratio_properties`` has the rules about clips and gates,
``penalties`` those about what else a loss may be given, ``robustness`` the other level.
"""

from __future__ import annotations

import math
import random
import sys
from itertools import pairwise
from typing import Any

import torch

from erc_bench.conformance import probes
from erc_bench.conformance.aggregation import fit_aggregation, weights
from erc_bench.conformance.comparing import (
    nonzero,
    require_equal,
    require_finite,
    require_same,
    token,
)
from erc_bench.conformance.losses import PolicyLoss
from erc_bench.conformance.registry import NotApplicable, ViolationError, prop

__all__: list[str] = []


@prop(
    catches="a per-token loss returned where a scalar is expected, or NaN from an empty mean",
    mend="return one finite number: a masked sum over a count that is at least 1",
)
def scalar_finite_loss(loss: PolicyLoss) -> str:
    """The loss of an ordinary batch is one finite number.

    An optimiser needs one number, and a NaN in it ends the run.
    """
    fields = probes.tokens()
    found = loss.evaluate(fields)
    require_finite(found, fields, "ordinary batch")
    return f"loss {float(found.loss):.4g}"


@prop(
    catches="a surrogate that is detached",
    mend="compute the surrogate from logp with its graph; detach only weights, masks and gates",
)
def gradient_exists(loss: PolicyLoss) -> str:
    """On-policy, every unmasked token with A != 0 has a gradient.

    A loss with the right value and no gradient trains nothing, and no curve of the loss shows it.
    """
    fields = probes.row_advantage(probes.on_policy(probes.tokens()))
    push = loss.push_of_advantage(fields)
    lost = (fields["mask"] & ~nonzero(loss, push)).nonzero().tolist()
    count = int(fields["mask"].sum())
    if lost:
        place = token(fields, *lost[0])
        raise ViolationError(
            f"{len(lost)} of {count} tokens have no gradient on-policy, first: {place}"
        )
    return f"smallest |dL/dlogp| {float(push[fields['mask']].abs().min()):.3g} over {count} tokens"


@prop(
    catches="a ratio that is not 1 on-policy, or weights that are no aggregate's",
    mend="make the ratio exp(logp - old_logp) and weigh tokens by one aggregate over the mask",
)
def on_policy_gradient(loss: PolicyLoss) -> str:
    """At r = 1 the gradient is the policy gradient -w A grad log pi, with an aggregate's weights w.

    On the first update after a rollout no clip or gate has a reason to act, so all surrogates agree.
    """
    fields = probes.row_advantage(probes.on_policy(probes.tokens()))
    found = fit_aggregation(loss, fields)
    spread = weights(loss, fields)[fields["mask"]]
    return f"{found.name}; weights {float(spread.min()):.4g} to {float(spread.max()):.4g}"


@prop(
    catches="a mask forgotten in the numerator",
    mend="multiply every per-token term by the mask before summing, penalties included",
)
def masked_tokens(loss: PolicyLoss) -> str:
    """What stands in masked slots changes neither loss nor gradient, and gets no gradient.

    Prompts, tool output and padding are not the policy's actions.
    """
    fields = probes.fill_masked(probes.tokens(), -1.0)
    other = probes.fill_masked(fields, -2.5)
    first, second = loss.evaluate(fields), loss.evaluate(other)
    what = "other numbers in masked slots"
    require_equal(loss, what, first.loss, second.loss)
    masked = ~fields["mask"]
    for name, gradient in first.gradient.items():
        if bool(nonzero(loss, gradient)[masked].any()):
            given = float(gradient[masked].abs().max())
            raise ViolationError(f"masked tokens get gradients of {name} up to {given:.4g}")
        require_same(loss, what, gradient, second.gradient[name], fields)
    return f"no change from {int(masked.sum())} masked slots"


@prop(
    catches="a mask forgotten in the denominator",
    mend="divide by a count of the mask, not by the width (mean() over all slots)",
)
def padding_columns(loss: PolicyLoss) -> str:
    """Padding to a longer width changes nothing.

    A batch is as wide as its longest response. If padding counted, the size of every step would
    depend on that one response.
    """
    fields = probes.tokens()
    first = loss.evaluate(fields)
    second = loss.evaluate(probes.pad(fields, columns=4))
    what, width = "4 columns of padding", fields["mask"].shape[1]
    require_equal(loss, what, first.loss, second.loss)
    old, new = first.gradient["logp"], second.gradient["logp"][:, :width]
    return (
        f"largest relative change {require_same(loss, what, old, new, fields):.1e} from 4 columns"
    )


@prop(
    catches="a mean over rows that counts rows without a token",
    mend="divide by the number of rows that have a token, mask.any(-1).sum()",
)
def padding_rows(loss: PolicyLoss) -> str:
    """Rows without a token change nothing.

    Batches are filled up with empty rows to divide evenly over devices.
    """
    fields = probes.tokens()
    first = loss.evaluate(fields)
    second = loss.evaluate(probes.pad(fields, rows=3))
    if bool(second.loss.isnan()):
        raise NotApplicable("an empty row makes the loss NaN, which degenerate_batches is about")
    what, count = "3 empty rows", len(fields["mask"])
    require_equal(loss, what, first.loss, second.loss)
    old, new = first.gradient["logp"], second.gradient["logp"][:count]
    return f"largest relative change {require_same(loss, what, old, new, fields):.1e} from 3 rows"


@prop(
    catches="a mean over the micro-batch where the whole batch's count is known",
    mend="divide by the count of the whole batch that the loss is given",
)
def micro_batches(loss: PolicyLoss) -> str:
    """Micro-batches of 1, 2 and 3 rows add up to the whole batch, in loss and gradient.

    The parts are given the whole batch's counts where the loss takes them, and are otherwise
    weighted as the loss's own aggregate would weight them. Gradient accumulation must not change the
    objective.
    """
    fields = probes.tokens()
    parts = [probes.rows(fields, torch.arange(a, b)) for a, b in pairwise((0, 1, 3, 6))]
    whole = loss.evaluate(fields, "logp")
    if loss.takes_denominators:
        found = [loss.evaluate(part, "logp", whole=fields) for part in parts]
        shares, how = [1.0] * 3, "given the whole batch's counts"
        if all(torch.equal(f.loss, loss(p)) for f, p in zip(found, parts, strict=True)):
            how += ", which make no difference"
    else:
        fitted = fit_aggregation(loss, probes.row_advantage(probes.on_policy(fields)))
        found = [loss.evaluate(part, "logp") for part in parts]
        shares = [fitted.share(part, fields) for part in parts]
        how = f"weighted by {fitted.divides_by if fitted.divides_by != 'nothing' else '1'}"
    total = sum(s * f.loss for s, f in zip(shares, found, strict=True))
    gradient = torch.cat([s * f.gradient["logp"] for s, f in zip(shares, found, strict=True)])
    assert isinstance(total, torch.Tensor)
    what = f"sum of micro-batches, {how}"
    gap = require_same(loss, what, whole.gradient["logp"], gradient, fields)
    gap = max(gap, require_equal(loss, what, whole.loss, total))
    return f"largest relative difference {gap:.1e}, {how}"


@prop(
    catches="a loss that treats the first row as a baseline",
    mend="let no term depend on where in the batch a response stands, or a token in its response",
)
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
        require_equal(loss, what, first.loss, second.loss)
        gaps.append(require_same(loss, what, expected, second.gradient["logp"], other))
    return f"largest relative difference {max(gaps):.1e}"


@prop(
    catches="advantages normalised again inside the loss",
    mend="use the advantages as they come; scale them in the estimator",
)
def advantage_scale(loss: PolicyLoss) -> str:
    """Three times the advantages give three times the gradient.

    The gradient at A = 0, which comes from penalties, is subtracted first. Scaling advantages is the
    estimator's task.
    """
    fields = probes.tokens()
    first = loss.push_of_advantage(fields)
    larger = probes.changed(fields, advantage=3 * fields["advantage"])
    gap = require_same(loss, "A times 3", 3 * first, loss.push_of_advantage(larger), fields)
    return f"largest relative difference {gap:.1e}"


@prop(
    catches="advantages centred inside the loss, or a sign made as A / |A|",
    mend="let a token's surrogate be A times a factor: nothing at A = 0, whatever other tokens have",
)
def advantage_zero(loss: PolicyLoss) -> str:
    """A response with A = 0 is pushed nowhere by the advantages of the others.

    Groups whose answers are all right or all wrong have A = 0 everywhere. A gradient that is there
    without any advantage comes from penalties, and stays.
    """
    fields = probes.on_policy(probes.tokens())
    others = torch.where(torch.arange(6)[:, None] == 2, 0.0, fields["advantage"])
    mixed = probes.changed(fields, advantage=others)
    require_finite(loss.evaluate(mixed), mixed, "A = 0 in row 2")
    push = loss.push_of_advantage(mixed)
    moved = nonzero(loss, push)
    moved[torch.arange(6) != 2] = False
    if bool(moved.any()):
        row, column = moved.nonzero()[0].tolist()
        raise ViolationError(
            f"dL/dlogp = {float(push[row, column]):.4g} at {token(mixed, row, column)} comes from "
            "the advantages of other rows"
        )
    return "no push at A = 0"


@prop(
    catches="the advantage's sign flipped",
    mend="minimise -r A (or -A log pi), not r A",
)
def advantage_sign(loss: PolicyLoss) -> str:
    """A step against the gradient raises log pi where A > 0 and lowers it where A < 0, at every r.

    The gradient of penalties, which is there at A = 0 too, is subtracted first.
    """
    grid = torch.logspace(math.log10(0.05), math.log10(20), 61)
    fields = probes.ratios(grid)
    push = loss.push_of_advantage(fields) * fields["advantage"]
    wrong = ((push > 0) & nonzero(loss, push)).nonzero().tolist()
    if wrong:
        raise ViolationError(
            f"{len(wrong)} of {push.numel()} probes are pushed the wrong way; the first, "
            f"{token(fields, *wrong[0])}, has dL/dlogp = {float(push[tuple(wrong[0])]):+.4g} times A"
        )
    if not bool((push < 0).any()):
        raise ViolationError("no token is pushed anywhere, whatever r and A")
    return f"the right way for all r from {float(grid[0]):.2g} to {float(grid[-1]):.2g}"


def _random_state() -> list[Any]:
    """The states from which torch, Python and, where it is loaded, NumPy draw."""
    numpy = sys.modules.get("numpy")
    drawn = [] if numpy is None else list(map(str, numpy.random.get_state()))
    return [torch.random.get_rng_state().tolist(), random.getstate(), drawn]


@prop(
    catches="noise drawn inside the loss, or dropout left on",
    mend="draw nothing in the loss; hand it what was drawn, or call .eval() on what it calls",
)
def determinism(loss: PolicyLoss) -> str:
    """The same batch twice gives the same bits, loss and gradient, and no random number is drawn.

    Random choices belong in the sampler, where they are seeded and recorded. Tried on 4000 tokens
    too, where a rare choice shows.
    """
    large = probes.tokens(lengths=(64,) * 64, width=64)
    before = _random_state()
    for fields in (probes.tokens(), large):
        first, second = loss.evaluate(fields), loss.evaluate(fields)
        same = torch.equal(first.loss, second.loss) and all(
            torch.equal(first.gradient[n], second.gradient[n]) for n in first.gradient
        )
        if not same:
            gap = abs(float(first.loss - second.loss))
            raise ViolationError(
                f"the same batch of {int(fields['mask'].sum())} tokens twice: losses {gap:.3g} "
                "apart, or different gradients"
            )
    if _random_state() != before:
        raise ViolationError("it draws random numbers: the generator's state is another afterwards")
    return "equal bits, nothing drawn"


@prop(
    catches="advantages normalised in place",
    mend="replace operators that write (*=, clamp_, masked_fill_) by ones that return a new tensor",
)
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
