"""From other names of metrics to ours, and rows of a log to a table with an update in each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from erc_bench.errors import InputError

__all__ = ["METRICS", "TRL", "VERL", "LoggedRun", "tabulate"]

#: Our columns that a log may have, beside the loss's terms.
METRICS = (
    "reward/mean", "grad/norm", "drift/entropy_old", "drift/entropy_new", "drift/kl_k3",
    "drift/out_of_band_fraction", "clip/ratio_bound_fraction", "clip/ratio_outside_fraction",
    "gate/dropped_fraction",
)  # fmt: skip
#: TRL's names (GRPOTrainer) of what we measure, ours first where a log has both.
TRL = {
    "reward": "reward/mean",
    "grad_norm": "grad/norm",
    "entropy": "drift/entropy_new",
    "clip_ratio/region_mean": "clip/ratio_bound_fraction",
    "num_tokens": "tokens",
}
#: verl's names. Its clip fraction counts the dual clip apart.
VERL = {
    "critic/score/mean": "reward/mean",
    "actor/grad_norm": "grad/norm",
    "actor/entropy": "drift/entropy_old",
    "actor/pg_clipfrac": "clip/ratio_bound_fraction",
}


@dataclass(frozen=True)
class LoggedRun:
    """One run's log, as our metrics table has it.

    Attributes:
        environment: the trainer, as ``TRL`` or ``verl``.
        metrics: a row per entry of the log: ``rollout``, ``update``, ``staleness``, ``tokens`` and
            metrics under our names; NaN where the log has none.
        source: the file.
    """

    environment: str
    metrics: pd.DataFrame
    source: str


def _ours(entry: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    """An entry under our names; what is neither ours nor has a name of ours is left out."""
    found = {ours: entry[theirs] for theirs, ours in names.items() if theirs in entry}
    for key, value in entry.items():
        name = key.removeprefix("actor/")
        if name in METRICS or name.startswith("loss/") or name in ("rollout", "staleness"):
            found[name] = value
    return found


def tabulate(
    entries: Sequence[tuple[int, Mapping[str, float]]],
    names: Mapping[str, str],
    *,
    environment: str,
    source: str,
) -> LoggedRun:
    """Rows of a log, ``(step, metrics)`` with steps from 1, to a run.

    A rollout begins where its reward is logged, unless the log says ``rollout`` and ``staleness``.

    Raises:
        InputError: no entry has a metric that we know, or steps do not increase.
    """
    rows = [{"step": step, **_ours(entry, names)} for step, entry in entries]
    table = pd.DataFrame(rows, dtype=np.float64)
    known = [name for name in table.columns if name in METRICS]
    if table.empty or not known or table[known].isna().all().all():
        raise InputError(f"log: {source} has no metric that is known (such as {', '.join(names)})")
    steps = table.pop("step")
    if (steps.diff().dropna() <= 0).any():
        raise InputError(f"log: {source}: steps do not increase; it holds more than one run")
    table = table.reindex(columns=[*table.columns.union([*METRICS, "tokens"], sort=False)])
    if "rollout" not in table or "staleness" not in table or table["rollout"].isna().any():
        began = table["reward/mean"].notna().to_numpy()
        if not began.any():
            began[:] = True
        table["rollout"] = np.maximum(began.cumsum() - 1, 0)
        table["staleness"] = table.groupby("rollout").cumcount()
    table["update"] = steps - 1
    table["reward/mean"] = table.groupby("rollout")["reward/mean"].ffill()
    table["tokens"] = table["tokens"].ffill()
    if table["tokens"].isna().all():
        table["tokens"] = table["rollout"] + 1.0
    trained = table[["grad/norm", "drift/entropy_new"]]
    table["diverged"] = ~np.isfinite(trained.where(trained.notna(), 0.0)).all(axis=1)
    whole = {name: table[name].astype(np.int64) for name in ("rollout", "update", "staleness")}
    return LoggedRun(environment, table.assign(**whole), source)


def finite(value: object) -> float:
    """A number of a log; NaN for what is none (a word, a list, nothing)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value)
