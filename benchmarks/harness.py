"""Runs one contender: first its set-up, then its training, which is timed over all its processes."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.workload import WORKLOADS, Outcome, Workload, workload

__all__ = ["Clock", "Prepare", "Train", "cores", "main", "measure"]


@dataclass
class Clock:
    """Seconds spent in named phases of a set-up."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


Train = Callable[[], Outcome]
Prepare = Callable[[Workload, Sequence[int], int, Clock], Train]
"""Maps ``(workload, seeds, threads, clock)`` to the function that is timed."""


def cores() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _one(
    prepare: Prepare, work: Workload, seeds: Sequence[int], threads: int, ready: Callable[[], Any]
) -> dict[str, Any]:
    clock = Clock()
    train = prepare(work, seeds, threads, clock)
    before = _peak_mib()
    ready()
    cpu, start = _cpu_seconds(), time.perf_counter()
    outcome = train()
    end = time.perf_counter()
    return {
        "outcome": outcome,
        "start": start,
        "end": end,
        "cpu": _cpu_seconds() - cpu,
        "setup": clock.seconds,
        "peak_before": before,
        "peak": _peak_mib(),
    }


def _child(
    prepare: Prepare, work: Workload, seeds: Sequence[int], threads: int, barrier: Any, answers: Any
) -> None:
    with contextlib.redirect_stdout(sys.stderr):
        answers.put(_one(prepare, work, seeds, threads, barrier.wait))


def measure(prepare: Prepare, work: Workload, processes: int = 1) -> dict[str, Any]:
    """Do the workload and say what it took.

    The seeds are split over ``processes``, which start training together once the last of them is
    set up; ``seconds`` runs from there until the last has finished. Set-up phases are those of the
    slowest process; peak memory is the sum over processes.

    Raises:
        ValueError: the contender did not do the whole workload.
    """
    seeds = list(range(work.seeds))
    processes = min(processes, work.seeds)
    threads = max(1, min(cores(), work.seeds) // processes)
    if processes == 1:
        done = [_one(prepare, work, seeds, threads, lambda: None)]
    else:
        context = multiprocessing.get_context("spawn")
        barrier, answers = context.Barrier(processes), context.Queue()
        children = [
            context.Process(
                target=_child,
                args=(prepare, work, seeds[i::processes], threads, barrier, answers),
            )
            for i in range(processes)
        ]
        for child in children:
            child.start()
        done = []
        while len(done) < processes:
            with contextlib.suppress(Exception):
                done.append(answers.get(timeout=1))
            if any(child.exitcode not in (None, 0) for child in children):
                for child in children:
                    child.terminate()
                raise RuntimeError("a process of the contender failed")
        for child in children:
            child.join()
    outcome = Outcome.of_seeds([d["outcome"] for d in done])
    outcome.check(work)
    setup = {k: max(d["setup"].get(k, 0.0) for d in done) for d in done for k in d["setup"]}
    return {
        **{k: v for k, v in asdict(outcome).items() if k != "rewards"},
        "rewards": list(outcome.rewards),
        "seconds": max(d["end"] for d in done) - min(d["start"] for d in done),
        "cpu_seconds": sum(d["cpu"] for d in done),
        "setup": setup,
        "peak_mib": sum(d["peak"] for d in done),
        "peak_before_training_mib": sum(d["peak_before"] for d in done),
        "processes": processes,
        "threads": threads,
    }


def main(prepare: Prepare, *, processes: int, doc: str | None) -> None:
    """The command line of a contender; prints one JSON object."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="token")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--rollouts", type=int)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--processes", type=int, default=min(processes, cores()))
    parser.add_argument("--json", default="-", help="where the result goes; -: standard output")
    given = parser.parse_args()
    work = workload(given.workload, seeds=given.seeds, rollouts=given.rollouts, hidden=given.hidden)
    with contextlib.redirect_stdout(sys.stderr):  # peers print
        result = measure(prepare, work, given.processes)
    text = json.dumps({"workload": work.described(), **result})
    if given.json == "-":
        print(text)
    else:
        with open(given.json, "w") as stream:
            stream.write(text)
