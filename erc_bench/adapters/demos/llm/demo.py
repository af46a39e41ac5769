"""The whole demo: every arm with every seed, a folder for each run, then records, figures and a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from erc_bench.adapters.demos.folder import claim
from erc_bench.adapters.demos.llm.models import load, require
from erc_bench.adapters.demos.llm.noise import measure
from erc_bench.adapters.demos.llm.present import present, run_folder
from erc_bench.adapters.demos.llm.task import Addition
from erc_bench.adapters.demos.llm.training import FIELDS, Settings, quiet, train
from erc_bench.adapters.reads import require_fields
from erc_bench.core.errors import InputError
from erc_bench.core.storage import atomic_write, exclusive
from erc_bench.core.validation import Count, checked
from erc_bench.studies.arms import parse

__all__ = ["demo", "train_all"]


def demo(
    out: Path,
    settings: Settings,
    objectives: Sequence[str] = ("dapo", "erc-dapo"),
    seeds: int = 3,
    *,
    noise: bool = True,
    resume: bool = False,
) -> list[Path]:
    """Train every objective with seeds 0, 1, ..., measure the noise floor, and draw.

    Args:
        out: a new or empty folder, or with ``resume`` one of the same settings.
        settings: shared by the arms.
        objectives: labels as in the toy suite, ``name`` or ``name:parameter=value,...``.
        seeds: number of seeds, which the arms share.
        noise: measure the noise floor of the untrained model too.
        resume: go on with the runs that are not finished.

    Returns:
        The files written.

    Raises:
        InputError: names what is not allowed; nothing was done.
    """
    checked(Count, seeds, at="seeds")
    for arm in map(parse, objectives):
        if arm.settings:
            raise InputError(f"objectives: {arm.label!r} may change parameters of its recipe only")
        require_fields(arm.objective, FIELDS, by="TRL")
    require(settings.model)
    with exclusive(out):
        claim(out, asdict(settings) | {"objectives": list(objectives)}, resume=resume)
        train_all(settings, objectives, range(seeds), out)
        if noise and not (out / "noise.parquet").is_file():
            quiet()
            task = Addition(settings.largest)
            loaded = load(settings.model, task)
            tokens = measure(loaded, task, length=settings.length, prompts=24, seed=0)
            path = out / "noise.parquet"
            atomic_write(path, lambda stream: tokens.to_parquet(stream, index=False))
        return present(out, settings, objectives, range(seeds))


def train_all(
    settings: Settings, objectives: Sequence[str], seeds: Sequence[int], out: Path
) -> None:
    """Train what is not finished yet, seed by seed, so that finished runs are paired."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    runs = [(objective, seed) for seed in seeds for objective in objectives]
    steps = settings.rollouts * settings.updates
    count = (BarColumn(), MofNCompleteColumn(), TextColumn("updates"))
    time = (TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn())
    columns = (TextColumn("{task.description:<24}"), *count, *time)
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("", total=steps * len(runs))
        for objective, seed in runs:
            folder = run_folder(out, objective, seed)
            bar.update(task, description=f"{objective} seed {seed}")
            if (folder / "evaluation.json").is_file():
                bar.advance(task, steps)
                continue
            train(settings, objective, seed, folder, lambda steps: bar.advance(task, steps))
