"""The whole demo: train every arm with every seed, one folder each, then records, figures and a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from erc_bench.demos.llm.training import Settings, train
from erc_bench.errors import InputError
from erc_bench.records import atomic_write

__all__ = ["run_folder", "train_all"]


def run_folder(out: Path, objective: str, seed: int) -> Path:
    """Where one run lies."""
    return out / "runs" / f"{objective.replace(':', '-').replace(',', '-')}-seed{seed}"


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
        found = json.loads(path.read_text())
        for name, value in mine.items():
            if found.get(name) != value:
                raise InputError(
                    f"resume: {out} was made with {name} = {found.get(name)!r}, now {value!r}"
                )
    elif out.exists() and any(out.iterdir()):
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
            train(settings, objective, seed, folder, lambda: bar.advance(task, 1))
