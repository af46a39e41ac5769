"""Carry out a plan: train every part, store its records, resume what was interrupted."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import joblib
import numpy as np
import pandas as pd
import torch

from erc_bench import training
from erc_bench.core.errors import InputError
from erc_bench.core.metrics import CLIP
from erc_bench.objectives import make
from erc_bench.studies.arms import Arm
from erc_bench.studies.planning import Plan
from erc_bench.studies.processes import end_with
from erc_bench.studies.records import REQUIRED, Results, Table
from erc_bench.studies.sizing import ExperimentPlan, Part
from erc_bench.studies.summaries import summaries
from erc_bench.training import Trainer, TrainResult
from erc_bench.training.config import PER_RUN
from erc_bench.training.memory import keep_freed_memory
from erc_envs.base import Dynamics

__all__ = ["BACKENDS", "Backend", "execute", "total_rollouts"]

Backend = Literal["loky", "ray"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

#: What an interruption by the machine leaves, and the way on.
KEPT = "what is finished is kept: go on with the same command and --resume"
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
        workers: processes; 1 works in this one, unless the backend is a cluster.
        backend: ``loky``, processes of this machine, or ``ray``, a Ray cluster (started on this
            machine if there is none to join) whose nodes all see the folder ``out``.
        on_progress: called with an experiment's name and how many more of its rollouts are done.

    Raises:
        InputError: the folder cannot be used or another process writes to it, or Ray is missing, and
            nothing was done; or it could no longer be written to, or a worker was killed: then what
            is finished is kept.
    """
    if workers < 1:
        raise InputError(f"workers: {workers} is not allowed; must be at least 1")
    if backend not in BACKENDS:
        raise InputError(f"backend: {backend!r} is unknown; allowed: {', '.join(BACKENDS)}")
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
    """Disk, memory and processes that end the work: one line that says so, not a crash."""
    try:
        yield
    except BrokenPipeError:  # whoever reads our messages is gone; that is not the folder's fault
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
    keep_freed_memory()
    told = results.path / "progress" / part.name
    done, last = 0, 0.0

    def on_progress(_: str, advance: int) -> None:
        nonlocal done, last
        done += advance
        if time.monotonic() - last > PROGRESS_SECONDS or done == experiment.config.rollouts:
            with contextlib.suppress(OSError):  # a full disk is for the records to tell
                told.write_text(str(done))
            last = time.monotonic()

    run_part(experiment, part, seed, results, on_progress)


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
    watched: dict[str, Any] = {}
    if backend == "ray":
        _join_ray(workers)  # which ends its workers itself
    else:
        watched = {"initializer": end_with, "initargs": (os.getpid(),)}
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
        with joblib.parallel_config(backend=backend, **watched):
            joblib.Parallel(n_jobs=workers, batch_size=1, pre_dispatch="all")(
                joblib.delayed(_in_worker)(experiment, part, seed, results)
                for experiment, part in todo
            )
    finally:
        finished.set()
        watcher.join()
    look()


def _by_recipe(experiment: ExperimentPlan, part: Part) -> dict[str, list[tuple[int, int]]]:
    """The part's runs under their recipes; runs of one recipe share one objective call."""
    groups: dict[str, list[tuple[int, int]]] = {}
    for arm, seed in sorted(part.runs):
        groups.setdefault(experiment.arms[arm].recipe.name, []).append((arm, seed))
    return groups


def _column(arms: list[Arm], name: str, default: float) -> float | torch.Tensor:
    """A hyperparameter over runs: a float where all agree, otherwise one value per run."""
    values = [arm.overrides.get(name, default) for arm in arms]
    if len(set(values)) == 1:
        return values[0]
    return torch.tensor(values, dtype=torch.float64)


def build_trainer(experiment: ExperimentPlan, part: Part, seed: int) -> Trainer:
    """The population of one part: runs of one recipe become one arm with per-run hyperparameters."""
    environment, config = experiment.environment, experiment.config_of(part)
    arms = []
    for name, runs in _by_recipe(experiment, part).items():
        planned = [experiment.arms[arm] for arm, _ in runs]
        used = planned[0].recipe
        changed = sorted({key for arm in planned for key in arm.parameters})
        objective = make(name, **{k: _column(planned, k, used.parameters[k]) for k in changed})
        arms.append(
            training.Arm(
                label=name,
                objective=objective,
                advantage=used.advantage,
                seeds=[index for _, index in runs],
                dynamic_sampling=used.dynamic_sampling,
                overlong_penalty=used.overlong_penalty,
                reference=objective.reads_reference,
                settings={
                    name: torch.as_tensor(_column(planned, name, getattr(config, name)))
                    for name in PER_RUN
                },
            )
        )
    return Trainer(
        config,
        environment.get_wrapper_attr("dynamics"),
        environment.observation_space,
        arms,
        seed=seed,
        clip=CLIP,
    )


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
    for name in sorted({key for arm in experiment.arms for key in arm.overrides}):
        per_run[f"hyper/{name}"] = [
            experiment.arms[runs[i][0]].overrides.get(name, math.nan) for i in order
        ]
    reward = {"reward/optimal": optimal_return(dynamics)}
    steadiness = {n: values[order] for n, values in sorted(summaries(result.metrics).items())}
    rows = keyed({**per_run, **reward, **steadiness}, 1)
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


def optimal_return(dynamics: Dynamics) -> float:
    """Expected return of the best policy in the final evaluation."""
    return float(dynamics.at(1.0).held_out().optimal_return)


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
