"""Puts template, style and ES module into one file, because browsers load no module from ``file:``."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from erc_bench.core.metrics import BAND, DELTA
from erc_bench.core.storage import write_text
from erc_bench.core.validation import unknown

__all__ = ["FIRST", "PRESETS", "assemble", "write"]


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


#: Prepared states by name. They have the fields of a link; a missing one has the page's default.
PRESETS: Mapping[str, Mapping[str, Any]] = json.loads(_source("presets.json"))


#: The preset with which the lesson begins.
FIRST = "tour"


def _hash(text: str) -> str:
    """How a Content-Security-Policy names an inline block, so that nothing else on the page can run."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def assemble(preset: str = FIRST) -> str:
    """The whole page, which starts from ``preset`` unless its link names a state.

    Raises:
        InputError: no such preset.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    style, script = _source("style.css"), _source("explain.js")
    parts = {
        "preset": preset,
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "data": json.dumps(
            {"delta": DELTA, "band": BAND, "presets": PRESETS}, separators=(",", ":")
        ),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _source("page.html"))


def write(path: Path, preset: str = FIRST) -> Path:
    """Write the page; an interruption leaves either the whole file or none.

    Raises:
        InputError: no such preset.
        OSError: it could not be written.
    """
    write_text(path, assemble(preset))
    return path
