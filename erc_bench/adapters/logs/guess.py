"""Which trainer wrote a log."""

from __future__ import annotations

from pathlib import Path

from erc_bench.adapters.logs.runs import LoggedRun
from erc_bench.adapters.logs.tensorboard import is_events, read_tensorboard
from erc_bench.adapters.logs.text import json_values, read_text
from erc_bench.adapters.logs.trl import read_trl
from erc_bench.adapters.logs.verl import is_console, read_verl
from erc_bench.core.errors import InputError

__all__ = ["read_log"]


def read_log(path: Path | str) -> LoggedRun:
    """A log of TRL, verl or TensorBoard, by what it looks like.

    Event files go by their name; a console log by a line ``step:1 - ...``; JSON lines with ``step``
    and ``data`` are verl's, other JSON is TRL's.

    Raises:
        InputError: none of these, or as the reader of its kind.
    """
    path = Path(path)
    if is_events(path):
        return read_tensorboard(path)
    if path.is_dir():
        if (path / "trainer_state.json").is_file():
            return read_trl(path)
        raise InputError(f"{path}: neither a trainer_state.json nor event files in it")
    text = read_text(path)
    if text.lstrip().startswith("{"):
        first = json_values(path, text)[0].value
        return read_verl(path) if {"step", "data"} <= first.keys() else read_trl(path)
    if is_console(text):
        return read_verl(path)
    raise InputError(
        f"{path}: no log that is known (trainer_state.json, JSON lines, verl's console, event files)"
    )
