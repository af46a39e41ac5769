"""TensorBoard: event files of TRL's trainer or of verl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from erc_bench.adapters.logs.runs import Entry, LoggedRun, run_of
from erc_bench.adapters.logs.trl import trl_names
from erc_bench.adapters.logs.verl import VERL_NAMES, with_tokens
from erc_bench.core.errors import InputError

__all__ = ["is_events", "read_tensorboard"]

_MARK = "events.out.tfevents"


def is_events(path: Path) -> bool:
    """Whether a path is an event file, or a folder with some."""
    if path.is_dir():
        return any(path.glob(f"*{_MARK}*"))
    return _MARK in path.name


def read_tensorboard(path: Path | str) -> LoggedRun:
    """A run's scalars; TRL's begin with ``train/``, verl's do not.

    Args:
        path: an event file, or a folder with the event files of one run.

    Raises:
        InputError: no events, none of a known metric, or tensorboard is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: cannot be read (no such file or folder)")
    if not is_events(path):
        raise InputError(f"{path}: no event file ({_MARK}...) of TensorBoard")
    scalars = list(_scalars(path))
    if not scalars:
        raise InputError(f"{path}: no scalars in it")
    if any(tag.startswith("train/") for tag, _, _ in scalars):
        return run_of(
            _entries(path, scalars), trl_names("train/"), environment="trl", source=str(path)
        )
    entries = with_tokens(_entries(path, scalars))
    return run_of(entries, VERL_NAMES, environment="verl", source=str(path))


def _entries(path: Path, scalars: list[tuple[str, int, float]]) -> Iterator[Entry]:
    by_step: dict[int, dict[str, Any]] = {}
    for tag, step, value in scalars:
        if step < 0:
            raise InputError(f"{path}: {tag} at step {step}, must be 0 or more")
        by_step.setdefault(step, {})[tag] = value
    for step, values in by_step.items():
        yield Entry(f"{path}: step {step}", step, values)


def _scalars(path: Path) -> Iterator[tuple[str, int, float]]:
    """Tag, step and value of every scalar, as simple values or as tensors of one number.

    Raises:
        InputError: tensorboard is missing, or a record is damaged.
    """
    try:
        from tensorboard.backend.event_processing import (  # noqa: PLC0415
            event_accumulator,
        )
    except ImportError:
        raise InputError(
            "tensorboard: not installed, but event files need it: pip install tensorboard"
        ) from None
    reader = event_accumulator.EventAccumulator(str(path), size_guidance={"scalars": 0})
    try:
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            for event in reader.Scalars(tag):
                yield tag, int(event.step), float(event.value)
    except Exception as error:  # a damaged record raises whatever its parser raises
        line = str(error).split("\n", 1)[0][:120]
        raise InputError(f"{path}: damaged events ({type(error).__name__}: {line})") from None
