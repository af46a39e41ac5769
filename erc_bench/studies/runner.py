"""Carry out a plan: train every part, store its records, and resume what was interrupted."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
import pandas as pd
import torch

from erc_bench import training
from erc_bench.core.errors import InputError
from erc_bench.core.metrics import CLIP
from erc_bench.core.validation import Count, checked
from erc_bench.objectives import Objective, Recipe, make
from erc_bench.studies.arms import Arm
from erc_bench.studies.planning import Plan
from erc_bench.studies.processes import end_with
from erc_bench.studies.records import REQUIRED, Results, Table
from erc_bench.studies.sizing import ExperimentPlan, Part
from erc_bench.studies.summaries import summaries
from erc_bench.training import TrainConfig, Trainer, TrainResult
from erc_bench.training.config import PER_RUN
from erc_bench.training.memory import give_back_freed_memory, keep_freed_memory

__all__ = ["Backend", "execute", "total_rollouts"]

Backend = Literal["loky", "ray"]

#: What a message says when the machine ended the work.
KEPT = "what is finished is kept: go on with the same command and --resume"
#: A worker writes down its progress, and its parent looks, this many seconds apart.
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
    backend: Backend = "loky",
    on_progress: Callable[[str, int], None] = lambda *_: None,
) -> Results:
    """Train what is not done yet and store it.

    Parts are independent and each is computed on one thread, so that records do not depend on the
    number of workers; the largest go first.

    Args:
        plan: the work.
        out: results folder; new or empty, or with ``resume`` one made from the same plan.
        resume: go on in an existing folder.
        workers: number of processes; 1 works in this one, unless the backend is a cluster.
        backend: ``loky``, processes of this machine, or ``ray``, a Ray cluster (started on this
            machine if there is none to join) whose nodes all see the folder ``out``.
        on_progress: called with an experiment's name and how many more of its rollouts are done.

    Raises:
        InputError: the folder cannot be used, another process writes to it, or Ray is missing: nothing
            was done. The folder could no longer be written to, or a worker was killed: what is
            finished is kept.
    """
    checked(Count, workers, at="workers")
    checked(Backend, backend, at="backend")
    if backend == "ray" and importlib.util.find_spec("ray") is None:
        raise InputError("backend: ray is not installed; pip install 'erc-bench[cluster]'")
    with (
        _what_the_machine_lacks(Path(out)),
        Results.claim(out, plan.config(), resume=resume) as results,
    ):
        _carry_out(plan, results, workers, backend, on_progress)
        for folder in ("checkpoints", "progress"):
            shutil.rmtree(results.path / folder, ignore_errors=True)
    return results


@contextlib.contextmanager
def _what_the_machine_lacks(path: Path) -> Iterator[None]:
    """Turn a full disk, too little memory or a killed worker into one line instead of a crash."""
    try:
        yield
    except BrokenPipeError:  # whoever reads our messages is gone, and the folder is not at fault
        raise
    except OSError as error:
        raise InputError(
            f"out: {path} can no longer be written to ({error.strerror or error}); {KEPT}"
        ) from error
    except BrokenExecutor as error:
        raise InputError(
            f"workers: one was killed, as happens when memory runs out; {KEPT}, or with fewer workers"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"memory: this machine has too little for these settings ({line}); {KEPT}, or with smaller "
            "settings in another folder"
        ) from error


def _carry_out(
    plan: Plan,
    results: Results,
    workers: int,
    backend: Backend,
    on_progress: Callable[[str, int], None],
) -> None:
    """Train every part that is not done, here or in workers."""
    todo: list[tuple[ExperimentPlan, Part]] = []
    for experiment in plan.experiments:
        for part in experiment.parts:
            if results.done(part.name):
                on_progress(experiment.experiment.name, experiment.config.rollouts)
            else:
                todo.append((experiment, part))
    todo.sort(key=lambda work: -work[0].cost(work[1]))
    if backend == "loky" and (workers == 1 or len(todo) < 2):
        for experiment, part in todo:
            run_part(experiment, part, plan.seed, results, on_progress)
    else:
        located = replace(results, path=results.path.resolve())  # workers may be elsewhere
        _in_parallel(todo, plan.seed, located, workers, backend, on_progress)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: populations are small, and other threads would change the rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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

    with one_thread():
        trainer = build_trainer(experiment, part, seed)
        result = trainer.run(on_rollout=tick, checkpoint_path=checkpoint)
    results.write_part(part.name, tables(experiment, part, result))
    checkpoint.unlink(missing_ok=True)


def _in_worker(experiment: ExperimentPlan, part: Part, seed: int, results: Results) -> None:
    """:func:`run_part` in another process, which writes its progress into a small file."""
    keep_freed_memory()
    told = results.path / "progress" / part.name
    done, last = 0, 0.0

    def on_progress(_: str, advance: int) -> None:
        nonlocal done, last
        done += advance
        if time.monotonic() - last > PROGRESS_SECONDS or done == experiment.config.rollouts:
            # If the disk is full, storing the records will say so.
            with contextlib.suppress(OSError):
                told.write_text(str(done))
            last = time.monotonic()

    run_part(experiment, part, seed, results, on_progress)
    give_back_freed_memory()


def _join_ray(workers: int) -> None:
    """Join the running Ray cluster, or start one of ``workers`` processes on this machine."""
    ray: Any = importlib.import_module("ray")
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False)
        except ConnectionError:
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    importlib.import_module("ray.util.joblib").register_ray()


def _in_parallel(
    todo: list[tuple[ExperimentPlan, Part]],
    seed: int,
    results: Results,
    workers: int,
    backend: Backend,
    on_progress: Callable[[str, int], None],
) -> None:
    """Spread parts over processes and pass their progress on."""
    folder = results.path / "progress"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    start: dict[str, Any] = {}
    if backend == "ray":
        _join_ray(workers)  # Ray ends its workers itself
    else:
        start = {"initializer": end_with, "initargs": (os.getpid(),)}
    seen: dict[str, int] = {}
    finished = threading.Event()

    def look() -> None:
        for experiment, part in todo:
            try:
                done = int((folder / part.name).read_text() or 0)
            except (FileNotFoundError, ValueError):  # it has not started, or is just being written
                continue
            on_progress(experiment.experiment.name, done - seen.get(part.name, 0))
            seen[part.name] = done

    def watch() -> None:
        while not finished.wait(PROGRESS_SECONDS):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with joblib.parallel_config(backend=backend, **start):
            joblib.Parallel(n_jobs=workers, batch_size=1, pre_dispatch="all")(
                joblib.delayed(_in_worker)(*work, seed, results) for work in todo
            )
    finally:
        finished.set()
        watcher.join()
    look()


def _by_recipe(experiment: ExperimentPlan, part: Part) -> dict[str, list[tuple[int, int]]]:
    """The part's runs by their recipe: runs of one recipe share one call of the objective."""
    groups: dict[str, list[tuple[int, int]]] = {}
    for arm, seed in sorted(part.runs):
        groups.setdefault(experiment.arms[arm].recipe.name, []).append((arm, seed))
    return groups


def _column(arms: list[Arm], name: str, default: float) -> float | torch.Tensor:
    """A hyperparameter over runs: a float if all agree, otherwise one value per run."""
    values = [arm.overrides.get(name, default) for arm in arms]
    if len(set(values)) == 1:
        return values[0]
    return torch.tensor(values, dtype=torch.float64)


def population_arm(
    label: str, objective: Objective, used: Recipe, seeds: Sequence[int], **more: Any
) -> training.Arm:
    """The trainer's arm for an objective, with the estimator, sampling and penalty of a recipe."""
    return training.Arm(
        label=label,
        objective=objective,
        advantage=used.advantage,
        seeds=seeds,
        dynamic_sampling=used.dynamic_sampling,
        overlong_penalty=used.overlong_penalty,
        reference=getattr(objective, "reads_reference", True),
        **more,
    )


def trainer_of(
    experiment: ExperimentPlan, config: TrainConfig, arms: Sequence[training.Arm], seed: int
) -> Trainer:
    """A trainer of these arms in an experiment's environment."""
    environment = experiment.environment
    dynamics = environment.get_wrapper_attr("dynamics")
    return Trainer(config, dynamics, environment.observation_space, arms, seed=seed, clip=CLIP)


def build_trainer(experiment: ExperimentPlan, part: Part, seed: int) -> Trainer:
    """The population of one part: runs of one recipe become one arm with per-run hyperparameters."""
    config = experiment.config_of(part)
    arms = []
    for name, runs in _by_recipe(experiment, part).items():
        planned = [experiment.arms[arm] for arm, _ in runs]
        used = planned[0].recipe
        changed = sorted({key for arm in planned for key in arm.parameters})
        objective = make(name, **{k: _column(planned, k, used.parameters[k]) for k in changed})
        settings = {k: torch.as_tensor(_column(planned, k, getattr(config, k))) for k in PER_RUN}
        seeds = [index for _, index in runs]
        arms.append(population_arm(name, objective, used, seeds, settings=settings))
    return trainer_of(experiment, config, arms, seed)


def tables(
    experiment: ExperimentPlan, part: Part, result: TrainResult
) -> dict[Table, pd.DataFrame]:
    """The trainer's arrays as the records' tables, run after run in the order of the arms."""
    runs = [run for group in _by_recipe(experiment, part).values() for run in group]
    order = sorted(range(len(runs)), key=runs.__getitem__)
    labels = [experiment.arms[runs[i][0]].label for i in order]
    seeds = [runs[i][1] for i in order]
    dynamics = experiment.environment.get_wrapper_attr("dynamics")

    def keyed(columns: dict[str, Any], repeat: int) -> pd.DataFrame:
        keys = {
            "experiment": experiment.experiment.name,
            "environment": experiment.experiment.environment,
            "objective": np.repeat(labels, repeat),
            "seed": np.repeat(seeds, repeat),
        }
        return pd.DataFrame({**keys, **columns})

    per_run: dict[str, Any] = {n: values[order] for n, values in sorted(result.runs.items())}
    overrides = [experiment.arms[runs[i][0]].overrides for i in order]
    for name in sorted({key for arm in experiment.arms for key in arm.overrides}):
        per_run[f"hyper/{name}"] = [own.get(name, math.nan) for own in overrides]
    # The best policy is that of the final evaluation, whose prompts were held out.
    per_run["reward/optimal"] = float(dynamics.at(1.0).held_out().optimal_return)
    per_run |= {n: values[order] for n, values in sorted(summaries(result.metrics).items())}
    rows = keyed(per_run, 1)
    rows["score"] = experiment.experiment.score(rows)
    updates = len(result.metrics["rollout"])
    by_update = {
        name: rows[:, order].T.reshape(-1) for name, rows in sorted(result.metrics.items())
    }
    update = np.tile(np.arange(updates), len(labels))
    return {
        "runs": rows,
        "metrics": keyed({"update": update, **by_update}, updates),
        "tokens": _tokens(keyed, result, order),
    }


def _tokens(
    keyed: Callable[[dict[str, Any], int], pd.DataFrame], result: TrainResult, order: list[int]
) -> pd.DataFrame:
    """``(sampled updates, R, samples, ...)`` arrays as rows ordered by run, update, sample."""
    if not result.tokens:
        return pd.DataFrame({c: [] for c in REQUIRED["tokens"]})
    updates, _, samples = result.tokens["action"].shape
    columns: dict[str, Any] = {}
    for name, rows in sorted(result.tokens.items()):
        by_run = np.moveaxis(rows[:, order], 1, 0).reshape(-1, *rows.shape[3:])
        columns[name] = list(by_run) if by_run.ndim > 1 else by_run
    return keyed(columns, updates * samples)
