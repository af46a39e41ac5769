"""Figures as files: PNG, SVG, the data beside them, and an index with captions and provenance."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from erc_bench.plots import Drawing, Frames, draw_all, rc
from erc_bench.records import Results, atomic_write

__all__ = ["figure_bytes", "save_figure", "write_drawings", "write_figures"]

DPI = 200


def figure_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as png or svg; the same figure gives the same bytes."""
    stream = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with rc():
        figure.savefig(stream, format=kind, dpi=DPI, metadata=metadata)
    return stream.getvalue()


def save_figure(figure: Figure, folder: Path | str, name: str) -> list[Path]:
    """Write ``name.png`` (200 dpi) and ``name.svg``."""
    paths = []
    for kind in ("png", "svg"):
        path = Path(folder) / f"{name}.{kind}"
        content = figure_bytes(figure, kind)
        atomic_write(path, lambda stream, content=content: stream.write(content))  # type: ignore[misc]
        paths.append(path)
    return paths


def write_figures(results: Results, folder: Path | str) -> list[Path]:
    """Draw every figure the records allow, and write it with its data.

    Each figure becomes ``<name>.png``, ``<name>.svg`` and ``<name>.csv`` (what it shows, tidy).
    ``figures.json`` holds titles, captions, provenance, and for each figure that could not be
    drawn, why. Returns the paths written, ``figures.json`` last.
    """
    return write_drawings(*draw_all(Frames.read(results)), results, folder)


def write_drawings(
    drawings: list[Drawing], skipped: dict[str, str], results: Results, folder: Path | str
) -> list[Path]:
    """The files of figures already drawn; see :func:`write_figures`."""
    folder = Path(folder)
    paths: list[Path] = []
    for drawing in drawings:
        paths += save_figure(drawing.figure, folder, drawing.name)
        path = folder / f"{drawing.name}.csv"
        text = drawing.data.to_csv(index=False, lineterminator="\n")
        atomic_write(path, lambda stream, text=text: stream.write(text.encode()))  # type: ignore[misc]
        paths.append(path)
    index: dict[str, Any] = {
        "figures": [
            {
                "name": d.name,
                "title": d.title,
                "caption": d.caption,
                "files": [f"{d.name}.{kind}" for kind in ("png", "svg", "csv")],
            }
            for d in drawings
        ],
        "not_drawn": skipped,
        "provenance": results.provenance,
        "config": results.config,
    }
    path = folder / "figures.json"
    text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
    atomic_write(path, lambda stream: stream.write(text.encode()))
    return [*paths, path]
