"""This project with nothing merged: tokens with equal observations are computed one by one, as by peers."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.contenders import ours
from benchmarks.harness import Clock, Train, main
from benchmarks.workload import Workload


def prepare(work: Workload, seeds: Sequence[int], threads: int, clock: Clock) -> Train:
    """As ``ours``, token by token."""
    return ours.prepare(work, seeds, threads, clock, merge=False)


if __name__ == "__main__":
    main(prepare, processes=2, doc=__doc__)
