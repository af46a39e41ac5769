"""verl: the JSONL of its ``file`` logger, or its console log."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from erc_bench.adapters.logs.runs import Entry, LoggedRun, Names, run_of
from erc_bench.adapters.logs.text import Logged, json_values, read_text, require_step
from erc_bench.core.errors import InputError

__all__ = ["VERL_NAMES", "is_console", "read_verl", "with_tokens"]

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

_CONSOLE = re.compile(r"(?:^|[\s)])step:(\d{1,15}) - (\S.*)$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NUMPY = re.compile(r"^np\.\w+\((.*)\)$")


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
    entries = _console(path, text) if is_console(text) else _entries(json_values(path, text))
    return run_of(with_tokens(entries), VERL_NAMES, environment="verl", source=str(path))


def is_console(text: str) -> bool:
    """Whether a text has a line of verl's console logger."""
    return any("step:" in line and _found(line) for line in text.split("\n"))


def _found(line: str) -> re.Match[str] | None:
    return _CONSOLE.search(_COLOUR.sub("", line.rstrip()))


def _entries(logged: Iterable[Logged]) -> Iterator[Entry]:
    for one in logged:
        values = one.object
        if "step" not in values or "data" not in values:
            raise InputError(
                f"{one.where}: no step and data in it; a log of verl's file logger has both"
            )
        yield require_step(one.where, values["step"], values["data"])


def _console(path: Path, text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        found = _found(line) if "step:" in line else None
        if found is None:
            continue
        where = f"{path}:{number}"
        values: dict[str, Any] = {}
        for pair in found[2].split(" - "):
            name, colon, value = pair.strip().rpartition(":")
            if not colon:
                raise InputError(f"{where}: {pair[:40]!r} is not name:value")
            values[name] = _value(value)
        yield require_step(where, int(found[1]), values)


def _value(text: str) -> float | str:
    """A printed number. Other text stays as it is, and is refused where a number is needed."""
    numpy = _NUMPY.match(text)
    try:
        return float(numpy[1] if numpy else text)
    except ValueError:
        return text


def with_tokens(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Entries with the running number of response tokens, where verl logged what it follows from.

    A step's ``perf/total_num_tokens`` counts prompts and responses, whose mean lengths are logged.
    Steps that were logged twice count once.
    """
    by_step = {entry.step: entry for entry in entries}
    total = 0.0
    for step in sorted(by_step):
        entry = by_step[step]
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
