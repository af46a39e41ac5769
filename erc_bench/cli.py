"""The command line. Parses, calls :mod:`erc_bench.api`, prints; decides nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from erc_bench.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["main"]

#: What `erc-bench run` does without a name: the three questions of the README.
DEMO = ("unsampled_shift", "forking_tokens", "entropy_null")


@dataclass(frozen=True)
class Run:
    """Train objectives on experiments, print a table, write records, figures and a report.

    Example: erc-bench run forking_tokens --objectives dapo erc-dapo --seeds 10 --out results/mine
    """

    experiments: Positional[tuple[str, ...]] = ()
    """Experiments by name (see: erc-bench list). None: all of them."""
    out: Path = Path("results/latest")
    """Results folder; must be new or empty, unless --resume."""
    environment: str | None = None
    """Train on this environment instead of experiments, as erc/TokenForks-v0."""
    objectives: tuple[str, ...] | None = None
    """Arms: names, or name:parameter=value,... as erc-dapo:band_low=0.1. None: each experiment's."""
    seeds: int | None = None
    """Seeds per arm, shared between arms. None: the tier's (smoke 3, quick 5, full 20)."""
    tier: Literal["smoke", "quick", "full"] = "quick"
    """Size of the work: smoke takes seconds, quick about a minute, full much longer."""
    seed: int = 0
    """Root of all randomness."""
    band: float | None = None
    """Half-width of ERC's entropy-ratio band. None: 0.05, the paper's."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """Change a training setting, as --set learning_rate=1e-3 (repeatable; see: erc-bench list settings)."""
    grid: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUES")] = ()
    """Train every arm at several values, as --grid learning_rate=1e-3,2e-3 --grid band=0.02,0.05."""
    resume: bool = False
    """Go on with an interrupted run in --out."""
    workers: int | None = None
    """Processes. None: one per processor. Records do not depend on it."""
    backend: Literal["loky", "ray"] = "loky"
    """Where the processes run: on this machine, or on a Ray cluster (pip install 'erc-bench[cluster]')."""
    report: bool = True
    """Write figures/ and report.html into --out."""


@dataclass(frozen=True)
class List:
    """Show what there is: experiments, objectives, environments, settings."""

    what: Positional[Literal["all", "experiments", "objectives", "environments", "settings"]] = (
        "all"
    )
    """Which list."""


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML file about finished runs."""

    results: Positional[Path]
    """Results folder."""
    out: Path | None = None
    """The file. None: report.html in the results folder."""


@dataclass(frozen=True)
class Figures:
    """Draw the figures of finished runs as PNG and SVG, with the data drawn beside each."""

    results: Positional[Path]
    """Results folder."""
    out: Path | None = None
    """Folder for the figures. None: figures in the results folder."""


Command = (
    Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Figures, tyro.conf.subcommand("figures")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits with 0, or 2 on bad input, or 130 when interrupted."""
    command: Command = tyro.cli(
        Command,
        prog="erc-bench",
        description="Did the policy update stay in its trust region?",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    actions: dict[type, Callable[..., None]] = {
        Run: _run, List: _list, Report: _report, Figures: _figures,
    }  # fmt: skip
    try:
        actions[type(command)](command)
    except InputError as error:
        print(f"erc-bench: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        hint = " (go on with the same command and --resume)" if isinstance(command, Run) else ""
        print(f"erc-bench: interrupted{hint}", file=sys.stderr)
        sys.exit(130)


def _run(command: Run) -> None:
    from erc_bench import api  # noqa: PLC0415
    from erc_bench.analysis import as_rich  # noqa: PLC0415
    from erc_bench.experiments import grid_axis, setting  # noqa: PLC0415
    from erc_bench.trainer.memory import keep_freed_memory  # noqa: PLC0415

    keep_freed_memory()
    named = command.experiments or (() if command.environment else DEMO)
    results = api.run(
        *named, out=command.out, environment=command.environment, objectives=command.objectives,
        seeds=command.seeds, tier=command.tier, seed=command.seed, band=command.band,
        settings=dict(setting(text) for text in command.set),
        grid=dict(grid_axis(text) for text in command.grid), resume=command.resume,
        workers=command.workers, backend=command.backend,
    )  # fmt: skip
    _console().print(as_rich(api.summary(results)))
    print(f"records  {results.path}")
    if command.report:
        drawn, page = api.present(results)
        print(
            f"figures  {results.path / 'figures'} ({len([p for p in drawn if p.suffix == '.png'])})"
        )
        print(f"report   {page}")


def _console() -> Console:
    """Standard output; wide enough for the tables where it is not a terminal."""
    from rich.console import Console  # noqa: PLC0415

    return Console(width=None if sys.stdout.isatty() else 120)


def _list(command: List) -> None:
    from erc_bench import listing  # noqa: PLC0415

    console = _console()
    for name, table in listing.TABLES.items():
        if command.what in ("all", name):
            console.print(table())


def _report(command: Report) -> None:
    from erc_bench import api  # noqa: PLC0415

    out = command.out or command.results / "report.html"
    with _writing(out):
        print(api.report(command.results, out))


def _figures(command: Figures) -> None:
    from erc_bench import api  # noqa: PLC0415

    out = command.out or command.results / "figures"
    with _writing(out):
        for path in api.figures(command.results, out):
            print(path)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """An output that cannot be written is the caller's to change, not a crash."""
    try:
        yield
    except OSError as error:
        raise InputError(f"out: {out} cannot be written to ({error.strerror or error})") from None
