"""Kill a command with SIGKILL at random moments, look at what it left, and let the last try finish.

``PYTHONPATH=tests python -m robustness --kills 50 --seed 0`` prints one line of JSON per
command. Children are forked from a server that has everything imported, so that the moments fall into the
work and not into imports.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from small_runs import ARMS, options

from erc_bench import api  # noqa: F401  # imported here once, not in every child
from erc_bench.cli import main
from erc_bench.core.errors import InputError
from erc_bench.presentation.reporting import html  # noqa: F401
from erc_bench.studies import runner
from erc_bench.studies.records import Results
from erc_bench.training import loop

IN_WORKER = runner._in_worker

#: Small runs of two arms, two seeds; the parts are cut small, so that there are several.
RUN = ("run", "entropy_null", *ARMS, *options(rollouts=100, token_samples=2))
SWEEP = (*RUN, "--grid", "learning_rate=1e-3,2e-3")
COMMANDS = {
    "run": (*RUN, "--workers", "1", "--no-report"),
    "sweep, two workers": (*SWEEP, "--workers", "2", "--no-report"),
    "report": ("report",),
    "figures": ("figures",),
}
#: How a whole file ends.
ENDS = {"html": b"</html>", "svg": b"</svg>", "png": b"IEND\xaeB`\x82", "json": b"}"}
MARK = "ERC_BENCH_STORM"
#: Seconds in which a worker must notice that it is alone. It looks five times a second, but one that is
#: starting has Python's own imports to finish first, and that takes long on a busy machine.
PATIENCE = 60.0


def child(command: list[str], mark: str) -> None:
    """What a killed process runs: the command line, with frequent checkpoints and small parts."""
    os.environ[MARK] = mark  # of the processes that it starts
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    loop.CHECKPOINT_SECONDS = -1.0
    sys.modules["erc_bench.studies.sizing"].UPDATE_TOKENS = 96
    runner._in_worker = in_worker
    code: Any = 0
    try:
        main(command)
    except SystemExit as stop:
        code = stop.code
    os._exit(code)  # a forked process would wait for idle workers; these end with it


def in_worker(*work: Any) -> None:
    """A part in a worker process, which checkpoints as often."""
    loop.CHECKPOINT_SECONDS = -1.0
    IN_WORKER(*work)


@dataclass
class Found:
    """What a storm met. ``faults`` must be empty; no worker was alone for longer than ``seconds_alone``."""

    command: str
    kills: int = 0
    before_it_began: int = 0
    finished_first: int = 0
    seconds_alone: float = 0.0
    faults: list[str] = field(default_factory=list)


def orphans(mark: str) -> list[int]:
    """Processes, other than ours, that were started under ``mark`` and still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                f"{MARK}={mark}".encode() in (entry / "environ").read_bytes()
                and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            ):
                found.append(int(entry.name))
    return found


def command_of(pid: int) -> str:
    """The command line of a process, for the message."""
    with contextlib.suppress(OSError):
        return " ".join(Path(f"/proc/{pid}/cmdline").read_text().split("\0"))[-120:]
    return "?"


def left_alone(mark: str) -> tuple[list[int], float]:
    """:func:`orphans` that do not end within ``PATIENCE`` seconds, and how long the last one stayed."""
    began = time.monotonic()
    while (found := orphans(mark)) and time.monotonic() - began < PATIENCE:
        time.sleep(0.05)
    return found, time.monotonic() - began


def wounds(folder: Path) -> list[str]:
    """What is wrong with a results folder that a killed process left."""
    found: list[str] = []
    if not (folder / "manifest.json").exists():
        left = (
            [p for p in folder.rglob("*") if not p.name.startswith(".")] if folder.exists() else []
        )
        return [f"no manifest, but {p.name}" for p in left]
    try:
        results = Results.open(folder)
        for path in folder.rglob("[!.]*.parquet"):
            pd.read_parquet(path)
        for table in ("runs", "metrics", "tokens"):
            results.read(table)
    except InputError as error:
        if "no finished part" not in str(error):
            found.append(str(error))
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}")
    for kind, end in ENDS.items():
        torn = [
            p for p in folder.rglob(f"[!.]*.{kind}") if not p.read_bytes().rstrip().endswith(end)
        ]
        found += [f"{path.name} is not whole" for path in torn]
    return found


class Server:
    """Forks children from a process that has imported the command line."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["robustness.storm"])

        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        ready = self.context.Process(target=os.getpid)
        ready.start()  # imports everything, once
        ready.join()

    def start(self, command: list[str]) -> multiprocessing.process.BaseProcess:
        """A child that runs ``command``."""
        process = self.context.Process(target=child, args=(command, self.mark))
        process.start()
        return process


def storm(name: str, folder: Path, kills: int, seed: int, longest: float, server: Server) -> Found:
    """Kill ``COMMANDS[name]`` on ``folder`` ``kills`` times, each time after up to ``longest`` seconds."""
    draw, found = random.Random(seed), Found(name)
    begins = COMMANDS[name][0] == "run"
    command = [*COMMANDS[name], *(("--out",) if begins else ()), str(folder)]
    while found.kills < kills:
        existed = (folder / "manifest.json").exists()
        process = server.start([*command, *(("--resume",) if begins and existed else ())])
        process.join(draw.uniform(0.0, longest))
        if process.exitcode is not None:
            if process.exitcode:
                found.faults.append(f"ended with {process.exitcode} by itself")
            found.finished_first += 1
            if begins:  # once more from the start
                shutil.rmtree(folder)
            if found.finished_first > 3 * kills:
                found.faults.append("it is never caught at work")
                break
            continue
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found.kills += 1
        found.before_it_began += not (folder / "manifest.json").exists()
        stayed, seconds = left_alone(server.mark)
        found.seconds_alone = max(found.seconds_alone, round(seconds, 1))
        found.faults += [f"orphan {pid}: {command_of(pid)}" for pid in stayed]
        found.faults += wounds(folder)
    return found


def finish(name: str, folder: Path, server: Server) -> int:
    """Let the command end, resuming; its exit code."""
    begins = COMMANDS[name][0] == "run"
    resume = ["--resume"] if begins and (folder / "manifest.json").exists() else []
    process = server.start([*COMMANDS[name], *(("--out",) if begins else ()), str(folder), *resume])
    process.join()
    return process.exitcode


def contents(folder: Path, pattern: str) -> dict[str, bytes]:
    """Files of a folder, hidden ones included, by name; a page's own folder is called FOLDER in it."""
    return {
        str(p.relative_to(folder)): p.read_bytes().replace(str(folder).encode(), b"FOLDER")
        for p in folder.rglob(pattern)
        if p.is_file()
    }


def whole(name: str, where: Path, kills: int, seed: int, server: Server) -> Found:
    """A storm over a command, its end, and the comparison with what was never interrupted."""
    calm, rough = where / "calm", where / "rough"
    if COMMANDS[name][0] != "run":
        if code := finish("run", calm, server):
            raise RuntimeError(f"a run to draw ends with {code}")
        shutil.copytree(calm, rough)
    began = time.monotonic()
    if code := finish(name, calm, server):
        raise RuntimeError(f"{name} alone ends with {code}")
    found = storm(name, rough, kills, seed, 1.1 * (time.monotonic() - began), server)
    if code := finish(name, rough, server):
        found.faults.append(f"the last try ended with {code}")
    if COMMANDS[name][0] == "run":
        before, after = (contents(folder, "*.parquet") for folder in (calm, rough))
        left = sorted(p.name for p in rough.iterdir())
        if left != ["manifest.json", "metrics", "runs", "tokens"]:
            found.faults.append(f"left behind: {left}")
    else:
        before, after = (contents(folder, "*") for folder in (calm, rough))
    if before != after:
        found.faults.append("not what an uninterrupted command gives")
    return found
