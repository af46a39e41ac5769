"""Reading text and JSON of unknown origin: a failure is one line that names path and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from erc_bench.adapters.logs.runs import Entry
from erc_bench.core.errors import InputError

__all__ = ["json_lines", "read_text", "require_step", "whole_json"]

#: Largest file that is read; logs of a run are far smaller.
MAX_BYTES = 1 << 30


def read_text(path: Path) -> str:
    """The file's text, which is not empty.

    Raises:
        InputError: missing, unreadable, empty, too large, or no UTF-8.
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


def whole_json(path: Path, text: str) -> Any:
    """The text as one JSON value.

    Raises:
        InputError: no JSON; with the line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: no JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON that can be read ({type(error).__name__})") from None


def json_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``path:line`` and the object of each line that is not blank.

    Raises:
        InputError: a line is no JSON object; the last line may have been cut off in writing.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: no JSON ({error.msg}, column {error.colno})") from None
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{where}: no JSON that can be read ({type(error).__name__})"
            ) from None
        if not isinstance(value, dict):
            raise InputError(f"{where}: {type(value).__name__}, must be an object")
        yield where, value


def require_step(where: str, value: object, values: object) -> Entry:
    """An entry from a logged step number and what was logged with it.

    Raises:
        InputError: no whole number, or no object.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise InputError(f"{where}: step is {str(value)[:40]}, must be a whole number")
    if not isinstance(values, dict):
        raise InputError(f"{where}: {type(values).__name__}, must be an object of metrics")
    return Entry(where, value, values)
