"""Logs of TRL, verl and TensorBoard. They are foreign input: nothing of them is evaluated or unpickled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from erc_bench.adapters.logs.names import TRL, VERL, LoggedRun, finite, tabulate
from erc_bench.errors import InputError

__all__ = ["read_log", "read_tensorboard", "read_trl", "read_verl"]

#: A line of verl's console: ``step:3 - actor/entropy:0.5 - ...``, perhaps after a worker's prefix.
CONSOLE = re.compile(r"(?:^|\s)step:(\d+) - (\S+:.*)$")
NUMBER = re.compile(
    r"^(?:np\.float\d+\()?([-+]?(?:[\d.]+(?:e[-+]?\d+)?|nan|inf))\)?$", re.IGNORECASE
)


def read_log(path: Path | str) -> LoggedRun:
    """Read a log of any kind that is known; which one is found from what it holds.

    Raises:
        InputError: unreadable, or no such log; names the file and the line.
    """
    path = Path(path)
    if path.is_dir():
        return read_tensorboard(path)
    if path.name.startswith("events.out.tfevents"):
        return read_tensorboard(path)
    text = _text(path)
    first = text.lstrip()[:1]
    if first == "{" and '"log_history"' in text:
        return read_trl(path)
    if first in "{[" and first:
        line = text.lstrip().partition("\n")[0]
        return read_verl(path) if '"data"' in line else read_trl(path)
    return read_verl(path)


def read_trl(path: Path | str) -> LoggedRun:
    """``trainer_state.json``, or a JSON list or JSONL of its ``log_history``; of any GRPOTrainer.

    Raises:
        InputError: as :func:`read_log`.
    """
    path = Path(path)
    text = _text(path)
    try:
        whole: Any = json.loads(text)
    except (ValueError, RecursionError):
        entries = list(_lines(path, text))
    else:
        if isinstance(whole, dict) and "log_history" in whole:
            whole = whole["log_history"]
        entries = whole if isinstance(whole, list) else [whole]
    rows: list[tuple[int, Mapping[str, float]]] = []
    for place, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise InputError(f"log: {path}: entry {place} is {type(entry).__name__}, not an object")
        if "loss" not in entry and "reward" not in entry:
            continue  # an evaluation, or the summary of the whole training
        rows.append((_step(entry.get("step"), path, place), _numbers(entry)))
    return tabulate(rows, TRL, environment="TRL", source=str(path))


def read_verl(path: Path | str) -> LoggedRun:
    """Verl's file logger (``trainer.logger=file``: JSONL) or what its console logger printed.

    A step of verl is a rollout with all its updates: each metric is their mean, staleness is 0.

    Raises:
        InputError: as :func:`read_log`.
    """
    path = Path(path)
    text = _text(path)
    rows: list[tuple[int, dict[str, float]]] = []
    if text.lstrip().startswith("{"):
        for place, entry in enumerate(_lines(path, text), 1):
            data = entry.get("data") if isinstance(entry, dict) else None
            if not isinstance(data, dict):
                raise InputError(f"log: {path}: line {place} is not a step of verl's file logger")
            rows.append((_step(entry.get("step"), path, place), _numbers(data)))
    else:
        rows = [row for line in text.splitlines() if (row := _console(line)) is not None]
    rows = [(step, _with_tokens(values)) for step, values in rows if _trained(values)]
    total = 0.0
    counted: list[tuple[int, Mapping[str, float]]] = []
    for step, values in rows:
        total += values.get("tokens", 0.0)
        counted.append((step, values | {"tokens": total}) if total else (step, values))
    names = VERL | {"tokens": "tokens"}
    return tabulate(counted, names, environment="verl", source=str(path))


def read_tensorboard(path: Path | str) -> LoggedRun:
    """An event file or a folder of one run, of TRL (``train/...``) or verl.

    Raises:
        InputError: as :func:`read_log`; or TensorBoard is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"log: {path} does not exist")
    try:
        from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415
            EventAccumulator,
        )
    except ModuleNotFoundError:
        raise InputError(
            "log: TensorBoard's files need tensorboard: pip install tensorboard"
        ) from None
    try:
        events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        steps: dict[int, dict[str, float]] = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                steps.setdefault(event.step, {})[tag.removeprefix("train/")] = float(event.value)
    except Exception as error:  # a damaged file fails in many ways inside
        raise InputError(
            f"log: {path} is no event file of TensorBoard ({type(error).__name__})"
        ) from None
    verl = any("actor/grad_norm" in values for values in steps.values())
    names, environment = (VERL, "verl") if verl else (TRL, "TRL")
    return tabulate(sorted(steps.items()), names, environment=environment, source=str(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"log: {path} is not a text file") from None
    except OSError as error:
        raise InputError(f"log: {path} cannot be read ({error.strerror})") from None


def _lines(path: Path, text: str) -> Iterator[Any]:
    """The values of JSONL."""
    for place, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                raise InputError(f"log: {path}: line {place} is not JSON") from None


def _step(value: object, path: Path, place: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise InputError(f"log: {path}: entry {place}: step {value!r}, must be a whole number")
    return value


def _numbers(entry: Mapping[str, object]) -> dict[str, float]:
    return {key: finite(value) for key, value in entry.items() if not isinstance(value, str)}


def _console(line: str) -> tuple[int, dict[str, float]] | None:
    """A step that verl's console logger printed; None for any other line."""
    found = CONSOLE.search(line)
    if found is None or len(found[1]) > 15:
        return None
    values = {}
    for part in found[2].split(" - "):
        name, _, text = part.strip().rpartition(":")
        number = NUMBER.match(text)
        if name and number:
            try:
                values[name] = float(number[1])
            except ValueError:
                continue
    return int(found[1]), values


def _trained(values: Mapping[str, float]) -> bool:
    """Whether this step updated the actor: verl logs validations by themselves too."""
    return any(name.startswith("actor/") for name in values)


def _with_tokens(values: dict[str, float]) -> dict[str, float]:
    """With the responses' tokens of the step, where verl says how many."""
    length, prompt = values.get("response_length/mean"), values.get("perf/total_num_tokens")
    if prompt is not None and length is not None and "prompt_length/mean" in values:
        share = length / max(length + values["prompt_length/mean"], 1e-9)
        return values | {"tokens": prompt * share}
    return values
