"""The rules about what a loss may be given beside the surrogate: a reference, entropies, a sampler.

A penalty or a bonus is what has a gradient at A = 0.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from erc_bench.conformance import probes
from erc_bench.conformance.aggregation import weights
from erc_bench.conformance.comparing import nonzero, require_given, token
from erc_bench.conformance.losses import PolicyLoss
from erc_bench.conformance.probes import Fields
from erc_bench.conformance.registry import NotApplicable, ViolationError, prop

__all__: list[str] = []

#: Distances ``logp - ref_logp``; their sum is not 0, so that no estimate cancels over the batch.
DISTANCES = torch.tensor([-1.3, -0.4, -0.1, 0.0, 0.1, 0.5, 1.7], dtype=torch.float64)


def _differ(loss: PolicyLoss, first: Tensor, second: Tensor, beside: Tensor) -> bool:
    """Whether gradients or values differ by more than rounding, beside the size of a gradient."""
    return bool(((first - second).abs() > loss.precision.same * beside.abs().max()).any())


def _per_weight(loss: PolicyLoss, gradient: Tensor) -> Tensor:
    """A gradient in units of the weight that the loss gives to a token of its surrogate."""
    fields = probes.row_advantage(probes.on_policy(probes.tokens()))
    return gradient / weights(loss, fields)


@prop(
    catches="k1 = logp - ref_logp added to the loss: its gradient does not know the reference",
    mend="use k2 or k3: with d = ref_logp.detach() - logp, beta * (d.exp() - 1 - d).mean()",
)
def reference_penalty(loss: PolicyLoss) -> str:
    """A penalty on the distance to the reference pulls logp towards ref_logp, from either side.

    At A = 0 its gradient has the sign of logp - ref_logp and vanishes where they agree. The penalty
    that is printed is a mean of estimates; only the gradient says what is optimised. k1 as a score
    function, r k1, has the gradient beta (1 + d) with d = logp - ref_logp, whose constant is zero on
    average.
    """
    require_given(loss, "ref_logp", "reference")
    fields = probes.references(DISTANCES)
    near = probes.references(torch.zeros_like(DISTANCES))
    beside = loss.push(probes.ratios(torch.ones(7)))
    pull, constant = (loss.push(f).squeeze(-1) for f in (fields, near))
    follows = _differ(loss, pull, constant, beside)
    if not follows:
        if not _differ(loss, loss(fields), loss(near), beside):
            raise NotApplicable("ref_logp makes no difference; a coefficient may be 0")
        size = float(constant[0])
        told = f"is {size:.4g} whatever ref_logp is" if size else "is zero: the penalty is detached"
        raise ViolationError(f"at A = 0 the loss changes with ref_logp, and its gradient {told}")
    slope = (pull - constant) * DISTANCES.sign()
    if bool((slope < 0).any()):
        at = int(slope.argmin())
        raise ViolationError(
            f"at A = 0 and logp - ref_logp = {float(DISTANCES[at]):g} the gradient is "
            f"{float(pull[at] - constant[at]):.4g}: it pushes logp away from ref_logp"
        )
    if not bool((slope[DISTANCES != 0] > 0).all()):
        raise ViolationError("at A = 0 some distances to the reference have no gradient")
    score = constant * (1 + DISTANCES)  # k1 under a score function: beta (1 + d), on average beta d
    if bool(nonzero(loss, constant, pull).any()) and _differ(loss, pull, score, pull):
        raise ViolationError(
            f"at A = 0 and logp = ref_logp the gradient is {float(constant[0]):.4g}, not zero"
        )
    unit = loss.push_of_advantage(probes.rows(probes.ratios(torch.ones(7)), torch.arange(7)))
    steepness = (pull[4] - pull[2]) / (DISTANCES[4] - DISTANCES[2]) / unit.abs()[0, 0]
    return f"pulls towards ref_logp from both sides, coefficient {float(steepness):.3g} near it"


@prop(
    catches="an entropy bonus of detached entropies, or a gradient through a gate's entropy",
    mend="give a bonus the entropy with its graph; detach the entropy that a gate or a weight reads",
)
def entropy_gradient(loss: PolicyLoss) -> str:
    """The entropy is read without a gradient by a gate or a weight, or is a bonus with one.

    A bonus has the same gradient at every advantage; it is reported with its coefficient and sign. A
    gradient that changes with the advantage comes through a gate or a weight, and trains the entropy
    by accident. An entropy that moves the loss's value and no gradient is a bonus without effect.
    """
    require_given(loss, "entropy", "entropies")
    fields = probes.tokens()
    gradient = loss.evaluate(fields, "entropy").gradient["entropy"]
    beside = loss.push(fields)
    if bool(nonzero(loss, gradient, beside).any()):
        still = probes.changed(fields, advantage=torch.zeros_like(fields["advantage"]))
        alone = loss.evaluate(still, "entropy").gradient["entropy"]
        if _differ(loss, gradient, alone, beside):
            row, column = map(
                int, torch.unravel_index((gradient - alone).abs().argmax(), gradient.shape)
            )
            raise ViolationError(
                f"dL/dH = {float(gradient[row, column]):.4g} at {token(fields, row, column)}, and "
                f"{float(alone[row, column]):.4g} without advantages: it flows through a gate or a weight"
            )
        size = -_per_weight(loss, gradient)[fields["mask"]]
        low, high = float(size.min()), float(size.max())
        told = (
            f"{low:.4g}"
            if high - low <= 1e-6 * max(abs(low), abs(high))
            else f"{low:.4g} to {high:.4g}"
        )
        return (
            f"entropy bonus, coefficient {told}: {'raises' if high > 0 else 'LOWERS'} the entropy"
        )
    if _moves_only_the_value(loss, fields, beside):
        raise ViolationError(
            "the loss's value changes with the entropy, and no gradient does: the bonus is detached"
        )
    return "no gradient through the entropy"


def _moves_only_the_value(loss: PolicyLoss, fields: Fields, beside: Tensor) -> bool:
    """Whether the entropy changes the loss, and nothing that is trained."""
    pushes, values = [], []
    for factor in (0.3, 0.97, 1.0, 1.03, 3.0):
        other = probes.changed(fields, entropy=factor * fields["old_entropy"])
        pushes.append(loss.push(other))
        values.append(loss.evaluate(other).loss)
    return any(
        _differ(loss, one[1], two[1], beside) and not _differ(loss, one[0], two[0], beside)
        for one, two in pairwise(zip(pushes, values, strict=True))
    )


@prop(
    catches="a sampler's correction upside down, or one that carries a gradient",
    mend="weigh by exp(old_logp - rollout_logp), detached, and truncate it from above",
)
def rollout_weight(loss: PolicyLoss) -> str:
    """A correction for the sampler grows with pi_old / pi_rollout, and no gradient flows through it.

    Tokens that the engine drew too rarely must count more. At r = 1 the second derivative of the loss
    by logp is then its first one, or zero; a weight with a gradient adds to it. Where the weight is
    truncated, the token dropped, or the weight smooth and falling at one sign of A, that is reported.
    """
    require_given(loss, "rollout_logp", "sampler's log-probabilities")
    grid = torch.linspace(-4, 4, 161, dtype=torch.float64)
    fields = probes.samplers(grid)
    push = -(loss.push_of_advantage(fields) * fields["advantage"]).squeeze(-1)
    if not _differ(loss, push, push[len(grid) // 2], push):
        half = probes.rows(fields, torch.arange(len(grid)))  # A = 1 only, so that nothing cancels
        still = probes.changed(half, rollout_logp=half["old_logp"])
        if _differ(loss, loss(half), loss(still), push):
            raise ViolationError("rollout_logp changes the loss's value, and no gradient")
        raise NotApplicable("rollout_logp makes no difference")
    near, told = grid.abs() < 0.1, list[str]()
    falling, rising = list[str](), list[str]()
    for sign, strength in (("A > 0", push[: len(grid)]), ("A < 0", push[len(grid) :])):
        if not _differ(loss, strength, strength[0], push):
            told.append(f"{sign} not weighted")
            continue
        first, last = float(strength[near][0]), float(strength[near][-1])
        falls = 0 < last < first * (1 - loss.precision.same)
        told.append(f"{sign} {_bounds(grid.exp(), strength)}{', falling near 1' if falls else ''}")
        (falling if falls else rising).append(f"{sign} {first:.4g} at 0.905 and {last:.4g} at 1.11")
    if not rising:
        raise ViolationError(
            f"the weight is upside down: the gradient by pi_old / pi_rollout is, {'; '.join(falling)}"
        )
    _require_detached(loss)
    return f"grows with pi_old / pi_rollout; {'; '.join(told)}"


def _bounds(weight: Tensor, strength: Tensor) -> str:
    """Where large and small weights are truncated or their tokens dropped, in words."""
    one, found = float(strength[len(weight) // 2]), []
    for edge, way, word in ((-1, 1, "above"), (0, -1, "below")):
        end = float(strength[edge])
        inner = ((strength - end).abs() > 1e-9 * strength.abs().max()).nonzero()
        last = int(inner[-1 if way == 1 else 0]) + way
        if end == 0 and 0 <= last < len(weight):
            found.append(f"dropped {word} about {float(weight[last]):.2g}")
        elif last not in (edge, len(weight) - 1) and (end - one) * way > 0:
            found.append(f"truncated {word} {end / one:.3g}")
    return " and ".join(found) or "without a bound"


def _require_detached(loss: PolicyLoss) -> None:
    """Require that the weight carries no gradient, where the loss can be differentiated twice.

    Raises:
        ViolationError: it does.
    """
    fields = probes.samplers(torch.zeros(1))
    none = probes.changed(fields, advantage=torch.zeros_like(fields["advantage"]))
    found = []
    for part in (fields, none):
        logp = part["logp"].clone().requires_grad_()
        try:
            (first,) = torch.autograd.grad(loss({**part, "logp": logp}), logp, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), logp, allow_unused=True)
        except RuntimeError:  # the first derivative is a constant, or has no derivative
            return
        found.append((first.detach(), torch.zeros_like(first) if second is None else second))
    first, second = (with_a - without for with_a, without in zip(*found, strict=True))
    share = (second / first)[nonzero(loss, first)]
    off = torch.minimum(share.abs(), (share - 1).abs()) > max(1e-6, loss.precision.same)
    if bool(off.any()):
        raise ViolationError(
            f"at r = 1 the second derivative by logp is {float(share[off][0]):.4g} times the first, not "
            "1 or 0: the weight carries a gradient"
        )
