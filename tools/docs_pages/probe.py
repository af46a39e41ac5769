"""What an objective does with one token: its gradient weight, by autograd through real batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.core.numerics import entropy
from erc_bench.objectives import Objective

__all__ = ["SAMPLED", "VOCABULARY", "Token", "Weights", "distribution", "gradient_weights"]

VOCABULARY = 64
#: Index of the sampled action in every distribution.
SAMPLED = 0
_BISECTIONS = 80


def distribution(probability: Tensor, nats: Tensor) -> Tensor:
    """Log-probabilities of a policy with this probability of the sampled action and this entropy.

    The other actions are a softmax of ``-0, -1, -2, ...`` at the temperature that gives the entropy.

    Args:
        probability: of action ``SAMPLED``, ``(...)``, in (0, 1).
        nats: entropy, ``(...)``.

    Returns:
        ``(..., V)``, float64.

    Raises:
        InputError: no temperature gives this entropy.

    >>> p = distribution(torch.tensor(0.1), torch.tensor(1.2))
    >>> round(p[SAMPLED].exp().item(), 6), round(entropy(p).item(), 6)
    (0.1, 1.2)
    """
    p = probability.double() + torch.zeros_like(nats)
    nats = nats.double() + torch.zeros_like(p)
    own = torch.special.entr(p) + torch.special.entr(1 - p)
    wanted = (nats - own) / (1 - p)
    rank = torch.arange(VOCABULARY - 1, dtype=torch.float64)
    low, high = torch.full_like(p, -9.0), torch.full_like(p, 18.0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        too_low = entropy((-rank / middle.exp().unsqueeze(-1)).log_softmax(-1)) < wanted
        low, high = torch.where(too_low, middle, low), torch.where(too_low, high, middle)
    rest = (-rank / high.exp().unsqueeze(-1)).log_softmax(-1)
    if not torch.allclose(entropy(rest), wanted, rtol=0, atol=1e-9):
        raise InputError("distribution: no policy has this probability and this entropy")
    return torch.cat([p.log().unsqueeze(-1), torch.log1p(-p).unsqueeze(-1) + rest], -1)


@dataclass(frozen=True)
class Token:
    """Old and new policy at one token, ``(..., V)``, and its advantage; the sampled action was drawn.

    ``mismatch`` is the log-ratio of the old policy to the engine that drew the action.
    """

    old: Tensor
    new: Tensor
    advantage: float = 0.0
    mismatch: float = 0.0

    @property
    def ratio(self) -> Tensor:
        """``r``, ``(...)``."""
        return (self.new[..., SAMPLED] - self.old[..., SAMPLED]).exp()


class Weights(NamedTuple):
    """Of the probed token: its gradient weight, and what the loss does beyond it, both ``(...)``."""

    weight: Tensor
    beyond: Tensor


def gradient_weights(objective: Objective, responses: list[list[Token]]) -> Weights:
    """Gradient weight of the first token of the first response.

    With ``z`` the token's logits and ``w`` the weight of the token in the objective's aggregate,

        weight = d(-loss)/dz_a / (d log pi_a/dz_a) / w,

    the number in front of ``grad log pi`` when the sampled action's logit moves: ``A`` for the policy
    gradient, ``r A`` for the importance-weighted one. ``beyond`` is the norm of the rest of the gradient,
    which is zero unless a penalty acts on the other actions too.

    Args:
        objective: the one that is probed.
        responses: of equal numbers of tokens; leading axes ``(R,)`` are runs of their own.
    """
    runs = max((t.new.shape[:-1] for row in responses for t in row), key=len)

    def stacked(name: str) -> Tensor:
        policies = [[getattr(t, name) for t in row] for row in responses]
        rows = [torch.stack([p.expand(*runs, VOCABULARY) for p in row], -2) for row in policies]
        return torch.stack(rows, -3)

    def numbers(name: str) -> Tensor:
        rows = torch.tensor([[getattr(t, name) for t in row] for row in responses])
        return rows.double().expand(values.shape[:-1]).contiguous()

    values, old = stacked("new"), stacked("old")
    logits = values.clone().requires_grad_()
    gradient_of = logits.log_softmax(-1)
    # The values are the given ones exactly: rounding must not turn a ratio of 1 into something else.
    log_probs = values + (gradient_of - gradient_of.detach())
    advantage = numbers("advantage")
    batch = TokenBatch(
        logp=log_probs[..., SAMPLED],
        old_logp=old[..., SAMPLED],
        advantage=advantage,
        mask=torch.ones_like(advantage, dtype=torch.bool),
        entropy=entropy(log_probs),
        old_entropy=entropy(old),
        action=torch.full(advantage.shape, SAMPLED),
        log_probs=log_probs,
        old_log_probs=old,
        rollout_logp=old[..., SAMPLED] - numbers("mismatch"),
        ref_logp=old[..., SAMPLED],
        ref_log_probs=old,
        reward=torch.zeros(values.shape[:-2], dtype=torch.float64),
    )
    loss, _ = objective(batch)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    share = objective.aggregate.weights(batch.mask, torch.float64)[..., 0, 0]
    share = share / objective.aggregate.denominator(batch.mask)
    return _decomposed(-gradient[..., 0, 0, :] / share.unsqueeze(-1), values[..., 0, 0, :])


def _decomposed(ascent: Tensor, log_probs: Tensor) -> Weights:
    """``ascent = weight (e_a - pi) + the rest``, where the rest is zero at the sampled action."""
    score = -log_probs.exp()
    score[..., SAMPLED] += 1
    weight = ascent[..., SAMPLED] / score[..., SAMPLED]
    return Weights(weight, (ascent - weight.unsqueeze(-1) * score).norm(dim=-1))
