"""Notebooks run from top to bottom and print what is shown in the site."""

from __future__ import annotations

import math
import os
import re
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def shown(notebook) -> list[tuple[str, str]]:
    """Source of each code cell, and its text, streams joined; an image is only there."""
    cells = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        text = ""
        for output in cell.outputs:
            assert output.get("name") != "stderr", output.text
            text += output.text if output.output_type == "stream" else " ".join(sorted(output.data))
        cells.append((cell.source, text.replace("text/plain", "").strip()))
    return cells


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_those_committed(path, tmp_path, monkeypatch):
    """The words exactly; numbers within 2 percent or 2 units, as another processor rounds otherwise."""
    nbformat = pytest.importorskip("nbformat", reason="needs erc-bench[docs]")
    client = pytest.importorskip("nbclient", reason="needs erc-bench[docs]")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'envs'}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    committed = nbformat.read(path, as_version=4)
    expected = shown(committed)
    options = {
        "timeout": 300,
        "kernel_name": "python3",
        "resources": {"metadata": {"path": str(tmp_path)}},
    }
    done = client.NotebookClient(committed, **options).execute()
    for (source, old), (_, new) in zip_longest(expected, shown(done)):
        assert NUMBER.sub("#", old).split() == NUMBER.sub("#", new).split(), source
        pairs = zip(map(float, NUMBER.findall(old)), map(float, NUMBER.findall(new)), strict=True)
        for a, b in pairs:
            assert math.isclose(a, b, rel_tol=0.02, abs_tol=2), source


def test_there_is_one():
    """A folder that moved would test nothing."""
    assert [p.name for p in NOTEBOOKS] == ["one-update.ipynb"]
