"""Figures as files: PNG, SVG, the data beside them, and an index with captions and provenance."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from erc_bench.core.storage import atomic_write
from erc_bench.presentation.plots import draw_all, rc, read
from erc_bench.presentation.plots.style import GROUP
from erc_bench.presentation.reporting.captions import Plate, captioned
from erc_bench.presentation.reporting.data import write_data
from erc_bench.studies.records import Results

__all__ = ["Gallery", "figure_bytes", "settle", "table_bytes", "write_figures"]

DPI = 200
PLACE_DIGITS = 6  # of a place as a share of the figure
#: Longest table written as CSV, and its significant digits.
CSV_ROWS, DIGITS = 20_000, 6


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as png or svg; the same figure gives the same bytes."""
    stream = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with rc():
        figure.savefig(stream, format=kind, dpi=DPI, metadata=metadata)
    return stream.getvalue()


def settle(figure: Figure) -> None:
    """Solve the layout once, for all formats, and keep it without the last digits of places.

    Those digits differ between processes. Marks of an objective, which share an id, get a number behind
    it: ids in a file are distinct.
    """
    with rc():
        if (engine := figure.get_layout_engine()) is not None:
            engine.execute(figure)  # draws nothing
        figure.set_layout_engine(None)  # with any engine, even "none", each saving draws twice
    count: Counter[str] = Counter()
    for mark in figure.findobj(lambda part: str(part.get_gid() or "").startswith(GROUP)):
        group = str(mark.get_gid())
        count[group] += 1
        mark.set_gid(f"{group}.{count[group]}")
    for part in figure.subfigs:
        part.bbox_relative.set_points(np.round(part.bbox_relative.get_points(), PLACE_DIGITS))
    for axes in figure.get_axes():
        place = axes.get_position(original=True)
        axes.set_position(np.round(place.bounds, PLACE_DIGITS).tolist())


class Gallery:
    """Every figure the records allow, drawn once; the bytes of its files are made once each.

    Attributes:
        frames: what they are drawn from.
        drawings: figures with their data and captions.
        skipped: for each figure that could not be drawn, why.
    """

    def __init__(self, results: Results) -> None:
        self.frames = read(results)
        drawings, self.skipped = draw_all(self.frames)
        self.drawings = [captioned(drawing, self.frames) for drawing in drawings]
        for drawing in self.drawings:
            settle(drawing.figure)
        self._bytes: dict[tuple[str, str], bytes] = {}
        self._tables: dict[str, tuple[str, bytes]] = {}

    def table(self, drawing: Plate) -> tuple[str, bytes]:
        """A drawing's data, see :func:`table_bytes`."""
        if drawing.name not in self._tables:
            self._tables[drawing.name] = table_bytes(drawing.data)
        return self._tables[drawing.name]

    def bytes(self, drawing: Plate, kind: str) -> bytes:
        """A drawing as png or svg."""
        key = (drawing.name, kind)
        if key not in self._bytes:
            self._bytes[key] = figure_bytes(drawing.figure, kind)
        return self._bytes[key]


def table_bytes(data: pd.DataFrame) -> tuple[str, bytes]:
    """A figure's data as a kind of file and its bytes.

    CSV with ``DIGITS`` significant digits; above ``CSV_ROWS`` rows, Parquet in float32.
    """
    if len(data) <= CSV_ROWS:
        text = data.to_csv(index=False, lineterminator="\n", float_format=f"%.{DIGITS}g")
        return "csv", text.encode()
    stream = io.BytesIO()
    floats = dict.fromkeys(data.select_dtypes("float64"), np.float32)
    table = pa.Table.from_pandas(data.astype(floats), preserve_index=False)
    pq.write_table(table.replace_schema_metadata(None), stream, compression="zstd")
    return "parquet", stream.getvalue()


def write_figures(
    results: Results, folder: Path | str, gallery: Gallery | None = None, *, data: bool = False
) -> list[Path]:
    """Draw every figure the records allow, and write it with what it shows as a tidy table.

    Each figure becomes ``<name>.png`` (200 dpi), ``<name>.svg`` and ``<name>.csv`` (``.parquet`` where
    it is long, see :func:`table_bytes`). With ``data``, ``folder/data`` gets the records they are drawn
    from, as a small results folder from which the same figures can be made again.
    ``figures.json`` holds titles, captions, provenance, and for each figure that could not be
    drawn, why. Returns the paths written, ``figures.json`` last.
    """
    gallery = Gallery(results) if gallery is None else gallery
    folder = Path(folder)
    paths = write_data(results, gallery.frames, folder / "data") if data else []
    files: dict[str, list[str]] = {}
    for drawing in gallery.drawings:
        contents = {kind: gallery.bytes(drawing, kind) for kind in ("png", "svg")}
        table, content = gallery.table(drawing)
        contents[table] = content
        files[drawing.name] = [f"{drawing.name}.{kind}" for kind in contents]
        for kind, content in contents.items():
            paths.append(folder / f"{drawing.name}.{kind}")
            atomic_write(paths[-1], lambda stream, content=content: stream.write(content))  # type: ignore[misc]
    index: dict[str, Any] = {
        "figures": [
            {
                "name": d.name,
                "title": d.title,
                "notice": d.notice,
                "caption": d.caption,
                "files": files[d.name],
            }
            for d in gallery.drawings
        ],
        "not_drawn": gallery.skipped,
        "provenance": results.provenance,
        "config": results.config,
    }
    path = folder / "figures.json"
    text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
    atomic_write(path, lambda stream: stream.write(text.encode()))
    return [*paths, path]
