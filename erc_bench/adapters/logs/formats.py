"""The logs of TRL, verl and TensorBoard: what each calls our columns, and how it is read.

Every reader makes entries of a file and hands them to :func:`run_of` with the trainer's names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from erc_bench.adapters.logs.runs import Entry, LoggedRun, Names, run_of
from erc_bench.adapters.logs.text import Logged, json_values, read_text, require_step
from erc_bench.core.errors import InputError

__all__ = ["read_log", "read_tensorboard", "read_trl", "read_verl"]

#: Our columns to TRL's names for them. ``num_tokens`` counts prompts too; ``clip_ratio`` is the share
#: of tokens whose loss the clip determines.
TRL_NAMES: Names = {
    "rollout": ("rollout",),
    "staleness": ("staleness",),
    "tokens": ("num_tokens",),
    "reward/mean": ("reward/mean", "reward"),
    "grad/norm": ("grad/norm", "grad_norm"),
    "drift/entropy_new": ("drift/entropy_new", "entropy"),
    "clip/ratio_bound_fraction": (
        "clip/ratio_bound_fraction",
        "clip_ratio/region_mean",
        "clip_ratio",
    ),
}
#: Our columns to verl's names for them. ``actor/entropy`` is the rollout policy's, ``actor/entropy_loss``
#: the trained one's; ``pg_clipfrac`` counts tokens whose loss the clip determines.
VERL_NAMES: Names = {
    "tokens": ("tokens",),
    "reward/mean": ("critic/score/mean", "critic/rewards/mean"),
    "grad/norm": ("actor/grad_norm",),
    "drift/entropy_old": ("actor/drift/entropy_old", "actor/entropy"),
    "drift/entropy_new": ("actor/drift/entropy_new", "actor/entropy_loss", "actor/entropy"),
    "clip/ratio_bound_fraction": ("actor/clip/ratio_bound_fraction", "actor/pg_clipfrac"),
}
#: What TRL's Trainer puts before its names in TensorBoard.
_TRL_EVENTS = "train/"
#: How the names of TensorBoard's event files begin.
_EVENTS = "events.out.tfevents"

_CONSOLE = re.compile(r"(?:^|[\s)])step:(\d{1,15}) - (\S.*)$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NUMPY = re.compile(r"^np\.\w+\((.*)\)$")


def read_log(path: Path | str) -> LoggedRun:
    """A log of TRL, verl or TensorBoard, by what it looks like.

    Event files go by their name; a console log by a line ``step:1 - ...``; JSON lines with ``step``
    and ``data`` are verl's, other JSON is TRL's.

    Raises:
        InputError: none of these, or as the reader of its kind.
    """
    path = Path(path)
    if _is_events(path):
        return read_tensorboard(path)
    if path.is_dir():
        if (path / "trainer_state.json").is_file():
            return read_trl(path)
        raise InputError(f"{path}: neither a trainer_state.json nor event files in it")
    text = read_text(path)
    if text.lstrip().startswith("{"):
        first = json_values(path, text)[0].value
        return read_verl(path) if {"step", "data"} <= first.keys() else read_trl(path)
    if _is_console(text):
        return read_verl(path)
    raise InputError(
        f"{path}: no log that is known (trainer_state.json, JSON lines, verl's console, event files)"
    )


def read_trl(path: Path | str) -> LoggedRun:
    """A run of TRL's GRPOTrainer, stock or ours.

    A row is one entry of ``log_history``: one optimizer step with ``logging_steps=1``, a mean over
    several otherwise. The stock trainer logs neither rollout nor staleness: each entry with a reward
    then begins a rollout, and staleness is NaN.

    Args:
        path: ``trainer_state.json``, a checkpoint's folder, or a file with one entry per line.

    Raises:
        InputError: no such log; one line with path and line.
    """
    path = Path(path)
    path = path / "trainer_state.json" if path.is_dir() else path
    logged = json_values(path, read_text(path))
    state = logged[0].value
    if len(logged) == 1 and not (isinstance(state, dict) and "step" in state):
        history = state.get("log_history") if isinstance(state, dict) else None
        if not isinstance(history, list):
            raise InputError(f"{path}: no log_history in it; a trainer_state.json is needed")
        logged = [Logged(f"{path}: log_history[{i}]", entry) for i, entry in enumerate(history)]
    entries = [
        require_step(one.where, one.object.get("step"), one.object)
        for one in logged
        if not _is_summary(one.object)
    ]
    return run_of(entries, TRL_NAMES, environment="trl", source=str(path))


def _is_summary(values: dict[str, Any]) -> bool:
    """Whether an entry is of an evaluation, or the summary at the end of training."""
    return "train_runtime" in values or any(str(name).startswith("eval_") for name in values)


def read_verl(path: Path | str) -> LoggedRun:
    """A run of verl, with our plug-in or another loss.

    A row is one step of verl: a rollout and the mean over all of its updates. So ``update`` and
    ``rollout`` both count steps, and staleness is NaN. ``tokens`` adds up the responses that were
    trained on; verl does not log those that dynamic sampling left out.

    Args:
        path: JSONL of ``trainer.logger=file``, or what verl printed.

    Raises:
        InputError: no such log; one line with path and line.
    """
    path = Path(path)
    text = read_text(path)
    entries = _console(path, text) if _is_console(text) else _file_logger(json_values(path, text))
    return run_of(_with_tokens(entries), VERL_NAMES, environment="verl", source=str(path))


def _file_logger(logged: Iterable[Logged]) -> Iterator[Entry]:
    for one in logged:
        values = one.object
        if "step" not in values or "data" not in values:
            raise InputError(
                f"{one.where}: no step and data in it; a log of verl's file logger has both"
            )
        yield require_step(one.where, values["step"], values["data"])


def _printed(text: str) -> Iterator[tuple[int, re.Match[str]]]:
    """Lines of verl's console logger, with their numbers."""
    for number, line in enumerate(text.split("\n"), 1):
        if "step:" in line and (found := _CONSOLE.search(_COLOUR.sub("", line.rstrip()))):
            yield number, found


def _is_console(text: str) -> bool:
    return any(_printed(text))


def _console(path: Path, text: str) -> Iterator[Entry]:
    for number, line in _printed(text):
        where = f"{path}:{number}"
        values: dict[str, Any] = {}
        for pair in line[2].split(" - "):
            name, colon, value = pair.strip().rpartition(":")
            if not colon:
                raise InputError(f"{where}: {pair[:40]!r} is not name:value")
            values[name] = _value(value)
        yield require_step(where, int(line[1]), values)


def _value(text: str) -> float | str:
    """A printed number. Other text stays as it is, and is refused where a number is needed."""
    numpy = _NUMPY.match(text)
    try:
        return float(numpy[1] if numpy else text)
    except ValueError:
        return text


def _with_tokens(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Entries with the running number of response tokens, where verl logged what it follows from.

    A step's ``perf/total_num_tokens`` counts prompts and responses, whose mean lengths are logged.
    Steps that were logged twice count once.
    """
    total = 0.0
    for _, entry in sorted({entry.step: entry for entry in entries}.items()):
        total += _responses(entry.values)
        known = {"tokens": total} if math.isfinite(total) else {}
        yield entry._replace(values={**entry.values, **known})


def _responses(values: Any) -> float:
    names = ("perf/total_num_tokens", "response_length/mean", "prompt_length/mean")
    numbers = [values.get(name) for name in names]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in numbers):
        return math.nan
    try:
        tokens, response, prompt = map(float, numbers)
    except OverflowError:
        return math.nan
    whole = response + prompt
    return tokens * response / whole if min(tokens, response) >= 0 and whole > 0 else math.nan


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
    if not _is_events(path):
        raise InputError(f"{path}: no event file ({_EVENTS}...) of TensorBoard")
    entries = _events(path)
    if any(tag.startswith(_TRL_EVENTS) for entry in entries for tag in entry.values):
        names = {ours: tuple(_TRL_EVENTS + n for n in logged) for ours, logged in TRL_NAMES.items()}
        return run_of(entries, names, environment="trl", source=str(path))
    return run_of(_with_tokens(entries), VERL_NAMES, environment="verl", source=str(path))


def _is_events(path: Path) -> bool:
    """Whether a path is an event file, or a folder with some."""
    return any(path.glob(f"*{_EVENTS}*")) if path.is_dir() else _EVENTS in path.name


def _events(path: Path) -> list[Entry]:
    """Every scalar, as a simple value or as a tensor of one number, by its step."""
    try:
        from tensorboard.backend.event_processing import (  # noqa: PLC0415
            event_accumulator,
        )
    except ImportError:
        raise InputError(
            "tensorboard: not installed, but event files need it: pip install tensorboard"
        ) from None
    by_step: dict[int, dict[str, float]] = {}
    reader = event_accumulator.EventAccumulator(str(path), size_guidance={"scalars": 0})
    try:
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            for event in reader.Scalars(tag):
                by_step.setdefault(int(event.step), {})[tag] = float(event.value)
    except Exception as error:  # a damaged record raises whatever its parser raises
        line = str(error).split("\n", 1)[0][:120]
        raise InputError(f"{path}: damaged events ({type(error).__name__}: {line})") from None
    if not by_step:
        raise InputError(f"{path}: no scalars in it")
    first = min(by_step)
    if first < 0:
        raise InputError(f"{path}: {min(by_step[first])} at step {first}, must be 0 or more")
    return [Entry(f"{path}: step {step}", step, values) for step, values in by_step.items()]
