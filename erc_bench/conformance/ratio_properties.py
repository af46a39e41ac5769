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
from erc_bench.conformance.comparing import require_equal, require_finite, token
from erc_bench.conformance.losses import PolicyLoss
from erc_bench.conformance.registry import NotApplicable, ViolationError, prop

__all__: list[str] = []

#: Ratios at which a clip must not act; clips on sequence ratios are as narrow as 3e-4 (GSPO).
NEAR = torch.linspace(0.91, 1.09, 37, dtype=torch.float64)
NEAR_SEQUENCE = torch.linspace(1 - 1e-4, 1 + 1e-4, 21, dtype=torch.float64)

#: A dual clip, which bounds the punishment at r > c, may act only above this ratio.
SMALLEST_DUAL_CLIP = 2.0

#: Gradients below this share of the largest one count as zero.
_ZERO = 1e-14


class _Factors(NamedTuple):
    """Strength of the push in the advantage's direction, ``-A dL/dlogp``, by ratio."""

    fields: probes.Fields
    ratio: Tensor
    good: Tensor  # at A = 1
    bad: Tensor  # at A = -1


def _factors(loss: PolicyLoss, grid: Tensor) -> _Factors:
    fields = probes.ratios(grid)
    push = -(loss.push_of_advantage(fields) * fields["advantage"]).squeeze(-1)
    push = torch.where(push.abs() > _ZERO * push.abs().max(), push, 0.0)
    return _Factors(fields, grid, push[: len(grid)], push[len(grid) :])


def _wide() -> Tensor:
    return torch.logspace(math.log10(0.05), math.log10(20), 241, dtype=torch.float64)


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


def _clip_edge(loss: PolicyLoss, clipped: Tensor, side: Literal["good", "bad"]) -> float:
    """The ratio nearest to 1 without a gradient, searched for from one that has none."""
    return _edge(lambda grid: getattr(_factors(loss, grid), side) == 0, clipped).first_closed


@prop(catches="a clip range turned inside out, which clips on-policy")
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


@prop(catches="max where min belongs: the clip keeps tokens from coming back")
def clip_restoring_side(loss: PolicyLoss) -> str:
    """Gradients that bring r back towards 1 are kept: r < 1 at A > 0, and r > 1 at A < 0.

    At A < 0 a dual clip may end them above some c of at least 2. A token that has left the trust
    region and has no gradient back stays outside.
    """
    found = _factors(loss, _wide())
    low = found.ratio[(found.ratio < 1) & (found.good == 0)]
    if len(low):
        raise ViolationError(
            f"no gradient at r = {float(low[-1]):.4g}, A = 1, where the advantage pulls r back up; "
            "a clip there needs min(r A, clip(r) A)"
        )
    high = found.ratio[(found.ratio > 1) & (found.ratio < SMALLEST_DUAL_CLIP) & (found.bad == 0)]
    if len(high):
        raise ViolationError(
            f"no gradient at r = {float(high[0]):.4g}, A = -1, where the advantage pulls r back down"
        )
    up = down = "never clipped"
    if len(over := found.ratio[(found.good == 0) & (found.ratio > 1)]):
        up = f"clipped from r = {_clip_edge(loss, over[0], 'good'):.4g}"
    if len(under := found.ratio[(found.bad == 0) & (found.ratio < 1)]):
        down = f"up to r = {_clip_edge(loss, under[-1], 'bad'):.4g}"
    return f"kept; A > 0 {up}, A < 0 {down}"


@prop(catches="a dual clip that acts at A > 0")
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
    push = loss.push_of_advantage(fields).view(-1, 4)
    return push.abs() > _ZERO * push.abs().max()


def _is_open(loss: PolicyLoss, rho: Tensor) -> Tensor:
    """Entropy ratios at which all four probes keep their gradient, ``(N,)``."""
    return _kept(loss, probes.rhos(rho)).all(-1)


def _require_entropies(loss: PolicyLoss) -> None:
    if "entropy" not in loss.reads:
        raise NotApplicable("the loss is given no entropies")


def _gate(loss: PolicyLoss) -> tuple[Tensor, Tensor]:
    """Entropy ratios from 0.2 to 5, and where the gate is open.

    Raises:
        NotApplicable: the loss has no gate on entropies.
    """
    _require_entropies(loss)
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


@prop(catches="an entropy that carries a gradient into a gate or a weight")
def entropy_gradient(loss: PolicyLoss) -> str:
    """No gradient flows through the entropy, which a gate may only read.

    A gradient through a gate or a weight would train the entropy instead. A loss with an entropy
    bonus breaks the rule on purpose and needs a waiver.
    """
    _require_entropies(loss)
    fields = probes.tokens()
    gradient = loss.evaluate(fields, "entropy").gradient["entropy"]
    if bool((gradient != 0).any()):
        row, column = (gradient != 0).nonzero()[0].tolist()
        raise ViolationError(
            f"dL/dH = {float(gradient[row, column]):.4g} at {token(fields, row, column)}; detach it"
        )
    return "no gradient"


@prop(catches="a gate that drops the token from the loss's value or its denominator")
def gate_value(loss: PolicyLoss) -> str:
    """A gate on entropies changes no value: a dropped token still counts in loss and denominator.

    Otherwise dropping some tokens would raise the weight of the others.
    """
    _gate(loss)
    fields = probes.tokens()
    far = probes.changed(fields, entropy=3 * fields["old_entropy"])
    near = probes.changed(fields, entropy=fields["old_entropy"])
    gap = require_equal("every entropy tripled", loss.evaluate(near).loss, loss.evaluate(far).loss)
    return f"relative change {gap:.1e} with every token gated"


@prop(catches="a band with its sign turned: tokens inside it are dropped")
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


@prop(catches="old and new entropy swapped in the ratio")
def gate_direction(loss: PolicyLoss) -> str:
    """The band is on rho = new / old: its edges are 1 - low and 1 + high, not 1/(1 + high) and 1/(1 - low).

    low and high are the loss's own parameters (band_low, band_high) or those of --band. Where
    neither is given, a symmetric band is expected.
    """
    low, high = _band(loss)
    told = f"closes at {low:.6f} and {high:.6f}"

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


@prop(catches="an entropy ratio of 0 / 0")
def zero_entropy(loss: PolicyLoss) -> str:
    """Entropies of zero give finite losses and gradients; zero before and after is no change.

    Most tokens of a trained model are nearly certain, so their entropies are nearly zero.
    """
    _require_entropies(loss)
    fields = probes.row_advantage(probes.on_policy(probes.tokens()))
    zero = torch.zeros_like(fields["entropy"])
    for case, entropies in (
        ("H = H_old = 0", {"entropy": zero, "old_entropy": zero}),
        ("H = 0", {"entropy": zero}),
        ("H_old = 0", {"old_entropy": zero}),
    ):
        require_finite(loss.evaluate(probes.changed(fields, **entropies)), fields, case)
    both = probes.changed(fields, entropy=zero, old_entropy=zero)
    lost = (loss.push(both) == 0) & (loss.push(fields) != 0)
    if bool(lost.any()):
        place = token(fields, *lost.nonzero()[0].tolist())
        raise ViolationError(f"H = H_old = 0: the gradient is dropped at {place}")
    return "finite; H = H_old = 0 keeps its gradient"
