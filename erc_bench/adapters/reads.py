"""What other people's trainers keep of a batch: which fields an objective reads, what drift they show."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from erc_bench.core import metrics
from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.core.numerics import entropy_ratio, k3
from erc_bench.objectives import EntropyRatio, Objective

__all__ = ["BAND", "WHOLE_DISTRIBUTIONS", "drift_shares", "fields_read", "require_fields"]

#: The paper's band, which ``drift/out_of_band_fraction`` is measured against.
BAND = EntropyRatio(*metrics.BAND)
#: Trainers of language models do not keep these: they have one number per token and action.
WHOLE_DISTRIBUTIONS = frozenset({"log_probs", "old_log_probs", "ref_log_probs"})

_OPTIONAL = WHOLE_DISTRIBUTIONS | {
    "entropy",
    "old_entropy",
    "action",
    "ref_logp",
    "rollout_logp",
    "reward",
}


class _Watched(TokenBatch):
    """A batch that notes which optional fields were asked for."""

    def __getattribute__(self, name: str) -> Any:
        if name in _OPTIONAL:
            self.__dict__.setdefault("seen", set()).add(name)
        return super().__getattribute__(name)


def fields_read(objective: Objective) -> frozenset[str]:
    """Optional fields of :class:`TokenBatch` that a call of the objective looks at.

    Found by calling it once on a batch that has them all.

    >>> from erc_bench.objectives import make
    >>> sorted(fields_read(make("erc-dapo")))
    ['entropy', 'old_entropy']
    >>> sorted(fields_read(make("kl-gate-dapo")))
    ['log_probs', 'old_log_probs']
    """
    per_token = torch.full((1, 2), -1.0)
    whole = torch.full((1, 2, 2), 0.5).log()
    batch = _Watched(
        logp=per_token,
        old_logp=per_token,
        advantage=per_token,
        mask=torch.ones(1, 2, dtype=torch.bool),
        entropy=-per_token,
        old_entropy=-per_token,
        action=torch.zeros(1, 2, dtype=torch.long),
        log_probs=whole,
        old_log_probs=whole,
        ref_logp=per_token,
        ref_log_probs=whole,
        rollout_logp=per_token,
        reward=torch.ones(1),
    )
    batch.__dict__.pop("seen", None)
    objective(batch)
    return frozenset(batch.__dict__.get("seen", ()))


def require_fields(objective: Objective, available: Collection[str], *, by: str) -> None:
    """Refuse an objective that reads more of a batch than a trainer keeps, before it trains.

    Args:
        objective: what is to be trained with.
        available: optional fields of ``TokenBatch`` that the trainer keeps.
        by: the trainer, for the message.

    Raises:
        InputError: names the fields.

    >>> from erc_bench.objectives import make
    >>> require_fields(make("erc-dapo"), ["entropy", "old_entropy"], by="TRL")
    >>> require_fields(make("kl-gate-dapo"), ["entropy", "old_entropy"], by="TRL")
    Traceback (most recent call last):
    erc_bench.core.errors.InputError: objective: reads log_probs, old_log_probs, which TRL does not keep
    """
    missing = sorted(fields_read(objective) - set(available))
    if missing:
        raise InputError(f"objective: reads {', '.join(missing)}, which {by} does not keep")


@torch.no_grad()
def drift_shares(batch: TokenBatch, tokens: Tensor, band: EntropyRatio = BAND) -> dict[str, Tensor]:
    """Drift that can be measured without whole distributions, as sums over the batch / ``tokens``.

    Shares of one mini-batch add up over its micro-batches and ranks, as losses do.

    Args:
        batch: with ``entropy`` and ``old_entropy``, tensors ``(B, T)``.
        tokens: number of tokens to divide by, at least 1.
        band: outside which a token counts for ``drift/out_of_band_fraction``.

    Returns:
        ``drift/out_of_band_fraction``, ``drift/entropy_old``, ``drift/entropy_new`` and
        ``drift/kl_k3`` (nats).
    """
    old = batch.require("old_entropy", by="the drift metrics")
    new = batch.require("entropy", by="the drift metrics").detach()
    rho = entropy_ratio(new, old, band.eps)
    per_token = {
        "drift/out_of_band_fraction": ~((rho > 1 - band.low) & (rho < 1 + band.high)),
        "drift/entropy_old": old,
        "drift/entropy_new": new,
        "drift/kl_k3": k3(batch.log_ratio.detach()),
    }
    return {
        name: torch.where(batch.mask, value.to(new), 0.0).sum() / tokens.clamp(min=1)
        for name, value in per_token.items()
    }
