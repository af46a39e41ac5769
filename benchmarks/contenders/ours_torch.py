"""This project by torch's engine, which runs where nothing was compiled."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.contenders import ours
from benchmarks.harness import Clock, Train, main
from benchmarks.workload import Workload


def prepare(work: Workload, seeds: Sequence[int], threads: int, clock: Clock) -> Train:
    """As ``ours``, with the configuration's ``engine`` set to torch."""
    from erc_bench.training import loop  # noqa: PLC0415
    from erc_bench.training.torch_engine import TorchEngine  # noqa: PLC0415

    loop.engine_of = lambda _: TorchEngine()
    return ours.prepare(work, seeds, threads, clock)


if __name__ == "__main__":
    main(prepare, processes=2, doc=__doc__)
