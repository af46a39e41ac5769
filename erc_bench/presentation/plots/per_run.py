"""One row per run: what figures 7, 8 and 10 read of the runs table, and paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from erc_bench.presentation.plots.frames import Frames, NothingToDraw, band

__all__ = ["KL", "REWARD", "column", "group_bands", "mark_fraction", "paired_bands", "runs_of"]

REWARD, KL = "final_reward", "mean/drift/kl_exact"


def runs_of(frames: Frames, experiment: str, needed: Sequence[str] = ()) -> pd.DataFrame:
    """The runs of an experiment with three columns more.

    ``recipe`` is the label up to its settings; ``final_reward`` the return after training, 0 for a
    diverged run; ``updates`` the updates made on each rollout, minibatches times epochs.

    Raises:
        NothingToDraw: the experiment did not run, or a column in ``needed`` has no finite value.
    """
    runs = frames.runs[frames.runs["experiment"] == experiment]
    if runs.empty:
        raise NothingToDraw(f"no runs of the experiment {experiment}")
    train = frames.about(experiment).get("train")
    train = train if isinstance(train, dict) else {}
    updates = pd.Series(1.0, runs.index)
    for name, default in (("minibatches", 8), ("epochs", 1)):
        updates *= column(runs, f"hyper/{name}").fillna(float(train.get(name, default)))
    failed = runs["diverged"].astype(bool)
    runs = runs.assign(
        recipe=runs["objective"].str.partition(":")[0],
        final_reward=runs["reward/final"].astype(float).where(~failed, 0.0),
        updates=updates,
    )
    for name in (REWARD, *needed):
        if not np.isfinite(column(runs, name)).any():
            raise NothingToDraw(f"{experiment}: no values of {name}")
    return runs


def column(runs: pd.DataFrame, name: str) -> pd.Series:
    """A column as floats; NaN everywhere where the records lack it."""
    if name not in runs:
        return pd.Series(math.nan, runs.index)
    return runs[name].astype(float)


def group_bands(runs: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Mean and 95 % interval over seeds of a value: one row per group, keys as columns.

    Runs of one group and seed count as one observation, their mean.
    """
    per_seed = runs.assign(value=column(runs, value)).groupby([*by, "seed"], dropna=False)
    return _over_seeds(per_seed["value"].mean().reset_index(), by)


def paired_bands(
    base: pd.DataFrame, other: pd.DataFrame, on: list[str], by: list[str], value: str, *,
    log: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Mean and 95 % interval over paired seeds of ``other - base``, or of the log of their ratio.

    Runs are paired that agree in ``on`` and seed; ``by`` (of ``other``) are the groups. A value that
    is not positive has no logarithm and leaves its pair out.
    """
    keys = [*on, "seed"]
    a, b = (runs.assign(value=column(runs, value)) for runs in (base, other))
    if log:
        a, b = (r.assign(value=np.log(r["value"].where(r["value"] > 0))) for r in (a, b))
    a = a.groupby(keys, dropna=False)["value"].mean().rename("base").reset_index()
    pairs = b.merge(a, on=keys, how="inner")
    pairs["value"] = pairs["value"] - pairs["base"]
    per_seed = pairs.groupby(list(dict.fromkeys([*by, "seed"])), dropna=False)["value"].mean()
    return _over_seeds(per_seed.reset_index(), by)


def _over_seeds(per_seed: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    rows = []
    for key, group in per_seed.groupby(by, dropna=False):
        interval = band(group["value"].to_numpy()[:, None])
        rows.append(interval.assign(**dict(zip(by, key, strict=True))))
    if not rows:
        return pd.DataFrame(columns=[*by, "mean", "low", "high", "n"])
    found = pd.concat(rows, ignore_index=True)
    return found[[*by, "mean", "low", "high", "n"]]


def mark_fraction(place: int, count: int, width: float) -> float:
    """Offset of the ``place``-th of ``count`` marks that share a tick, in a span of ``width``."""
    return 0.0 if count == 1 else width * (place / (count - 1) - 0.5)
