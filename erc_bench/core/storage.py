"""Files that survive a crash: each is whole or absent, and one process at a time writes to a folder."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import filelock
import platformdirs

from erc_bench.core.errors import InputError

__all__ = [
    "atomic_write",
    "cache_folder",
    "exclusive",
    "holds_nothing",
    "read_object",
    "require_writable",
    "sweep",
    "tidy",
    "write_json",
    "write_text",
]

#: The process that writes into a results folder holds a lock of the operating system on this file.
#: Whatever ends the process also releases the lock, and a file that is left behind locks nothing.
_LOCK = ".lock"
_HOLDER = ".holder"
#: The name of what an interrupted :func:`atomic_write` leaves behind.
_ASIDE = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")


def cache_folder() -> Path:
    """``ERC_BENCH_CACHE`` if it is set, else the platform's folder for caches of a user."""
    named = os.environ.get("ERC_BENCH_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("erc-bench")


def atomic_write(
    path: Path, write: Callable[[IO[bytes]], object], *, make_folders: bool = True
) -> None:
    """Write a file so that ``path`` either keeps what it held or holds the whole new content.

    Args:
        path: the file's final name.
        write: writes the content into the stream it is given.
        make_folders: make missing folders; otherwise a missing folder is an error.

    Raises:
        OSError: it could not be written; what ``path`` held is still there.
    """
    if make_folders:
        path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
    )
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as :func:`atomic_write` does."""
    atomic_write(path, lambda stream: stream.write(text.encode()))


def write_json(path: Path, value: object) -> None:
    """Write a value as JSON as :func:`atomic_write` does."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object from a file; ``what`` begins the message of an error.

    Raises:
        InputError: it cannot be read, or is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{what}: {path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what}: {path} is no JSON ({type(error).__name__}: {error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{what}: {path} holds a {type(found).__name__}, must be an object")
    return found


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, so that a crash cannot undo the rename."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _aside(folder: Path) -> list[Path]:
    return [left for left in folder.rglob(".*.tmp") if _ASIDE.fullmatch(left.name)]


def sweep(folder: Path) -> None:
    """Remove what interrupted writes left behind. Only the holder of the folder's lock may do this."""
    for left in _aside(folder):
        with contextlib.suppress(OSError):
            left.unlink()


def tidy(folder: Path) -> None:
    """:func:`sweep`, unless somebody writes there at this moment, or nothing can be changed there."""
    if _aside(folder):
        with contextlib.suppress(InputError), exclusive(folder):
            sweep(folder)


def holds_nothing(folder: Path) -> bool:
    """Whether a folder is empty, except for what a process that was killed early may have left."""
    own = {_LOCK, _HOLDER}
    return all(p.name in own or _ASIDE.fullmatch(p.name) for p in folder.iterdir())


def require_writable(folder: Path) -> list[Path]:
    """Make ``folder`` and try to write into it; returns the folders that were made, innermost first.

    Raises:
        InputError: it is a file, or cannot be made or written to; what was made is removed again.
    """
    missing: list[Path] = []
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"out: {folder} is a file; a folder is needed")
        missing = [f for f in (folder, *folder.parents) if not f.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        _unmake(missing)
        raise InputError(f"out: {folder} cannot be written to ({error.strerror})") from None
    return missing


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against other writers; it is made if missing, and removed if it is left empty.

    The lock's file is removed while the lock is held, so that a process which waits for it notices
    that the file has lost its name.

    Raises:
        InputError: another process holds it, or nothing can be written there.
    """
    made = require_writable(folder)
    lock = filelock.FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
        mine = os.stat(folder / _LOCK).st_ino
    except filelock.Timeout:
        raise InputError(
            f"out: {folder} is in use by {_holder(folder)}; wait for it, or choose another folder"
        ) from None
    except OSError as error:
        raise InputError(f"out: {folder} cannot be written to ({error.strerror})") from None
    try:
        with contextlib.suppress(OSError):  # it only serves the message above
            told = json.dumps({"process": os.getpid(), "machine": platform.node()})
            (folder / _HOLDER).write_text(told)
        yield
    finally:
        with contextlib.suppress(OSError):
            # By now the name may belong to another process's lock in a new folder.
            if os.stat(folder / _LOCK).st_ino == mine:
                (folder / _HOLDER).unlink(missing_ok=True)
                (folder / _LOCK).unlink()
        _unmake(made)
        lock.release()


def _unmake(folders: list[Path]) -> None:
    """Remove the folders that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _holder(folder: Path) -> str:
    try:
        told = json.loads((folder / _HOLDER).read_text())
        return f"process {int(told['process'])} on {told['machine']!s}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
