"""The rules about clips on the sampled ratio and gates on the entropy ratio.

``rho`` is the entropy ratio, new over old. Clips are probed while the whole distributions do not
move, and gates while the sampled ratio is 1, so that each is seen alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from erc_bench.conformance import probes
from erc_bench.conformance.aggregation import couples_tokens
from erc_bench.conformance.comparing import (
    nonzero,
    require_equal,
    require_given,
    require_same,
    token,
)
from erc_bench.conformance.losses import PolicyLoss
from erc_bench.conformance.registry import NotApplicable, ViolationError, prop

__all__: list[str] = []

#: Ratios at which a clip must not act; clips on sequence ratios are as narrow as 3e-4 (GSPO).
NEAR = torch.linspace(0.91, 1.09, 37, dtype=torch.float64)
NEAR_SEQUENCE = torch.linspace(1 - 1e-4, 1 + 1e-4, 21, dtype=torch.float64)

#: A dual clip, which bounds the punishment at r > c, may act only above this ratio.
SMALLEST_DUAL_CLIP = 2.0

#: An old probability at which a ratio of 0.7 is a large step in probability, and one at which it is none.
LIKELY, UNLIKELY = 0.6, 0.04


class _Factors(NamedTuple):
    """Strength of the push in the advantage's direction, ``-A dL/dlogp``, by ratio."""

    fields: probes.Fields
    ratio: Tensor
    good: Tensor  # at A = 1
    bad: Tensor  # at A = -1


def _factors(loss: PolicyLoss, grid: Tensor, old: float = UNLIKELY) -> _Factors:
    fields = probes.ratios(grid, old)
    push = -(loss.push_of_advantage(fields) * fields["advantage"]).squeeze(-1)
    push = torch.where(nonzero(loss, push), push, 0.0)
    return _Factors(fields, grid, push[: len(grid)], push[len(grid) :])


def _wide(old: float = UNLIKELY) -> Tensor:
    """Ratios from 0.05 to 20, as far as the new probability is one."""
    grid = torch.logspace(math.log10(0.05), math.log10(20), 241, dtype=torch.float64)
    return grid[grid * old < 1]


class _Edge(NamedTuple):
    """Where ratios become closed on the way from 1 outwards."""

    last_open: float
    first_closed: float
    settled: bool  # not so where what is closed depends on the other tokens of the batch


def _edge(closed: Callable[[Tensor], Tensor], outside: Tensor) -> _Edge:
    """Narrow the edge down from 1 and a ratio that is closed, on ever finer grids; to 1e-8."""
    found = _Edge(1.0, float(outside), settled=True)
    for _ in range(4):
        grid = torch.linspace(found.last_open, found.first_closed, 201, dtype=torch.float64)
        shut = closed(grid).nonzero().flatten().tolist()
        if not shut:
            return found._replace(settled=False)
        found = _Edge(float(grid[max(shut[0] - 1, 0)]), float(grid[shut[0]]), settled=True)
    return found


def _clip_edge(
    loss: PolicyLoss, clipped: Tensor, side: Literal["good", "bad"], old: float = UNLIKELY
) -> float:
    """The ratio nearest to 1 without a gradient, searched for from one that has none."""
    return _edge(lambda grid: getattr(_factors(loss, grid, old), side) == 0, clipped).first_closed


@prop(
    catches="a clip range turned inside out, which clips on-policy",
    mend="clip to 1 - low <= r <= 1 + high, with the lower bound first",
)
def clip_near_policy(loss: PolicyLoss) -> str:
    """No token without a gradient at r from 0.91 to 1.09 (0.9999 to 1.0001 for sequence ratios).

    A clip limits how far training goes; it must not stop the first steps.
    """
    sequence = couples_tokens(loss)
    found = _factors(loss, NEAR_SEQUENCE if sequence else NEAR)
    for sign, factor in ((0, found.good), (1, found.bad)):
        lost = (factor == 0).nonzero().flatten().tolist()
        if lost:
            place = token(found.fields, sign * len(found.ratio) + lost[0], 0)
            raise ViolationError(
                f"{len(lost)} of {len(factor)} ratios have no gradient, first: {place}"
            )
    kind = "sequence-level" if sequence else "token-level"
    return f"gradient at all r from {float(found.ratio[0]):g} to {float(found.ratio[-1]):g}, {kind}"


@prop(
    catches="max where min belongs, or a wall: tokens beyond the clip are kept from coming back",
    mend="use min(r A, clip(r) A), or drop a gradient only where it pushes r further from 1",
)
def clip_restoring_side(loss: PolicyLoss) -> str:
    """Gradients that bring r back towards 1 are kept: r < 1 at A > 0, and r > 1 at A < 0.

    At A < 0 a dual clip may end them above some c of at least 2. A token that has left the trust
    region and has no gradient back stays outside. Tried at old probabilities 0.04 and 0.6.
    """
    for old in (LIKELY, UNLIKELY):
        found = _factors(loss, _wide(old), old)
        low = found.ratio[(found.ratio < 1) & (found.good == 0)]
        if len(low):
            raise ViolationError(
                f"no gradient at r = {float(low[-1]):.4g}, A = 1, old probability {old}, where the "
                "advantage pulls r back up"
            )
        inside = found.ratio < SMALLEST_DUAL_CLIP
        high = found.ratio[(found.ratio > 1) & inside & (found.bad == 0)]
        if len(high):
            raise ViolationError(
                f"no gradient at r = {float(high[0]):.4g}, A = -1, old probability {old}, where the "
                "advantage pulls r back down"
            )
    up, down = _clip(loss, UNLIKELY)
    told = "never clipped" if up is None else f"clipped from r = {up:.4g}"
    return (
        f"kept; A > 0 {told}, A < 0 {'never clipped' if down is None else f'up to r = {down:.4g}'}"
    )


def _clip(loss: PolicyLoss, old: float) -> tuple[float | None, float | None]:
    """The ratios from which a gradient that leads away from 1 is gone: above at A > 0, below at A < 0."""
    found = _factors(loss, _wide(old), old)
    over = found.ratio[(found.good == 0) & (found.ratio > 1)]
    under = found.ratio[(found.bad == 0) & (found.ratio < 1)]
    return (
        _clip_edge(loss, over[0], "good", old) if len(over) else None,
        _clip_edge(loss, under[-1], "bad", old) if len(under) else None,
    )


@prop(
    catches="low and high of a clip exchanged, or a clip on one side only",
    mend="clip to 1 - low <= r <= 1 + high, with each bound where its name says",
)
def clip_bounds(loss: PolicyLoss) -> str:
    """A clip on the ratio lies where the loss's own parameters, or those of --clip, say.

    The bounds are 1 - low and 1 + high; e^-low and e^high where the log-ratio is clipped; low and
    high themselves where they are ratios. Runs are planned and compared by these numbers.
    """
    if loss.clip is None:
        raise NotApplicable("no parameter declares a clip; give its bounds with --clip LOW HIGH")
    found = _clip(loss, UNLIKELY)
    up, down = found
    told = (
        f"A > 0 {'not clipped' if up is None else f'clipped from r = {up:.6g}'}, "
        f"A < 0 {'not clipped' if down is None else f'up to r = {down:.6g}'}"
    )
    if up is None and down is None:
        raise NotApplicable("no clip that ends the gradient")
    close, farthest = 1e-5 + loss.precision.same, float(_wide(LIKELY)[-1])
    near = [
        [edge for edge in edges if edge and edge < farthest]
        for edges in (found, _clip(loss, LIKELY))
    ]
    if len(near[0]) != len(near[1]) or any(
        abs(here - there) > close for here, there in zip(*near, strict=True)
    ):
        raise NotApplicable(f"{told} at old probability 0.04: the clip is not on r alone")
    low, high = loss.clip
    ways = {"": (1 - low, 1 + high), " in log r": (math.exp(-low), math.exp(high))}
    if 0 < low < 1 < high:
        ways |= {"": (low, high)}

    def lies_at(lower: float, upper: float) -> bool:
        above = upper >= 20 if up is None else abs(up - upper) < close
        return above and (lower <= 0.05 if down is None else abs(down - lower) < close)

    for how, bounds in ways.items():
        if lies_at(*bounds):
            return f"{told}, as declared{how}"
    hint = ": low and high are exchanged" if lies_at(1 - high, 1 + low) else ""
    lower, upper = ways[""]
    raise ViolationError(f"{told} instead of {lower:.6g} and {upper:.6g}{hint}")


@prop(
    catches="a mean over the tokens that are not clipped: clipping raises the weight of the others",
    mend="divide by the count of the mask; a clipped token loses its gradient, not its place",
)
def clip_denominator(loss: PolicyLoss) -> str:
    """How far a token has moved raises no other token's gradient, and changes none of other responses.

    A token that is clipped, masked or truncated away still counts in the denominator. Otherwise the
    step of all others grows with every token that has drifted. A response may be dropped as a whole
    because of one token; where ratios are those of responses, only other responses are compared.
    """
    fields = probes.row_advantage(probes.tokens(spread=0.01))
    fields = probes.changed(fields, rollout_logp=fields["old_logp"])  # a sampler's weights stay 1
    before, coupled = loss.push(fields), couples_tokens(loss)
    for row, log_ratio in ((0, 1.5), (0, -1.5), (1, 3.5), (1, -1.5)):
        old_logp = fields["old_logp"].clone()
        old_logp[row, 0] = fields["logp"][row, 0] - log_ratio
        after = loss.push(probes.changed(fields, old_logp=old_logp, rollout_logp=old_logp))
        own = (torch.arange(len(before)) == row)[:, None].expand_as(before).clone()
        lower = own & (coupled | (after.abs() <= before.abs()))
        lower[row, 0] = True
        what = f"row {row}, token 0 moved to r = {math.exp(log_ratio):.3g}"
        require_same(loss, what, before, torch.where(lower, before, after), fields)
    return "the gradient of other tokens stays"


@prop(
    catches="a dual clip that acts at A > 0",
    mend="apply the bound c A with torch.where(A < 0, ...), after the clip",
)
def dual_clip(loss: PolicyLoss) -> str:
    """A bound on large ratios (dual clip) acts only at A < 0, and then at all larger r.

    It limits the punishment of a token that has become likelier (arXiv:1912.09729). At A > 0 it
    would take away the reward of every token.
    """
    found = _factors(loss, _wide())
    ended = (found.bad == 0) & (found.ratio > 1)
    if bool((found.good[found.ratio <= 1] == 0).all()):
        raise ViolationError("at A = 1 there is no gradient at any r <= 1: a bound acts at A > 0")
    if not bool(ended.any()):
        return "no dual clip: punished at every r up to 20"
    first = int(ended.nonzero()[0])
    if not bool(ended[first:].all()):
        back = found.ratio[first:][~ended[first:]][0]
        raise ViolationError(
            f"at A = -1 the gradient ends at r = {float(found.ratio[first]):.3g} and is back at "
            f"r = {float(back):.3g}"
        )
    bound = _clip_edge(loss, found.ratio[first], "bad")
    return f"A < 0 bounded from r = {bound:.4g}, A > 0 not"


def _kept(loss: PolicyLoss, fields: probes.Fields) -> Tensor:
    """Which of the four probes of each entropy ratio keep their gradient, ``(N, 4)``."""
    return nonzero(loss, loss.push_of_advantage(fields).view(-1, 4))


def _is_open(loss: PolicyLoss, rho: Tensor, old_entropy: float = 1.0) -> Tensor:
    """Entropy ratios at which all four probes keep their gradient, ``(N,)``."""
    return _kept(loss, probes.rhos(rho, old_entropy)).all(-1)


def _gate(loss: PolicyLoss) -> tuple[Tensor, Tensor]:
    """Entropy ratios from 0.2 to 5, and where the gate is open.

    Raises:
        NotApplicable: the loss has no gate on entropies.
    """
    require_given(loss, "entropy", "entropies")
    grid = torch.logspace(math.log10(0.2), math.log10(5), 401, dtype=torch.float64)
    moved = probes.rhos(grid)
    still = probes.changed(moved, entropy=moved["old_entropy"])
    kept = _kept(loss, moved)
    if bool(kept.any()) and torch.equal(kept, _kept(loss, still)):
        raise NotApplicable("no gate on entropies: rho from 0.2 to 5 makes no difference")
    return grid, kept.all(-1)


def _band(loss: PolicyLoss) -> tuple[float, float]:
    """The entropy ratios between which nothing is dropped.

    Raises:
        NotApplicable: the gate has no such band.
    """
    rho, is_open = _gate(loss)
    if not bool(_is_open(loss, torch.ones(1, dtype=torch.float64)).all()):
        raise NotApplicable("the gate is not open at rho = 1, which gate_band is about")
    low, high = rho[(rho < 1) & ~is_open], rho[(rho > 1) & ~is_open]
    if not len(low) or not len(high):
        raise NotApplicable("the gate is open on one side")
    edges = [_edge(lambda grid: ~_is_open(loss, grid), closed) for closed in (low[-1], high[0])]
    if not all(edge.settled for edge in edges):
        raise NotApplicable("where it closes depends on the other tokens of the batch")
    lower, upper = ((edge.last_open + edge.first_closed) / 2 for edge in edges)
    return lower, upper


@prop(
    catches="a gate that drops the token from the loss's value or its denominator",
    mend="stop the gradient only: torch.where(keep, loss, loss.detach()), divided by the whole mask",
)
def gate_value(loss: PolicyLoss) -> str:
    """A gate on entropies changes no value: a dropped token still counts in loss and denominator.

    Otherwise dropping some tokens would raise the weight of the others.
    """
    _gate(loss)
    fields = probes.tokens()
    far = probes.changed(fields, entropy=3 * fields["old_entropy"])
    near = probes.changed(fields, entropy=fields["old_entropy"])
    bonus = loss.evaluate(near, "entropy").gradient["entropy"]  # its value moves with the entropy
    moved = (bonus * (far["entropy"] - near["entropy"])).sum()
    expected, found = loss.evaluate(near).loss + moved, loss.evaluate(far).loss
    gap = require_equal(loss, "every entropy tripled", expected, found)
    return f"relative change {gap:.1e} with every token gated"


@prop(
    catches="a band with its sign turned: tokens inside it are dropped",
    mend="keep where 1 - low < rho < 1 + high",
)
def gate_band(loss: PolicyLoss) -> str:
    """A gate on entropies keeps rho = 1 and a band around it, and drops both sides of the band.

    On-policy, rho is 1 and nothing may be dropped. A token farther out than a dropped one is dropped too.
    """
    rho, is_open = _gate(loss)
    near = torch.tensor([1.0, 1 - 1e-4, 1 + 1e-4], dtype=torch.float64)
    if not bool(_is_open(loss, near).all()):
        raise ViolationError("gradients are dropped at rho = 1 or within 1e-4 of it")
    below, above = (rho < 1).nonzero().flatten(), (rho > 1).nonzero().flatten()
    for word, outward in (("below", below.flip(0)), ("above", above)):
        kept = is_open[outward]
        if bool(kept.all()):
            raise ViolationError(
                f"the band has no edge {word} 1: nothing is dropped as far as "
                f"rho = {float(rho[outward[-1]]):g}"
            )
        first = int((~kept).nonzero()[0])
        if bool(kept[first:].any()):
            raise ViolationError(f"{word} 1 the gate opens again farther out than it closed")
    low, high = _band(loss)
    return f"keeps {low:.6f} < rho < {high:.6f}"


@prop(
    catches="old and new entropy swapped in the ratio, or a band on their difference",
    mend="gate on rho = H / H_old, new over old, with low below 1 and high above",
)
def gate_direction(loss: PolicyLoss) -> str:
    """The band is on rho = new / old: its edges are 1 - low and 1 + high, not 1/(1 + high) and 1/(1 - low).

    low and high are the loss's own parameters (band_low, band_high) or those of --band. Where
    neither is given, a symmetric band is expected.
    """
    low, high = _band(loss)
    told = f"closes at {low:.6f} and {high:.6f}"
    for old_entropy in (0.2, 3.0):
        probe = torch.tensor([low - 1e-4, low + 1e-4, high - 1e-4, high + 1e-4]).double()
        if _is_open(loss, probe, old_entropy).tolist() != [False, True, True, False]:
            raise ViolationError(
                f"{told} where H_old = 1, and elsewhere where H_old = {old_entropy:g}: the band is "
                "not on the ratio of the entropies"
            )

    def closes_at(lower: float, upper: float) -> bool:
        return max(abs(low - lower), abs(high - upper)) < 1e-5

    if loss.band is None:
        if abs((1 - low) - (high - 1)) < 1e-5:
            return f"{told}: symmetric in new / old"
        if abs((1 / high - 1) + (1 / low - 1)) < 1e-5:
            raise ViolationError(f"{told}: symmetric in old / new; the ratio is upside down")
        raise NotApplicable(
            f"{told}, not symmetric; give the band it should have with --band LOW HIGH"
        )
    below, above = loss.band
    if closes_at(1 - below, 1 + above):
        return f"{told}, as declared"
    hint = ""
    if closes_at(1 - above, 1 + below):
        hint = ": low and high are swapped"
    elif below < 1 and closes_at(1 / (1 + above), 1 / (1 - below)):
        hint = ": old and new are swapped"
    raise ViolationError(f"{told} instead of {1 - below:.6f} and {1 + above:.6f}{hint}")
