"""Sweeps for an hour in one process, to see whether its memory grows and its records change.

``python -m benchmarks.soak`` runs the same sweep again and again, with records, figures and a report, in
this process, every fourth time in two workers; all on one core. After each it notes the memory of this
process and of all of its processes together, open files and threads, and compares the records, byte for
byte, with those of the first. It writes ``results/soak.csv``, ``soak.json`` and a figure.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from scipy import stats

from benchmarks import machine
from benchmarks.run import RESULTS
from erc_bench import api
from erc_bench.training.memory import keep_freed_memory

__all__ = ["main", "memory", "sweep", "verdict"]

#: One sweep: three arms, two seeds, at two learning rates and two stalenesses; the arms with a band at two
#: bands. Stalenesses are trained apart, so that there are parts for two workers.
SWEEP: dict[str, Any] = {
    "objectives": ["ppo-clip", "dapo", "erc-dapo"],
    "seeds": 2,
    "grid": {"learning_rate": [1e-3, 2e-3], "band": [0.02, 0.05], "minibatches": [2, 8]},
    "settings": {"rollouts": 6},
}
#: Every such sweep is done by two worker processes.
PARALLEL = 4
#: Share of the time that fills caches and the allocator's pools; the slope is that of the rest.
WARM_UP = 0.25


def _anonymous(pid: int) -> int:
    """Memory of a process that is no file's, in bytes; 0 when it is gone.

    Pages of files (libraries) come and go with the system's cache and with other processes that share them.
    """
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class _Mallinfo2(ctypes.Structure):
    """The structure ``mallinfo2`` of glibc's malloc.h."""

    _fields_ = (
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    )


def _allocated() -> int:
    """Bytes that glibc has handed out; freed memory that glibc keeps for later is not among them."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return int(found.uordblks + found.hblkhd)


def _children(pid: int) -> list[int]:
    found = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            direct = [int(child) for child in tasks.read_text().split()]
        except OSError:
            continue
        for child in direct:
            found += [child, *_children(child)]
    return found


def memory() -> dict[str, float]:
    """Memory in MiB of this process, alone and with its children, and other resources that it holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    children = _children(os.getpid())
    return {
        "rss_mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "allocated_mib": _allocated() / 2**20,
        "blocks": sys.getallocatedblocks(),
        "anonymous_mib": _anonymous(os.getpid()) / 2**20,
        "anonymous_all_mib": sum(map(_anonymous, [os.getpid(), *children])) / 2**20,
        "children": len(children),
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


def sweep(number: int, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """One sweep into a folder of its own, which is removed; a row of measurements."""
    workers = 2 if number % PARALLEL == PARALLEL - 1 else 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "sweep"
        asked = {**SWEEP, "settings": {**SWEEP["settings"], **(settings or {})}}
        results = api.run(
            "forking_tokens", out=out, tier="smoke", workers=workers, progress=False, **asked
        )
        api.present(results)
        written = hashlib.sha256()
        for path in sorted(out.rglob("*.parquet")):
            written.update(path.read_bytes())
    return {
        "sweep": number,
        "workers": workers,
        "seconds": time.monotonic() - began,
        **memory(),
        "records": written.hexdigest(),
    }


def verdict(table: pd.DataFrame) -> dict[str, Any]:
    """Slopes per hour after the warm-up (Theil and Sen, 95 %) and what never changed.

    Workers leave when they have been idle for long, and come back: memory of all processes is compared
    among the sweeps that ended with as many of them as most did.
    """
    steady = table[table["at"] >= WARM_UP * table["at"].max()]
    found: dict[str, Any] = {
        "sweeps": len(table),
        "hours": float(table["at"].max() / 3600),
        "different_records": int(table["records"].nunique()),
    }
    alike = steady[steady["children"] == steady["children"].mode().iloc[-1]]
    measured = {
        "rss_mib": steady,
        "anonymous_mib": steady,
        "allocated_mib": steady,
        "blocks": steady,
        "anonymous_all_mib": alike,
    }
    for name, rows in measured.items():
        slope, _, low, high = stats.theilslopes(rows[name], rows["at"] / 3600)
        found[name] = {
            "sweeps": len(rows),
            "first": float(rows[name].iloc[0]),
            "last": float(rows[name].iloc[-1]),
            "least": float(rows[name].min()),
            "most": float(rows[name].max()),
            "slope_per_hour": float(slope),
            "interval": [float(low), float(high)],
        }
    for name in ("children", "open_files", "threads"):
        found[name] = sorted({int(n) for n in steady[name]})
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    mpl.use("Agg")
    keep_freed_memory()  # as the command line does
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    about = machine.described()
    began, rows = time.monotonic(), []
    given.out.mkdir(parents=True, exist_ok=True)
    while time.monotonic() - began < 60 * given.minutes:
        row = sweep(len(rows))
        rows.append({"at": time.monotonic() - began, **row})
        pd.DataFrame(rows).to_csv(given.out / "soak.csv", index=False, float_format="%.6g")
    save(pd.DataFrame(rows), about, given.out)


def save(table: pd.DataFrame, about: dict[str, Any], folder: Path) -> None:
    """Write the verdict and the figure beside the table."""
    from benchmarks.figures import soak_figure  # noqa: PLC0415

    record = {"machine": about, "sweep": SWEEP, "one_core": True, **verdict(table)}
    (folder / "soak.json").write_text(json.dumps(record, indent=1) + "\n")
    soak_figure(record, table, folder / "soak")


if __name__ == "__main__":
    main()
