"""Gradient weight against the ratio, and against the entropy ratio, on consistent distributions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from erc_bench.objectives import Objective, make
from tools.docs_pages.probe import Token, distribution, gradient_weights

__all__ = ["ENTROPY", "PROBABILITIES", "VISIBLE", "Panel", "as_json", "measure"]

Array = NDArray[np.float64]

#: Probabilities of the sampled action under the old policy; the second is drawn where it makes a difference.
PROBABILITIES = (0.1, 0.4)
#: Entropy of the old policy in nats, and the largest sampled probability at which it is possible.
ENTROPY, LIKELIEST = 1.2, 0.79
POINTS = 241
#: Smaller differences of weights get no panel.
VISIBLE = 0.02
LIMITS = {"r": (0.02, 2.4), "rho": (0.8, 1.25)}
#: Objectives whose clip lies outside the usual limits of ``r``, or too close to 1 to be seen in them.
OWN_LIMITS = {"gspo": (0.9985, 1.0015), "cispo": (0.02, 6.0), "dual-clip": (0.02, 4.0)}


@dataclass(frozen=True)
class Panel:
    """Weights along one axis, for tokens with one probability under the old policy.

    Attributes:
        axis: ``r`` or ``rho``.
        probability: of the sampled action under the old policy.
        x: points of the axis, ``(N,)``.
        weights: at advantages of +1 and of -1, ``(2, N)``; NaN where there is no such policy.
    """

    axis: str
    probability: float
    x: Array
    weights: Array


@cache
def context() -> list[list[Token]]:
    """Nine other responses of one token, for objectives that choose among a batch's tokens.

    Their advantage is 0 and their log-probability -4.2, unchanged. Eight have less entropy, at most 0.9 of
    the probed token's, and one has more. So the probed token is among the fifth of highest entropy from
    ``rho = 0.9`` on, and at a positive advantage it has the highest covariance, 1.4 at ``r = 1``.
    """
    rare = torch.tensor(-4.2, dtype=torch.float64).exp()
    nats = [*torch.linspace(0.3, 0.9 * ENTROPY, 8).tolist(), 1.9]
    policies = [distribution(rare, torch.tensor(h)) for h in nats]
    return [[Token(policy, policy)] for policy in policies]


@cache
def measure(name: str) -> tuple[Panel, ...]:
    """Panels of a recipe with its defaults: over ``r``, and over ``rho`` where that matters.

    Along ``r`` the entropy stays, along ``rho`` the sampled probability stays; the rest of the
    distribution gives way. So exact divergences are those of real policies. The second probability
    has panels of its own where it makes a difference that can be seen.
    """
    objective = make(name)
    panels = []
    for axis, usual in LIMITS.items():
        limits = OWN_LIMITS.get(name, usual) if axis == "r" else usual
        first, second = (_panel(objective, axis, limits, p) for p in PROBABILITIES)
        if axis == "r" or any((np.ptp(p.weights, axis=1) > VISIBLE).any() for p in (first, second)):
            differ = (np.abs(first.weights - second.weights) > VISIBLE).any()
            panels += [first, second] if differ else [first]
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
    others = context() if objective.over_batch else []
    weights = np.full((2, POINTS), np.nan)
    for row, advantage in zip(weights, (1.0, -1.0), strict=True):
        responses = [[Token(old, new, advantage)], *others]
        row[possible.numpy()] = gradient_weights(objective, responses).weight.numpy()
    return Panel(axis, probability, np.linspace(*limits, POINTS), weights)


def as_json(panels: Sequence[Panel]) -> str:
    """The numbers behind a figure, to six decimals; null where there is no such policy."""

    def plain(values: Array) -> list[float | None]:
        return [None if np.isnan(v) else round(v, 6) + 0.0 for v in values.tolist()]

    found = [
        {
            "axis": p.axis,
            "old_probability": p.probability,
            "x": plain(p.x),
            "A > 0": plain(p.weights[0]),
            "A < 0": plain(p.weights[1]),
        }
        for p in panels
    ]
    return json.dumps(found, separators=(",", ":")) + "\n"
