"""Which fields of a batch an objective looks at."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.objectives import Objective

__all__ = ["WHOLE_DISTRIBUTIONS", "fields_read", "require_fields"]

#: What a trainer of language models does not keep: one number per token and action.
WHOLE_DISTRIBUTIONS = frozenset({"log_probs", "old_log_probs", "ref_log_probs"})

_OPTIONAL = frozenset(
    {"entropy", "old_entropy", "action", "ref_logp", "rollout_logp", "reward"}
) | WHOLE_DISTRIBUTIONS  # fmt: skip


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
