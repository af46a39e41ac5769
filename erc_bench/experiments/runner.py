"""Carry out a plan: train every part, store its records, resume what was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from erc_bench.experiments.plan import CLIP, ExperimentPlan, Part, Plan
from erc_bench.records import REQUIRED, Results, Table
from erc_bench.trainer import Arm, Trainer, TrainResult

__all__ = ["execute", "total_rollouts"]


def total_rollouts(plan: Plan) -> int:
    """Length of the progress bar: rollouts of all parts."""
    return sum(len(p.parts) * p.config.rollouts for p in plan.experiments)


def execute(
    plan: Plan,
    out: Path | str,
    *,
    resume: bool = False,
    on_progress: Callable[[str, int], None] = lambda *_: None,
) -> Results:
    """Train what is not done yet and store it.

    Args:
        plan: the work.
        out: results folder; new or empty, or with ``resume`` one made from the same plan.
        resume: go on in an existing folder.
        on_progress: called with an experiment's name and how many more of its rollouts are done.

    Raises:
        InputError: the folder cannot be used; nothing was done.
    """
    results = Results.create(out, plan.config(), resume=resume)
    for experiment in plan.experiments:
        name = experiment.experiment.name
        for part in experiment.parts:
            if results.done(part.name):
                on_progress(name, experiment.config.rollouts)
                continue
            checkpoint = results.path / "checkpoints" / f"{part.name}.safetensors"
            seen = 0

            def tick(done: int, name: str = name) -> None:
                nonlocal seen
                on_progress(name, done - seen)
                seen = done

            trainer = build_trainer(experiment, part, plan.seed)
            result = trainer.run(on_rollout=tick, checkpoint_path=checkpoint)
            results.write_part(part.name, tables(experiment, part, result))
            checkpoint.unlink(missing_ok=True)
    folder = results.path / "checkpoints"
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return results


def build_trainer(experiment: ExperimentPlan, part: Part, seed: int) -> Trainer:
    """The population of one part: every arm on the part's seeds."""
    environment = experiment.environment
    return Trainer(
        experiment.config,
        environment.get_wrapper_attr("dynamics"),
        environment.observation_space,
        [
            Arm(
                label=arm.label,
                objective=arm.objective,
                advantage=arm.recipe.advantage,
                seeds=list(part.seeds),
                dynamic_sampling=arm.recipe.dynamic_sampling,
                overlong_penalty=arm.recipe.overlong_penalty,
            )
            for arm in experiment.arms
        ],
        seed=seed,
        clip=CLIP,
        band=experiment.band,
    )


def tables(
    experiment: ExperimentPlan, part: Part, result: TrainResult
) -> dict[Table, pd.DataFrame]:
    """The trainer's arrays as the records' tables, run after run."""
    labels = [arm.label for arm in experiment.arms for _ in part.seeds]
    seeds = [seed for _ in experiment.arms for seed in part.seeds]
    dynamics = experiment.environment.get_wrapper_attr("dynamics")

    def keyed(columns: dict[str, Any], repeat: int) -> pd.DataFrame:
        keys = {
            "experiment": experiment.experiment.name,
            "environment": experiment.experiment.environment,
            "objective": np.repeat(labels, repeat),
            "seed": np.repeat(seeds, repeat),
        }
        return pd.DataFrame({**keys, **columns})

    runs = keyed({**result.runs, "reward/optimal": float(dynamics.optimal_return)}, 1)
    updates = len(result.metrics["rollout"])
    by_update = {name: rows.T.reshape(-1) for name, rows in sorted(result.metrics.items())}
    update = np.tile(np.arange(updates), len(labels))
    metrics = keyed({"update": update, **by_update}, updates)
    return {"runs": runs, "metrics": metrics, "tokens": _tokens(keyed, result, updates)}


def _tokens(
    keyed: Callable[[dict[str, Any], int], pd.DataFrame], result: TrainResult, updates: int
) -> pd.DataFrame:
    """``(updates, R, samples, ...)`` arrays as rows ordered by run, update, sample."""
    columns: dict[str, Any] = {}
    samples = result.tokens["action"].shape[2] if result.tokens else 0
    for name, rows in sorted(result.tokens.items()):
        by_run = np.moveaxis(rows, 1, 0).reshape(-1, *rows.shape[3:])
        columns[name] = list(by_run) if by_run.ndim > 1 else by_run
    if not samples:
        return pd.DataFrame({c: [] for c in REQUIRED["tokens"]})
    runs = result.tokens["action"].shape[1]
    columns["update"] = np.tile(np.repeat(np.arange(updates), samples), runs)
    staleness = np.repeat(result.metrics["staleness"].T.reshape(-1), samples)
    columns["staleness"] = staleness
    return keyed(columns, updates * samples)
