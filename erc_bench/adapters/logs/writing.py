"""Logged runs to a results folder that figures, report and claims read as they read toys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from erc_bench.adapters.logs.names import LoggedRun
from erc_bench.records import REQUIRED, Results

__all__ = ["write_records"]


def write_records(
    out: Path | str,
    runs: Mapping[tuple[str, int], LoggedRun],
    *,
    experiment: str,
    settings: Mapping[str, Any] | None = None,
    evaluations: Mapping[tuple[str, int], tuple[float, float]] | None = None,
) -> Results:
    """Store runs as one experiment's records.

    Logs keep no single tokens: that table stays empty, and figures that show tokens are left out.

    Args:
        out: a new or empty folder.
        runs: by objective's label and seed.
        experiment: its name in figures.
        settings: for the manifest.
        evaluations: reward before and after training, where it was measured apart; else the first
            and the last rollout's mean reward.

    Raises:
        InputError: the folder holds something else.
    """
    entry = {"regime": "paper", "grid": {}, "settings": dict(settings or {})}
    config = {
        "experiments": {experiment: entry},
        "sources": {f"{name}:{seed}": run.source for (name, seed), run in runs.items()},
    }
    results = Results.create(out, config)
    metrics = pd.concat(
        [
            run.metrics.assign(
                experiment=experiment, environment=run.environment, objective=name, seed=seed
            )
            for (name, seed), run in runs.items()
        ],
        ignore_index=True,
    )
    rows = [
        _summary(run, (evaluations or {}).get(key))
        | {
            "experiment": experiment, "environment": run.environment,
            "objective": key[0], "seed": key[1],
        }
        for key, run in runs.items()
    ]  # fmt: skip
    results.write_part(
        "logs", {"runs": pd.DataFrame(rows), "metrics": metrics, "tokens": _no_tokens()}
    )
    return results


def _summary(run: LoggedRun, evaluation: tuple[float, float] | None) -> dict[str, Any]:
    """The row of the runs table; an optimum of 1 is that of a verifiable reward."""
    metrics = run.metrics
    rewards, entropies = (metrics[name].dropna() for name in ("reward/mean", "drift/entropy_new"))
    first, last = evaluation or _ends(rewards)
    initial, final = _ends(entropies)
    row: dict[str, Any] = {
        "reward/initial": first, "reward/final": last, "reward/optimal": 1.0,
        "entropy/initial": initial, "entropy/final": final,
        "tokens": float(metrics["tokens"].max()), "diverged": bool(metrics["diverged"].any()),
    }  # fmt: skip
    for name in metrics.columns:
        if "/" in name:
            values = metrics[name][np.isfinite(metrics[name])]
            row[f"mean/{name}"] = float(values.mean()) if len(values) else math.nan
    for name in ("grad/norm", "drift/entropy_new"):
        values = metrics[name][np.isfinite(metrics[name])]
        row[f"std/{name}"] = float(values.std()) if len(values) > 1 else math.nan
        steps = values.diff().dropna()
        row[f"jitter/{name}"] = math.sqrt((steps**2).mean() / 2) if len(steps) else math.nan
    return row


def _ends(values: pd.Series) -> tuple[float, float]:
    return (float(values.iloc[0]), float(values.iloc[-1])) if len(values) else (math.nan, math.nan)


def _no_tokens() -> pd.DataFrame:
    """The tokens table without a row; columns of the types that readers expect."""
    words = ("experiment", "environment", "objective")
    flags = ("clip_bound", "gate_dropped")
    columns: dict[str, pd.Series] = {}
    for name in REQUIRED["tokens"]:
        if not name.startswith("probs/"):
            kind = "str" if name in words else "bool" if name in flags else "float64"
            columns[name] = pd.Series([], dtype=kind)
    return pd.DataFrame(columns)
