"""The records behind the figures as a results folder a hundred times smaller, to be committed.

It is read by :meth:`erc_bench.studies.records.Results.open` like any other. ``runs`` is whole; ``metrics``
and ``tokens`` hold the rows, columns and digits that figures 1 to 6 show (see
:mod:`erc_bench.presentation.plots.reading`), so that figures drawn from it are those of the whole records.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from erc_bench.core.errors import InputError
from erc_bench.core.storage import atomic_write
from erc_bench.presentation.plots import Frames
from erc_bench.studies.records import SCHEMA_VERSION, Results, Table

__all__ = ["CONTENT", "is_figure_data", "open_data", "write_data"]

#: What the manifest of such a folder says it holds.
CONTENT = "figure data"


def write_data(results: Results, frames: Frames, folder: Path | str) -> list[Path]:
    """Write what the figures need of a results folder into ``folder``; returns the paths.

    One Parquet file per table. The same records give the same bytes (with one version of pyarrow).

    Raises:
        InputError: ``folder`` holds something else, or is the folder read from.
    """
    folder = Path(folder)
    _require_replaceable(folder, results)
    tables: tuple[Table, ...] = ("tokens", "metrics", "runs")
    manifest = {
        "kind": "erc-bench results",
        "content": CONTENT,
        "schema_version": SCHEMA_VERSION,
        "config": results.config,
        "provenance": results.provenance,
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    paths = [folder / "manifest.json"]
    atomic_write(paths[0], lambda stream: stream.write(text.encode()))
    for name in tables:
        paths.append(folder / name / "all.parquet")
        table = _stored(getattr(frames, name), whole=name == "runs")
        floats = {f.name for f in table.schema if pa.types.is_floating(f.type)}
        settings: dict[str, Any] = {
            "compression": "zstd",
            "compression_level": 12,
            "use_dictionary": [n for n in table.schema.names if n not in floats],
            "use_byte_stream_split": [n for n in table.schema.names if n in floats],
            "write_statistics": False,
            "row_group_size": 2**20,
        }
        write = partial(pq.write_table, table, **settings)
        atomic_write(paths[-1], write)
    return paths


def is_figure_data(folder: Path) -> bool:
    """Whether a folder was written by :func:`write_data`."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("content") == CONTENT


def open_data(folder: Path | str) -> Results:
    """Open a folder that :func:`write_data` wrote.

    Raises:
        InputError: not such a folder; whole records are named as such.
    """
    results = Results.open(folder)
    if not is_figure_data(results.path):
        raise InputError(f"from: {folder} holds whole records; give it without --from")
    return results


def _require_replaceable(folder: Path, results: Results) -> None:
    if folder.exists() and folder.resolve() == results.path.resolve():
        raise InputError(f"data: {folder} is the folder read from; choose another")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"data: {folder} is a file; a folder is needed")
    if folder.is_dir() and any(folder.iterdir()) and not is_figure_data(folder):
        raise InputError(f"data: {folder} holds something else than figure data; it is not touched")


def _stored(frame: pd.DataFrame, *, whole: bool) -> pa.Table:
    """Floats as float32, which holds them exactly (unless ``whole``), names as dictionaries."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(
        {"erc-bench schema": str(SCHEMA_VERSION)}
    )
    if whole:
        return table
    fields = []
    for field in table.schema:
        kind = field.type
        if pa.types.is_floating(kind):
            kind = pa.float32()
        elif pa.types.is_list(kind):
            kind = pa.list_(pa.float32())
        fields.append(field.with_type(kind))
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))
