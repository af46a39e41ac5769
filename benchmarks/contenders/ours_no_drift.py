"""This project without its exact drift measures: what the peers do and no more."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.contenders import ours
from benchmarks.harness import Clock, Train, main
from benchmarks.workload import Workload


def prepare(work: Workload, seeds: Sequence[int], threads: int, clock: Clock) -> Train:
    """As ``ours``, without drift."""
    return ours.prepare(work, seeds, threads, clock, measure=False)


if __name__ == "__main__":
    main(prepare, processes=2, doc=__doc__)
