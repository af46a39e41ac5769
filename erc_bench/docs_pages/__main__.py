"""Write every page: ``python -m erc_bench.docs_pages docs``."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from erc_bench.docs_pages.claims import claims_page
from erc_bench.docs_pages.curves import measure
from erc_bench.docs_pages.drawing import draw, png
from erc_bench.docs_pages.pages import (
    constraints_page,
    index_page,
    matrix,
    objective_page,
    plot_data,
)
from erc_bench.objectives import RECIPES


def texts() -> dict[str, str]:
    """Every text file by its path under ``docs``: pages, and the data of the figures."""
    cells = matrix()
    files = {
        "objectives/index.md": index_page(cells),
        "objectives/constraints.md": constraints_page(cells),
    }
    for name in RECIPES:
        panels = measure(name)
        files[f"objectives/{name}.md"] = objective_page(name, panels, cells[name])
        files[f"objectives/plots/{name}.json"] = plot_data(panels)
    return files


def digest(data: str) -> str:
    """Of a figure's data; the figure carries it."""
    return hashlib.sha256(data.encode()).hexdigest()


def write(docs: Path) -> None:
    """Write pages, data and figures; remove what no objective has any more."""
    (docs / "claims.md").write_text(claims_page())
    files = texts()
    folder = docs / "objectives"
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.md"), *folder.glob("plots/*")]:
        old.unlink()
    for path, text in files.items():
        (docs / path).write_text(text)
    for name in RECIPES:
        data = files[f"objectives/plots/{name}.json"]
        (folder / "plots" / f"{name}.png").write_bytes(png(draw(measure(name)), digest(data)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m erc_bench.docs_pages DOCS")
    write(Path(sys.argv[1]))
