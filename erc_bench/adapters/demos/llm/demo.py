"""The whole demo: train every arm with every seed, one folder each, then records, figures and a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from erc_bench.adapters.demos.llm.models import load, require
from erc_bench.adapters.demos.llm.noise import measure
from erc_bench.adapters.demos.llm.present import present, run_folder
from erc_bench.adapters.demos.llm.task import Addition
from erc_bench.adapters.demos.llm.training import FIELDS, Settings, parsed, quiet, train
from erc_bench.adapters.reads import require_fields
from erc_bench.core.errors import InputError
from erc_bench.core.storage import atomic_write, exclusive, holds_nothing, read_object
from erc_bench.objectives import make

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
    """Train every objective with seeds 0, 1, ..., measure the noise floor, draw; the files written.

    Args:
        out: a new or empty folder, or with ``resume`` one of the same settings.
        settings: shared by the arms.
        objectives: labels as in the toy suite, ``name`` or ``name:parameter=value,...``.
        seeds: per arm, shared by the arms.
        noise: measure the noise floor of the untrained model too.
        resume: go on with the runs that are not finished.

    Raises:
        InputError: names what is not allowed; nothing was done.
    """
    if seeds < 1:
        raise InputError(f"seeds: {seeds} is not allowed; must be at least 1")
    for label in objectives:
        name, parameters = parsed(label)
        require_fields(make(name, **parameters), FIELDS, by="TRL")
    require(settings.model)
    with exclusive(out):
        claim(out, settings, objectives, resume=resume)
        train_all(settings, objectives, range(seeds), out)
        if noise and not (out / "noise.parquet").is_file():
            quiet()
            task = Addition(settings.largest)
            tokens = measure(
                load(settings.model, task), task, length=settings.length, prompts=24, seed=0
            )
            path = out / "noise.parquet"
            atomic_write(path, lambda stream: tokens.to_parquet(stream, index=False))
        return present(out, settings, objectives, range(seeds))


def claim(out: Path, settings: Settings, objectives: Sequence[str], *, resume: bool) -> None:
    """Take a folder for this work, or go on in it.

    Raises:
        InputError: it holds something else, or results of other settings.
    """
    path = out / "settings.json"
    mine = asdict(settings) | {"objectives": list(objectives)}
    if path.is_file():
        if not resume:
            raise InputError(f"out: {out} already holds a demo; add --resume to go on")
        found = read_object(path, "resume")
        for name, value in mine.items():
            if found.get(name) != value:
                raise InputError(
                    f"resume: {out} was made with {name} = {found.get(name)!r}, now {value!r}"
                )
    elif out.exists() and not holds_nothing(out):
        raise InputError(f"out: {out} is not empty; choose another folder")
    else:
        text = json.dumps(mine, indent=1) + "\n"
        atomic_write(path, lambda stream: stream.write(text.encode()))


def train_all(
    settings: Settings, objectives: Sequence[str], seeds: Sequence[int], out: Path
) -> None:
    """Train what is not finished yet; seed by seed, so that what is there is paired."""
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
    columns = (
        TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("updates"), TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("", total=steps * len(runs))
        for objective, seed in runs:
            folder = run_folder(out, objective, seed)
            bar.update(task, description=f"{objective} seed {seed}")
            if (folder / "evaluation.json").is_file():
                bar.advance(task, steps)
                continue
            train(settings, objective, seed, folder, lambda steps: bar.advance(task, steps))
