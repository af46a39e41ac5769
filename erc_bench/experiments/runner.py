"""Carry out a plan: train every part, store its records, resume what was interrupted."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch

from erc_bench.errors import InputError
from erc_bench.experiments.plan import CLIP, ExperimentPlan, Part, Plan
from erc_bench.records import REQUIRED, Results, Table
from erc_bench.trainer import Arm, Trainer, TrainResult

__all__ = ["execute", "total_rollouts"]

#: Seconds between two looks at, and two notes of, a worker's progress.
PROGRESS_SECONDS = 0.2


def total_rollouts(plan: Plan) -> int:
    """Length of the progress bar: rollouts of all parts."""
    return sum(len(p.parts) * p.config.rollouts for p in plan.experiments)


def execute(
    plan: Plan,
    out: Path | str,
    *,
    resume: bool = False,
    workers: int = 1,
    on_progress: Callable[[str, int], None] = lambda *_: None,
) -> Results:
    """Train what is not done yet and store it.

    Parts are independent and each is computed on one thread, so that records do not depend on the
    number of workers; the largest go first.

    Args:
        plan: the work.
        out: results folder; new or empty, or with ``resume`` one made from the same plan.
        resume: go on in an existing folder.
        workers: processes; 1 works in this one.
        on_progress: called with an experiment's name and how many more of its rollouts are done.

    Raises:
        InputError: the folder cannot be used; nothing was done.
    """
    if workers < 1:
        raise InputError(f"workers: {workers} is not allowed; must be at least 1")
    results = Results.create(out, plan.config(), resume=resume)
    todo: list[tuple[ExperimentPlan, Part]] = []
    for experiment in plan.experiments:
        for part in experiment.parts:
            if results.done(part.name):
                on_progress(experiment.experiment.name, experiment.config.rollouts)
            else:
                todo.append((experiment, part))
    todo.sort(key=lambda work: -work[0].cost(work[1]))
    if workers == 1 or len(todo) < 2:
        for experiment, part in todo:
            run_part(experiment, part, plan.seed, results, on_progress)
    else:
        _in_parallel(todo, plan.seed, results, min(workers, len(todo)), on_progress)
    for folder in ("checkpoints", "progress"):
        shutil.rmtree(results.path / folder, ignore_errors=True)
    return results


def run_part(
    experiment: ExperimentPlan,
    part: Part,
    seed: int,
    results: Results,
    on_progress: Callable[[str, int], None],
) -> None:
    """Train one part on one thread, from its checkpoint if there is one, and store its records."""
    checkpoint = results.path / "checkpoints" / f"{part.name}.safetensors"
    seen = 0

    def tick(done: int) -> None:
        nonlocal seen
        on_progress(experiment.experiment.name, done - seen)
        seen = done

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainer = build_trainer(experiment, part, seed)
        result = trainer.run(on_rollout=tick, checkpoint_path=checkpoint)
    finally:
        torch.set_num_threads(threads)
    results.write_part(part.name, tables(experiment, part, result))
    checkpoint.unlink(missing_ok=True)


def _in_worker(experiment: ExperimentPlan, part: Part, seed: int, results: Results) -> None:
    """:func:`run_part` in another process, which tells its progress through a small file."""
    told = results.path / "progress" / part.name
    done, last = 0, 0.0

    def on_progress(_: str, advance: int) -> None:
        nonlocal done, last
        done += advance
        if time.monotonic() - last > PROGRESS_SECONDS or done == experiment.config.rollouts:
            told.write_text(str(done))
            last = time.monotonic()

    run_part(experiment, part, seed, results, on_progress)


def _in_parallel(
    todo: list[tuple[ExperimentPlan, Part]],
    seed: int,
    results: Results,
    workers: int,
    on_progress: Callable[[str, int], None],
) -> None:
    """Spread parts over processes and pass their progress on."""
    folder = results.path / "progress"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    seen: dict[str, int] = {}
    finished = threading.Event()

    def look() -> None:
        for experiment, part in todo:
            try:
                done = int((folder / part.name).read_text() or 0)
            except (FileNotFoundError, ValueError):  # not started, or caught in mid-write
                continue
            on_progress(experiment.experiment.name, done - seen.get(part.name, 0))
            seen[part.name] = done

    def watch() -> None:
        while not finished.wait(PROGRESS_SECONDS):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        joblib.Parallel(n_jobs=workers, batch_size=1, pre_dispatch="all")(
            joblib.delayed(_in_worker)(experiment, part, seed, results) for experiment, part in todo
        )
    finally:
        finished.set()
        watcher.join()
    look()


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
