"""The folder of a demo: it belongs to one set of settings, and is continued only with these."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from erc_bench.core.errors import InputError
from erc_bench.core.storage import holds_nothing, read_object, write_json

__all__ = ["claim"]


def claim(out: Path, settings: Mapping[str, object], *, resume: bool) -> None:
    """Write the settings into a new or empty folder, or go on in one that has the same.

    Raises:
        InputError: the folder holds something else, or results of other settings.
    """
    path = out / "settings.json"
    if path.is_file():
        if not resume:
            raise InputError(f"out: {out} already holds a demo; add --resume to go on")
        found = read_object(path, "resume")
        for name, value in settings.items():
            if found.get(name) != value:
                raise InputError(
                    f"resume: {out} was made with {name} = {found.get(name)!r}, now {value!r}"
                )
    elif out.exists() and not holds_nothing(out):
        raise InputError(f"out: {out} is not empty; choose another folder")
    else:
        write_json(path, settings)
