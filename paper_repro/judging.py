"""math-verify in processes of its own, so that no answer can stop a training run of days."""

from __future__ import annotations

import atexit
import json
import os
import queue
import select
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from erc_bench.core.errors import InputError
from erc_bench.core.validation import Count, Positive, checked

__all__ = ["JudgeError", "Judges", "shared_judges"]

WORKER = Path(__file__).with_name("judge_worker.py")
START = 300.0  # seconds until a worker has imported sympy, on a busy machine
WALL = 20.0  # a worker that has not answered after this many times the CPU limit is ended


class JudgeError(Exception):
    """An answer could not be judged: too slow, too large, or math-verify failed on it."""


class _Worker:
    """One judging process."""

    def __init__(self, seconds: float) -> None:
        self._wall = WALL * seconds
        # -P: the folder of the script holds modules of ours that must not hide others of their name.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if self._reply(START) != b"ready":
            self.end()
            raise InputError("reward: math-verify cannot be started: pip install 'erc-bench[llm]'")

    def ask(self, answer: str, truth: str) -> bool:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([answer, truth]).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise JudgeError("the judge has ended") from None
        reply = self._reply(self._wall)
        if reply is None:
            raise JudgeError("took too long")
        right, failure = json.loads(reply)
        if failure is not None:
            raise JudgeError(failure)
        return bool(right)

    def _reply(self, seconds: float) -> bytes | None:
        """The next line; None if the process ends or stays silent. Replies are one line each."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return None
        line = self._process.stdout.readline()
        return line.strip() if line.endswith(b"\n") else None

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was not written has no reader any more
                    stream.close()


class Judges:
    """A few workers, shared by the threads of a process; each is started when it is first needed.

    Args:
        workers: how many answers are judged at once, at most.
        seconds: CPU time allowed for one answer; a busy machine judges as an idle one does.
    """

    def __init__(self, workers: int = 4, seconds: float = 5.0) -> None:
        checked(Count, workers, at="workers")
        checked(Positive, seconds, at="seconds")
        if find_spec("math_verify") is None:
            raise InputError("reward: needs math-verify: pip install 'erc-bench[llm]'")
        self._seconds = seconds
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._count = workers

    def __call__(self, answer: str, truth: str) -> bool:
        """Whether math-verify holds the answer (what stands in the box) equal to the truth.

        Raises:
            JudgeError: it could not be judged.
        """
        worker = self._idle.get()
        try:
            if worker is None:
                worker = _Worker(self._seconds)
            return worker.ask(answer, truth)
        except JudgeError:
            if worker is not None:  # it may still be at work, or hold much memory
                worker.end()
                worker = None
            raise
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the workers; waits for those at work."""
        for worker in [self._idle.get() for _ in range(self._count)]:
            if worker is not None:
                worker.end()
            self._idle.put(None)


@cache
def _judges_of(process: int) -> Judges:
    """The judges of one process; a fork must not share pipes with its parent."""
    judges = Judges()
    atexit.register(lambda: judges.close() if os.getpid() == process else None)
    return judges


def shared_judges() -> Judges:
    """The judges of this process."""
    return _judges_of(os.getpid())
