"""stable-baselines3 on its documented ``make_vec_env``, a DummyVecEnv."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.contenders import sb3
from benchmarks.harness import Clock, Train, main
from benchmarks.workload import Workload


def prepare(work: Workload, seeds: Sequence[int], threads: int, clock: Clock) -> Train:
    """As ``sb3``, on the Gymnasium environments themselves."""
    return sb3.prepare(work, seeds, threads, clock, sb3.dummy_environments)


if __name__ == "__main__":
    main(prepare, processes=2, doc=__doc__)
