"""Medians and 95 % intervals over seeds as tidy tables, and the runs with what figures 7, 8 and 10 add."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from erc_bench.analysis.statistics import median_intervals
from erc_bench.presentation.plots.frames import Frames, NothingToDraw

REWARD, KL = "final_reward", "mean/drift/kl_exact"
BASE = "dapo"  # the arm without a gate that sweeps compare with


def column(runs: pd.DataFrame, name: str) -> pd.Series:
    """A column as finite floats; NaN everywhere where the records lack it."""
    if name not in runs:
        return pd.Series(math.nan, runs.index)
    values = runs[name].astype(float)
    return values.where(np.isfinite(values))


def over_seeds(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Median and 95 % interval over seeds: one row per group, with the columns ``by`` first.

    Rows of one group and seed count as one observation, their mean.
    """
    by = list(by)
    values = table.assign(value=column(table, value))
    per_seed = values.groupby([*by, "seed"], dropna=False)["value"].mean().reset_index()
    group = per_seed.groupby(by, dropna=False).ngroup()
    seed, seeds = pd.factorize(per_seed["seed"])
    matrix = np.full((len(seeds), group.nunique()), math.nan)
    matrix[seed, group] = per_seed["value"]
    estimate, low, high, n = median_intervals(matrix)
    found = per_seed.assign(group=group).drop_duplicates("group").sort_values("group")[by]
    return found.assign(estimate=estimate, low=low, high=high, n=n).reset_index(drop=True)


def paired_over_seeds(
    base: pd.DataFrame,
    other: pd.DataFrame,
    on: list[str],
    by: list[str],
    value: str,
    *,
    log: bool = False,
) -> pd.DataFrame:
    """The same of ``other - base`` on the seeds of both, or of the logarithm of their ratio.

    Runs are paired that agree in ``on`` and seed; ``by`` (of ``other``) are the groups. A value that
    is not positive has no logarithm and leaves its pair out.
    """
    a, b = (runs.assign(value=column(runs, value)) for runs in (base, other))
    if log:
        a, b = (r.assign(value=np.log(r["value"].where(r["value"] > 0))) for r in (a, b))
    keys = [*on, "seed"]
    of_base = a.groupby(keys, dropna=False)["value"].mean().rename("base").reset_index()
    pairs = b.merge(of_base, on=keys, how="inner")
    return over_seeds(pairs.assign(difference=pairs["value"] - pairs["base"]), by, "difference")


def runs_of(frames: Frames, experiment: str, needed: Sequence[str] = ()) -> pd.DataFrame:
    """The runs of an experiment with three columns more.

    ``recipe`` is the recipe of the arm; ``final_reward`` the return after training, 0 for a diverged
    run; ``updates`` the updates made on each rollout, minibatches times epochs.

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
    recipes = {label: arm.recipe for label, arm in frames.arms(experiment).items()}
    runs = runs.assign(
        recipe=runs["objective"].astype(str).map(recipes),
        final_reward=final_reward(runs),
        updates=updates,
    )
    for name in (REWARD, *needed):
        if column(runs, name).isna().all():
            raise NothingToDraw(f"{experiment}: no values of {name}")
    return runs


def final_reward(runs: pd.DataFrame) -> pd.Series:
    """The return after training; 0 for a diverged run, which is a failure."""
    return runs["reward/final"].astype(float).where(~runs["diverged"].astype(bool), 0.0)
