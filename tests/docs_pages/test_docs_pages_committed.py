"""The committed pages are what objectives, environments and experiments say and do now."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from erc_bench.docs_pages.__main__ import digest, texts
from erc_bench.docs_pages.environments import ENVIRONMENTS, episode, page_name
from erc_bench.objectives import RECIPES

DOCS = Path(__file__).parents[2] / "docs"
PLOTS = DOCS / "objectives" / "plots"


@pytest.fixture(scope="module")
def generated():
    return texts()


def test_pages_equal_what_is_generated(generated):
    """``python -m erc_bench.docs_pages docs`` writes them."""
    pages = {path: text for path, text in generated.items() if path.endswith(".md")}
    for path, text in pages.items():
        assert (DOCS / path).read_text() == text, path
    for folder in ("objectives", "environments"):
        committed = {p.relative_to(DOCS).as_posix() for p in (DOCS / folder).glob("*.md")}
        assert committed == {path for path in pages if path.startswith(f"{folder}/")}


@pytest.mark.parametrize("name", RECIPES)
def test_data_of_figures_equal_what_is_measured(generated, name):
    """Every weight on every axis, to the sixth decimal."""
    committed = json.loads((PLOTS / f"{name}.json").read_text())
    measured = json.loads(generated[f"objectives/plots/{name}.json"])
    assert len(committed) == len(measured)
    for old, new in zip(committed, measured, strict=True):
        assert (old["axis"], old["old_probability"]) == (new["axis"], new["old_probability"])
        for key in ("x", "A > 0", "A < 0"):
            pair = [np.array(panel[key], dtype=float) for panel in (old, new)]
            np.testing.assert_allclose(*pair, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_figures_were_drawn_from_the_committed_data(name):
    """They carry its digest, and are small."""
    figure = PLOTS / f"{name}.png"
    with Image.open(figure) as image:
        assert image.info["Description"] == digest((PLOTS / f"{name}.json").read_text())
    assert figure.stat().st_size < 60_000


def test_nothing_else_lies_beside_the_figures():
    """An objective that is gone takes its figure along."""
    names = {f"{name}.{kind}" for name in RECIPES for kind in ("json", "png")}
    assert {path.name for path in PLOTS.iterdir()} == names


def test_pictures_of_environments_are_their_frames():
    """Pixel by pixel; an environment that is gone takes its picture along."""
    folder = DOCS / "environments" / "images"
    names = {spec: page_name(spec).replace(".md", ".png") for spec in ENVIRONMENTS}
    assert {path.name for path in folder.iterdir()} == set(names.values())
    for spec, name in names.items():
        made = ENVIRONMENTS[spec]()
        with Image.open(folder / name) as picture:
            np.testing.assert_array_equal(np.asarray(picture), made.render_frame(episode(made)))
