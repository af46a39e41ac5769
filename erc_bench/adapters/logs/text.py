"""Reading text and JSON of unknown origin: a failure is one line that names path and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from erc_bench.adapters.logs.runs import Entry
from erc_bench.core.errors import InputError

__all__ = ["Logged", "json_values", "read_text", "require_step"]

#: Largest file that is read; logs of a run are far smaller.
MAX_BYTES = 1 << 30


class Logged(NamedTuple):
    """A JSON value, and where it stands (``path:line``)."""

    where: str
    value: Any

    @property
    def object(self) -> dict[str, Any]:
        """The value, which must be an object.

        Raises:
            InputError: it is something else.
        """
        if not isinstance(self.value, dict):
            kind = type(self.value).__name__
            raise InputError(f"{self.where}: {kind}, must be an object of metrics")
        return self.value


def read_text(path: Path) -> str:
    """The file's text, which is not empty.

    Raises:
        InputError: missing, unreadable, empty, too large, or not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: more than {MAX_BYTES >> 30} GiB, no log of a run")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text (byte {error.start} is no UTF-8)") from None
    except ValueError as error:
        raise InputError(f"{path!s:.200}: cannot be read ({error})") from None
    if not text.strip():
        raise InputError(f"{path}: empty")
    return text


def json_values(path: Path, text: str) -> list[Logged]:
    """The values of a text with one JSON value per line, or with a single one over several lines.

    Raises:
        InputError: a value is not JSON; the last line may have been cut off in writing.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    first, line = lines[0]
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        lines = [(first, "\n".join(text.split("\n")[first - 1 :]))]
    return [Logged(f"{path}:{number}", _parsed(path, number, part)) for number, part in lines]


def _parsed(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{number + error.lineno - 1}"
        raise InputError(f"{where}: no JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        told = type(error).__name__
        raise InputError(f"{path}:{number}: no JSON that can be read ({told})") from None


def require_step(where: str, step: object, values: object) -> Entry:
    """An entry from a logged step number and what was logged with it.

    Raises:
        InputError: the step is not a whole number, or the values are not an object.
    """
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 2**53:
        raise InputError(f"{where}: step is {str(step)[:40]}, must be a whole number")
    return Entry(where, step, Logged(where, values).object)
