"""The main job as functions: run, summarise, draw, report."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from erc_bench.core.storage import tidy
from erc_bench.studies import (
    Backend,
    Experiment,
    Options,
    Plan,
    Request,
    Verification,
    execute,
    resolve,
    total_rollouts,
)
from erc_bench.studies import verify as compare_with
from erc_bench.studies.records import Results

if TYPE_CHECKING:
    import pandas as pd

    from erc_bench.analysis.claims import Assessment

__all__ = ["claims", "figures", "present", "report", "run", "summary", "verify"]


def run(
    *experiments: str | Experiment,
    out: Path | str,
    resume: bool = False,
    workers: int | None = None,
    backend: Backend = "loky",
    progress: bool = True,
    **options: Unpack[Options],
) -> Results:
    """Train objectives on experiments and store the records.

    Args:
        experiments: names from ``EXPERIMENTS``, or experiments of your own.
        out: results folder; must be new or empty, unless ``resume``.
        resume: go on in a folder made by the same call.
        workers: processes; None: one per processor. Records do not depend on it.
        backend: ``loky``, processes of this machine, or ``ray``, a cluster (``erc-bench[cluster]``).
        progress: show a progress bar on standard error.
        options: ``environment``, ``objectives``, ``seeds``, ``tier``, ``seed``, ``band``, ``settings`` and
            ``grid``, as :class:`~erc_bench.studies.Request` describes them.

    Raises:
        InputError: names the field, the value and what is allowed; nothing was done.
    """
    work = resolve(Request(experiments=experiments, **options))
    with _progress(progress) as (on_plan, on_progress):
        on_plan(work)
        return execute(
            work,
            out,
            resume=resume,
            workers=_processes(workers),
            backend=backend,
            on_progress=on_progress,
        )


def verify(
    results: Path | str,
    *,
    workers: int | None = None,
    backend: Backend = "loky",
    progress: bool = True,
) -> Verification:
    """Run what a folder holds once more, from its own configuration, and compare digests run by run.

    Args:
        results: folder of finished runs; it is only read.
        workers: processes; None: one per processor.
        backend: see :func:`run`.
        progress: show a progress bar on standard error.

    Raises:
        InputError: the folder holds no whole and finished records of a run.
    """
    with _progress(progress) as (on_plan, on_progress):
        return compare_with(
            results,
            workers=_processes(workers),
            backend=backend,
            on_progress=on_progress,
            on_plan=on_plan,
        )


def _processes(workers: int | None) -> int:
    return (os.cpu_count() or 1) if workers is None else workers


@contextmanager
def _progress(
    shown: bool,
) -> Iterator[tuple[Callable[[Plan], None], Callable[[str, int], None]]]:
    """A progress bar as two functions: one takes the plan, one the rollouts that were finished since."""
    from rich import progress as rich
    from rich.console import Console

    count = ("{task.description:<20}", rich.BarColumn(), rich.MofNCompleteColumn(), "rollouts")
    time = (rich.TimeElapsedColumn(), "eta", rich.TimeRemainingColumn())
    bar = rich.Progress(*count, *time, console=Console(file=sys.stderr), disable=not shown)
    task = bar.add_task("starting")

    def on_plan(work: Plan) -> None:
        bar.update(task, total=total_rollouts(work))

    def on_progress(name: str, advance: int) -> None:
        bar.start()  # only once there is work, so that a refusal leaves one line on standard error
        bar.update(task, description=name, advance=advance)

    try:
        yield on_plan, on_progress
    finally:
        if bar.live.is_started:
            bar.stop()


def summary(results: Results | Path | str) -> pd.DataFrame:
    """One row per experiment and objective: medians over seeds with 95 % intervals."""
    from erc_bench.analysis import summary as summarise

    return summarise(_opened(results))


def claims(results: Results | Path | str) -> Assessment:
    """Judge the records by the pre-registered rules: a verdict per claim and regime, with its rows."""
    from erc_bench.analysis.claims import assess

    return assess(_opened(results))


def figures(results: Results | Path | str, folder: Path | str, *, data: bool = False) -> list[Path]:
    """Draw every figure the records allow, as PNG, SVG and a table of what it shows.

    With ``data``, also ``folder/data``: what the figures need of the records, as a small results
    folder that gives the same figures. Returns the paths.
    """
    from erc_bench.presentation.reporting import write_figures

    opened = _opened(results)
    _tidy(opened, Path(folder))
    return write_figures(opened, Path(folder), data=data)


def report(results: Results | Path | str, path: Path | str) -> Path:
    """Write the self-contained HTML report; returns its path."""
    from erc_bench.presentation.reporting import write_report

    opened = _opened(results)
    _tidy(opened, Path(path))
    return write_report(opened, Path(path))


def present(results: Results | Path | str) -> tuple[list[Path], Path]:
    """Write ``figures/`` and ``report.html`` into the results folder, drawing each figure once."""
    from erc_bench.presentation.reporting import Gallery, write_figures, write_report

    opened = _opened(results)
    tidy(opened.path)
    gallery = Gallery(opened)
    folder = opened.path / "figures"
    written = write_figures(opened, folder, gallery)
    return written, write_report(opened, opened.path / "report.html", gallery)


def _tidy(results: Results, out: Path) -> None:
    """Remove unfinished files that interrupted drawing left, if ``out`` lies in the results folder."""
    if out.resolve().is_relative_to(results.path.resolve()):
        results.read(
            "runs", columns=["seed"]
        )  # raises, and changes nothing, if nothing can be drawn
        tidy(results.path)


def _opened(results: Results | Path | str) -> Results:
    return results if isinstance(results, Results) else Results.open(results)
