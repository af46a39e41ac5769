"""Logged runs as a results folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from erc_bench.adapters.logs.runs import LoggedRun
from erc_bench.core.errors import InputError
from erc_bench.studies.records import KEYS, REQUIRED, Results, Table

__all__ = ["write_records"]


def write_records(
    out: Path | str,
    runs: Mapping[tuple[str, int], LoggedRun],
    *,
    experiment: str,
    settings: Mapping[str, Any] | None = None,
    evaluations: Mapping[tuple[str, int], tuple[float, float]] | None = None,
) -> Results:
    """Store logged runs as one experiment of a results folder; figures 2 to 4 are drawn from it.

    A log holds no evaluation. Without ``evaluations``, ``reward/initial`` and ``reward/final`` are the
    mean rewards of the first and last rollout. ``entropy/initial`` and ``entropy/final`` are the
    policy's mean entropy there, and ``reward/optimal`` is NaN. A log holds no single tokens either, so
    figures of tokens are left out.

    Args:
        out: results folder; must be new or empty.
        runs: by the objective's label and the seed.
        experiment: name of the experiment.
        settings: entered in the configuration; ``clip`` and ``band``, as ``{"low": 0.2, "high":
            0.28}``, are what figures show.
        evaluations: mean rewards before and after training, where they were measured apart.

    Raises:
        InputError: there are no runs, a label or name is empty, or the folder is not.
    """
    if not runs:
        raise InputError("runs: none given")
    if not experiment.strip():
        raise InputError(f"experiment: {experiment!r}, must be a name")
    for label, seed in runs:
        if not label.strip() or isinstance(seed, bool) or seed < 0:
            raise InputError(
                f"runs: {label!r}:{seed}, must be an objective and a seed of 0 or more"
            )
    ends = {
        key: {"reward/initial": before, "reward/final": after}
        for key, (before, after) in (evaluations or {}).items()
    }
    results = Results.create(out, {"experiments": {experiment: _about(runs, settings or {})}})
    tables: dict[Table, pd.DataFrame] = {
        "runs": pd.DataFrame(
            [
                _keys(experiment, key, run) | _summary(run.metrics) | ends.get(key, {})
                for key, run in runs.items()
            ]
        ),
        "metrics": pd.concat(
            [run.metrics.assign(**_keys(experiment, key, run)) for key, run in runs.items()],
            ignore_index=True,
        ),
        "tokens": _no_tokens(),
    }
    results.write_part("imported", tables)
    return results


def _about(
    runs: Mapping[tuple[str, int], LoggedRun], settings: Mapping[str, Any]
) -> dict[str, Any]:
    imported = [
        {"objective": label, "seed": seed, "source": Path(run.source).name, "names": {**run.names}}
        for (label, seed), run in runs.items()
    ]
    about = {**settings, "imported": imported}
    try:
        json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"settings: not plain finite JSON values ({error})") from None
    return about


def _keys(experiment: str, key: tuple[str, int], run: LoggedRun) -> dict[str, Any]:
    return dict(zip(KEYS, (experiment, run.environment, *key), strict=True))


def _summary(metrics: pd.DataFrame) -> dict[str, float | bool]:
    """As much of a run's row of ``runs`` as its metrics tell."""
    rollouts = metrics.drop_duplicates("rollout")["reward/mean"].to_numpy()
    before = metrics["drift/entropy_old"].fillna(metrics["drift/entropy_new"])
    return {
        "reward/initial": _end(rollouts, 0),
        "reward/final": _end(rollouts, -1),
        "reward/optimal": math.nan,
        "entropy/initial": _end(before.to_numpy(), 0),
        "entropy/final": _end(metrics["drift/entropy_new"].to_numpy(), -1),
        "tokens": _end(metrics["tokens"].to_numpy(), -1),
        "diverged": bool(metrics["diverged"].any()),
    }


def _end(values: np.ndarray, index: int) -> float:
    """The first or last finite value; NaN without any."""
    finite = values[np.isfinite(values)]
    return float(finite[index]) if len(finite) else math.nan


def _no_tokens() -> pd.DataFrame:
    """The table of tokens without a row, its columns of the types that others have."""
    kinds: dict[str, str] = dict.fromkeys(KEYS[:3], "str")
    kinds |= dict.fromkeys(("seed", "update", "staleness", "position", "action"), "int64")
    kinds |= dict.fromkeys(("clip_bound", "gate_dropped"), "bool")
    columns = [c for c in REQUIRED["tokens"] if not c.startswith("probs/")]
    return pd.DataFrame({c: pd.Series(dtype=kinds.get(c, "float64")) for c in columns})
