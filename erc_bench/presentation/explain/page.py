"""Puts the page's template, style and ES module into one file; browsers load no module from ``file:``."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from erc_bench.core.errors import InputError
from erc_bench.core.storage import atomic_write

__all__ = ["FIRST", "PRESETS", "assemble", "write"]


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


#: Prepared states by name; fields as in a link, what is missing is the page's default.
PRESETS: Mapping[str, Mapping[str, Any]] = json.loads(_source("presets.json"))


#: The one that the lesson begins with.
FIRST = "tour"


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline block: nothing else on the page may run."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def assemble(preset: str = FIRST) -> str:
    """The whole page, which starts from ``preset`` where its link names no state.

    Raises:
        InputError: no such preset.
    """
    if preset not in PRESETS:
        raise InputError(f"preset: {preset!r} is unknown; must be one of {', '.join(PRESETS)}")
    style, script = _source("style.css"), _source("explain.js")
    parts = {
        "preset": preset,
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "presets": json.dumps(PRESETS, separators=(",", ":")),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _source("page.html"))


def write(path: Path, preset: str = FIRST) -> Path:
    """Write the page, whole or not at all.

    Raises:
        InputError: no such preset.
        OSError: it could not be written.
    """
    page = assemble(preset).encode()
    atomic_write(path, lambda stream: stream.write(page))
    return path
