"""Gradient weight against the ratio, and against the entropy ratio, on consistent distributions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from erc_bench.docs_pages.probe import Token, distribution, gradient_weights
from erc_bench.objectives import Objective, make

__all__ = ["ENTROPY", "PROBABILITIES", "Panel", "measure"]

#: of the sampled action under the old policy; the second is drawn where it makes a difference
PROBABILITIES = (0.1, 0.4)
#: of the old policy, nats
ENTROPY = 1.2
#: sampled probability up to which this entropy is possible
LIKELIEST = 0.79
POINTS = 241
#: smaller differences of weights get no panel
VISIBLE = 0.02
RATIOS = (0.02, 2.4)
#: where a clip lies outside of it, or too close to 1 to be seen
_RATIOS = {"gspo": (0.9985, 1.0015), "cispo": (0.02, 6.0), "dual-clip": (0.02, 4.0)}
ENTROPY_RATIOS = (0.8, 1.25)


@dataclass(frozen=True)
class Panel:
    """Weights along one axis, for tokens with one probability under the old policy.

    Attributes:
        axis: ``r`` or ``rho``.
        probability: of the sampled action under the old policy.
        x: points of the axis.
        rewarded: weights at an advantage of +1; NaN where there is no such policy.
        punished: at -1.
    """

    axis: str
    probability: float
    x: tuple[float, ...]
    rewarded: tuple[float, ...]
    punished: tuple[float, ...]


@cache
def context() -> list[list[Token]]:
    """Nine other responses of one token, for objectives that choose among a batch's tokens.

    Advantage 0, log-probability -4.2, unchanged; eight of lower entropy, the highest 0.9 of the
    probed token's, one of higher. So the probed token is among the fifth of highest entropy from
    ``rho = 0.9`` on, and at a positive advantage it has the highest covariance, 1.4 at ``r = 1``.
    """
    rare = torch.tensor(-4.2, dtype=torch.float64).exp()
    nats = [*torch.linspace(0.3, 0.9 * ENTROPY, 8).tolist(), 1.9]
    policies = [distribution(rare, torch.tensor(h)) for h in nats]
    return [[Token(policy, policy)] for policy in policies]


def measure(name: str) -> tuple[Panel, ...]:
    """Panels of a recipe with its defaults: over ``r``, and over ``rho`` where that matters.

    Along ``r`` the entropy stays, along ``rho`` the sampled probability stays; the rest of the
    distribution gives way. So exact divergences are those of real policies. The second probability
    has panels of its own where it makes a difference that can be seen.
    """
    objective = make(name)
    panels = []
    for axis, limits in (("r", _RATIOS.get(name, RATIOS)), ("rho", ENTROPY_RATIOS)):
        first, second = (_panel(objective, axis, limits, p) for p in PROBABILITIES)
        if axis == "r" or _moves_at_all(first) or _moves_at_all(second):
            panels += [first, second] if _differ(first, second) else [first]
    return tuple(panels)


@cache
def _moves(
    axis: str, limits: tuple[float, float], probability: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Old policy, new policies, and which points of the axis have one."""
    x = torch.linspace(*limits, POINTS, dtype=torch.float64)
    old = distribution(torch.tensor(probability), torch.tensor(ENTROPY))
    if axis == "rho":
        new = distribution(torch.tensor(probability), ENTROPY * x)
        return old, new, torch.ones_like(x, dtype=torch.bool)
    possible = probability * x < LIKELIEST
    return old, distribution(probability * x[possible], torch.tensor(ENTROPY)), possible


def _panel(
    objective: Objective, axis: str, limits: tuple[float, float], probability: float
) -> Panel:
    old, new, possible = _moves(axis, limits, probability)
    found = []
    for advantage in (1.0, -1.0):
        responses = [[Token(old, new, advantage)], *context()]
        weights = torch.full(possible.shape, torch.nan, dtype=torch.float64)
        weights[possible] = gradient_weights(objective, responses).weight
        found.append(_rounded(weights))
    x = torch.linspace(*limits, POINTS, dtype=torch.float64)
    return Panel(axis, probability, _rounded(x), found[0], found[1])


def _moves_at_all(panel: Panel) -> bool:
    return any(max(w) - min(w) > VISIBLE for w in (panel.rewarded, panel.punished))


def _differ(one: Panel, other: Panel) -> bool:
    """Where both have a policy."""
    ours, theirs = (np.array([p.rewarded, p.punished]) for p in (one, other))
    return bool((np.abs(ours - theirs) > VISIBLE).any())


def _rounded(x: Tensor) -> tuple[float, ...]:
    """Six decimals, without a negative zero."""
    return tuple(round(v, 6) + 0.0 for v in x.tolist())
