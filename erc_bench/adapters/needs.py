"""What an objective reads of a batch, found before training starts: by trying it on two tokens."""

from __future__ import annotations

from collections.abc import Collection

import torch

from erc_bench.batch import TokenBatch
from erc_bench.errors import InputError
from erc_bench.objectives import Objective

__all__ = ["require_fields"]


def require_fields(objective: Objective, available: Collection[str], *, by: str) -> None:
    """Refuse an objective that reads more of a batch than a trainer can give.

    Args:
        objective: what is to be trained with.
        available: optional fields of ``TokenBatch`` that the trainer gives.
        by: the trainer, for the message.

    Raises:
        InputError: names the field and the piece that needs it.

    >>> from erc_bench.objectives import make
    >>> require_fields(make("erc-dapo"), ["entropy", "old_entropy"], by="TRL")
    >>> require_fields(make("kl-gate-dapo"), ["entropy", "old_entropy"], by="TRL")
    Traceback (most recent call last):
    erc_bench.errors.InputError: objective: TRL gives no old_log_probs, but KLTrustRegion needs it
    """
    shape = (1, 2)
    whole = torch.full((*shape, 2), 0.5).log()
    given = {
        "entropy": torch.ones(shape), "old_entropy": torch.ones(shape),
        "action": torch.zeros(shape, dtype=torch.long), "ref_logp": -torch.ones(shape),
        "rollout_logp": -torch.ones(shape), "reward": torch.ones(1),
        "log_probs": whole, "old_log_probs": whole,
    }  # fmt: skip
    batch = TokenBatch(
        logp=-torch.ones(shape),
        old_logp=-torch.ones(shape),
        advantage=torch.ones(shape),
        mask=torch.ones(shape),
        **{name: value for name, value in given.items() if name in available},
    )
    try:
        objective(batch)
    except ValueError as error:
        field, missing, needed = str(error).partition(": not given, but ")
        if not missing:
            raise
        name = field.removeprefix("TokenBatch.")
        raise InputError(f"objective: {by} gives no {name}, but {needed}") from None
