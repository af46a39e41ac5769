"""Write every page: ``python -m erc_bench.docs_pages docs``."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from erc_bench.docs_pages.claims import claims_page
from erc_bench.docs_pages.curves import measure
from erc_bench.docs_pages.drawing import draw, png
from erc_bench.docs_pages.environments import (
    ENVIRONMENTS,
    environment_page,
    environments_index,
    episode,
    frame_png,
    page_name,
)
from erc_bench.docs_pages.experiments import experiments_page
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
        "claims.md": claims_page(),
        "experiments.md": experiments_page(),
        "environments/index.md": environments_index(),
        **{f"environments/{page_name(spec)}": environment_page(spec) for spec in ENVIRONMENTS},
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
    files = texts()
    for pages, images in (("objectives", "plots"), ("environments", "images")):
        (docs / pages / images).mkdir(parents=True, exist_ok=True)
        for old in [*(docs / pages).glob("*.md"), *(docs / pages / images).iterdir()]:
            old.unlink()
    for path, text in files.items():
        (docs / path).write_text(text)
    for name in RECIPES:
        data = files[f"objectives/plots/{name}.json"]
        figure = docs / "objectives" / "plots" / f"{name}.png"
        figure.write_bytes(png(draw(measure(name)), digest(data)))
    for spec, dynamics in ENVIRONMENTS.items():
        picture = docs / "environments" / "images" / page_name(spec).replace(".md", ".png")
        made = dynamics()
        picture.write_bytes(frame_png(made.render_frame(episode(made))))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m erc_bench.docs_pages DOCS")
    write(Path(sys.argv[1]))
