"""What training leaves behind: a log of per-update arrays, and tokens recorded whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from erc_bench.core import drift
from erc_bench.core.batch import TokenBatch
from erc_bench.objectives.base import Objective

__all__ = ["MAX_RECORDED_ACTIONS", "Log", "enter", "sample_tokens"]

#: With more actions than this, whole distributions are not recorded.
MAX_RECORDED_ACTIONS = 64


class Log:
    """Named arrays that grow by one row per update."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, list[Tensor]]] = {"metrics": {}, "tokens": {}}

    def append(self, table: str, row: Mapping[str, Tensor]) -> None:
        """Add one row; every row of a table has the same names, and its arrays do not change."""
        columns = self.tables[table]
        if columns and columns.keys() != row.keys():
            raise KeyError(f"{table}: columns differ by {sorted(columns.keys() ^ row.keys())}")
        for name, value in row.items():
            columns.setdefault(name, []).append(value)

    def stacked(self, table: str) -> dict[str, NDArray[Any]]:
        """All rows, stacked along a new first axis."""
        return {name: torch.stack(rows).numpy() for name, rows in self.tables[table].items()}

    def tensors(self) -> dict[str, Tensor]:
        """All tables as ``table.name``, for a checkpoint."""
        return {
            f"{table}.{name}": torch.from_numpy(rows)
            for table in self.tables
            for name, rows in self.stacked(table).items()
        }

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> Log:
        """The log whose :meth:`tensors` these were."""
        log = cls()
        for key, rows in tensors.items():
            table, _, name = key.partition(".")
            log.tables[table][name] = list(rows.unbind())
        return log


def enter(
    row: dict[str, Tensor], measured: Mapping[str, Tensor], runs: slice, like: Tensor
) -> None:
    """Put what some runs measured, ``(r,)`` each, into a row for all runs, shaped as ``like``; else NaN."""
    for name, value in measured.items():
        if len(value) == len(like):
            row[name] = value
        else:
            row.setdefault(name, torch.full_like(like, torch.nan))[runs] = value


@torch.no_grad()
def sample_tokens(
    batch: TokenBatch,
    objectives: Sequence[Objective],
    slices: Sequence[slice],
    uniform: Tensor,
) -> dict[str, Tensor]:
    """Draw tokens uniformly among the unmasked ones of a batch, with everything that is known of them.

    Args:
        batch: of all runs, ``(R, B, T)``, with whole distributions.
        objectives: of every arm; they tell what the clip and the gate do with each token.
        slices: the runs of each arm.
        uniform: ``(R, S)`` in [0, 1), one for each token to draw.

    Returns:
        Columns of the ``tokens`` table, ``(R, S)`` or ``(R, S, V)``.
    """
    bound = torch.zeros_like(batch.mask)
    dropped = torch.zeros_like(batch.mask)
    for objective, runs in zip(objectives, slices, strict=True):
        bound[runs] = objective.bound(batch[runs])
        dropped[runs] = ~objective.keep(batch[runs])

    horizon = batch.mask.shape[-1]
    count = batch.mask.flatten(1).cumsum(-1)
    wanted = (uniform * count[:, -1:]).long()
    index = torch.searchsorted(count, wanted, right=True).clamp(max=count.shape[-1] - 1)

    def pick(x: Tensor) -> Tensor:
        flat = x.flatten(1, 2)
        return flat.take_along_dim(index.view(*index.shape, *[1] * (flat.ndim - 2)), dim=1)

    action = pick(batch.require("action", by="sample_tokens"))
    old = pick(batch.require("old_log_probs", by="sample_tokens"))
    new = pick(batch.require("log_probs", by="sample_tokens"))
    log_ratio = pick(batch.logp) - pick(batch.old_logp)
    entropy_old = pick(batch.require("old_entropy", by="sample_tokens"))
    entropy_new = pick(batch.require("entropy", by="sample_tokens"))
    columns = {
        "position": index % horizon,
        "action": action,
        "advantage": pick(batch.advantage),
        "prob/old": pick(batch.old_logp).exp(),
        "prob/new": pick(batch.logp).exp(),
        "log_ratio": log_ratio,
        "entropy/old": entropy_old,
        "entropy/new": entropy_new,
        "log_entropy_ratio": drift.entropy_ratio(entropy_new, entropy_old).log(),
        "kl_exact": drift.kl_exact(old, new),
        "tv": drift.tv(old, new),
        "clip_bound": pick(bound),
        "gate_dropped": pick(dropped),
    }
    if old.shape[-1] <= MAX_RECORDED_ACTIONS:
        columns |= {"probs/old": old.exp(), "probs/new": new.exp()}
    return columns
