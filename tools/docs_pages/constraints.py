"""Which move of the policy each objective constrains, found by probing it with such moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from erc_bench.core import drift
from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import entropy, entropy_ratio
from erc_bench.objectives import Objective, make
from erc_bench.objectives.gates.selection import covariance
from tools.docs_pages.probe import SAMPLED, Token, distribution, gradient_weights

__all__ = ["PROBES", "Cell", "Probe", "cell", "cells", "facts"]

Responses = list[list[Token]]


@dataclass(frozen=True)
class Probe:
    """One move of the policy away from the one that made the rollout.

    Attributes:
        name: heads a column.
        build: makes the responses for an advantage; the first token of the first one is probed.
        what: describes the move in a sentence.
        signs: advantages for which the move exists.
    """

    name: str
    build: Callable[[float], Responses]
    what: str
    signs: tuple[float, ...] = (1.0, -1.0)

    @cached_property
    def on_policy(self) -> bool:
        """Whether the policies are the same, as in the first minibatch after a rollout."""
        tokens = (token for row in self.build(self.signs[0]) for token in row)
        return all(torch.equal(token.old, token.new) for token in tokens)

    @property
    def quantity(self) -> str:
        """What the move changes; three probes change the ratio."""
        return "ratio" if self.name.startswith("ratio ") else self.name.removesuffix(" moved")


@dataclass(frozen=True)
class Cell:
    """Share of the unconstrained gradient ``r A`` that is left, for each sign of the advantage.

    ``beyond`` says whether a penalty moves the other actions too.
    """

    shares: tuple[float, ...]
    beyond: bool

    @property
    def active(self) -> bool:
        """Whether the objective differs from the importance-weighted one, in two digits."""
        return self.beyond or any(abs(share - 1) > 0.005 for share in self.shares)

    def __str__(self) -> str:
        """``-`` where nothing is constrained; the share for A > 0 before that for A < 0 if they differ."""
        if not self.active:
            return "-"
        texts = [f"{round(share, 2) + 0.0:g}" for share in self.shares]
        return " / ".join(dict.fromkeys(texts)) + ("†" if self.beyond else "")


def cell(objective: Objective, probe: Probe) -> Cell:
    """What the objective leaves of the probed token's gradient."""
    shares, beyond = [], False
    for sign in probe.signs:
        responses = probe.build(sign)
        found = gradient_weights(objective, responses)
        shares.append((found.weight / (sign * responses[0][0].ratio)).item())
        beyond |= found.beyond.item() > 1e-9
    return Cell(tuple(shares), beyond)


@cache
def cells(name: str) -> dict[str, Cell]:
    """What a recipe with its defaults leaves of the gradient, by the name of the probe."""
    return {probe.name: cell(make(name), probe) for probe in PROBES}


def facts(probe: Probe) -> dict[str, str]:
    """How far the probed token has moved, by each measure, for each sign of the advantage."""
    rows = [_distances(probe.build(sign)) for sign in probe.signs]
    return {name: " / ".join(dict.fromkeys(row[name] for row in rows)) for name in rows[0]}


def _distances(responses: Responses) -> dict[str, str]:
    token = responses[0][0]
    probabilities = token.old.exp(), token.new.exp()
    log_ratios = torch.stack([t.new[SAMPLED] - t.old[SAMPLED] for t in responses[0]])
    numbers = {
        "r": token.ratio,
        "s": log_ratios.mean().exp(),
        "pi_old": probabilities[0][SAMPLED],
        "pi": probabilities[1][SAMPLED],
        "rho": entropy_ratio(entropy(token.new), entropy(token.old)),
        "KL": drift.kl_exact(token.old, token.new),
        "TV": drift.tv(token.old, token.new),
        "cov": _covariance(responses),
    }
    return {name: f"{float(x) + 0.0:.3g}" for name, x in numbers.items()}


def _covariance(responses: Responses) -> Tensor:
    tokens = [[(t.new[SAMPLED], t.old[SAMPLED], t.advantage) for t in row] for row in responses]
    logp, old_logp, advantage = torch.tensor(tokens, dtype=torch.float64).unbind(-1)
    mask = torch.ones_like(logp, dtype=torch.bool)
    found = covariance(TokenBatch(logp, old_logp, advantage, mask))[0, 0]
    # Rounding errors are no covariance.
    return found.round(decimals=9)


@cache
def _policy(probability: float, nats: float) -> Tensor:
    return distribution(torch.tensor(probability).double(), torch.tensor(nats).double())


_USUAL = _policy(0.1, 1.2)


def _token(old: tuple[float, float], new: tuple[float, float], advantage: float) -> Token:
    """A token that goes from one probability and entropy to another."""
    return Token(_policy(*old), _policy(*new), advantage)


def _among(first: list[Token], *, rewarded: bool = False, uncertain: bool = False) -> Responses:
    """The probed response, then nine that did not move.

    Usually seven of them are like the probed token but with less entropy, so that the probed token's
    covariance is small, and another one has the highest. If ``rewarded``, the others are unlikely, and
    the probed token has the highest covariance. If ``uncertain``, the others have more entropy.
    """
    new = first[0].new
    nats = float(entropy(new)) * (1.3 if uncertain else 0.76)
    policy = _policy(0.01 if rewarded else new[SAMPLED].exp().item(), nats)
    rows = [[Token(policy, policy)] * len(first) for _ in range(7)]
    for advantage, probability in ((3.0, 0.9), (-3.0, 0.02)):
        extreme = policy if rewarded else _policy(probability, 0.5)
        rows.append([Token(extreme, extreme, 0.0 if rewarded else advantage)] * len(first))
    return [first, *rows]


def _still(advantage: float, mismatch: float = 0.0) -> Token:
    return Token(_USUAL, _USUAL, advantage, mismatch)


def _rare_ratio(ratio: float, advantage: float) -> Responses:
    """A rare token's ratio; the other tokens of its response make up for it."""
    p, nats = 0.0025, 1.2
    back = _token((p, nats), (p * ratio ** (-1 / 3), nats), advantage)
    return _among([_token((p, nats), (p * ratio, nats), advantage), back, back, back])


def _others_ratio(advantage: float) -> Responses:
    ratio = 1.5 if advantage > 0 else 0.6
    other = _token((0.1, 1.2), (0.1 * ratio, 1.2), advantage)
    return _among([_still(advantage), other, other, other])


def _entropy_moved(advantage: float, rho: float) -> Responses:
    return _among([_token((0.1, 1.2), (0.1, 1.2 * rho), advantage)])


def _swapped(advantage: float, one: int, other: int) -> Responses:
    """Two other actions, by rank of their probability, exchange them."""
    new = _USUAL.clone()
    new[[one, other]] = _USUAL[[other, one]]
    return _among([Token(_USUAL, new, advantage)])


def _likely_moved(advantage: float) -> Responses:
    moved = ((0.77, 0.57), (0.922, 0.57)) if advantage > 0 else ((0.8, 0.9), (0.645, 0.9))
    return _among([_token(*moved, advantage)])


PROBES = (
    Probe("usual", lambda a: _among([_still(a)]), "Nothing has moved."),
    Probe(
        "covariance",
        lambda a: _among([_still(a)], rewarded=True),
        "Nothing has moved; the token has the highest covariance of advantage and log-probability.",
        (1.0,),
    ),
    Probe(
        "low entropy",
        lambda a: _among([_still(a)], uncertain=True),
        "Nothing has moved; most other tokens have more entropy.",
    ),
    Probe(
        "rollout mismatch",
        lambda a: _among([_still(a, math.log(3))]),
        "Nothing has moved, but the sampling engine's probability was a third of the old policy's.",
    ),
    Probe(
        "ratio out",
        lambda a: _rare_ratio(2.0 if a > 0 else 0.5, a),
        "The token's ratio has left the clip range the way its gradient goes; its response's has not.",
    ),
    Probe(
        "ratio back",
        lambda a: _rare_ratio(0.5 if a > 0 else 2.0, a),
        "The token's ratio has left the clip range against its gradient.",
    ),
    Probe(
        "ratio far",
        lambda a: _rare_ratio(6.0, a),
        "The token has become far likelier and is punished.",
        (-1.0,),
    ),
    Probe(
        "response's ratio",
        _others_ratio,
        "Only the other tokens of the response have moved, the way their gradient goes.",
    ),
    Probe(
        "covariance moved",
        lambda a: _among([_token((0.1, 1.2), (0.11, 1.2), a)], rewarded=True),
        "The ratio has moved inside the clip range; the token has the highest covariance.",
        (1.0,),
    ),
    Probe(
        "entropy out",
        lambda a: _entropy_moved(a, 1.06 if a > 0 else 0.94),
        "The entropy has left the band, and the gradient leads further out.",
    ),
    Probe(
        "entropy back",
        lambda a: _entropy_moved(a, 0.94 if a > 0 else 1.06),
        "The entropy has left the band, and the gradient leads back.",
    ),
    Probe(
        "small swap",
        lambda a: _swapped(a, 3, 5),
        "Two unlikely other actions have exchanged their probabilities: KL sees it, TV hardly.",
    ),
    Probe(
        "large swap",
        lambda a: _swapped(a, 1, 2),
        "Two likely other actions have exchanged theirs: neither ratio nor entropy has moved.",
    ),
    Probe(
        "probability",
        _likely_moved,
        "A likely token's probability has moved by more than 0.15, its ratio by less than 20 %.",
    ),
)
