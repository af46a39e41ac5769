"""The gallery: every figure by name, in the order in which it is shown."""

from __future__ import annotations

from erc_bench.presentation.plots import (
    band_and_noise,
    baselines,
    clip_fractions,
    entropy_gradient,
    learning_curves,
    one_update,
    phase_diagram,
    probability_entropy,
    profiles,
    ratios,
    scorecard,
    simplex,
    staleness,
)
from erc_bench.presentation.plots.exhibits import Drawing, Exhibit
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.reading import read_frames
from erc_bench.studies.records import Results

FIGURES: dict[str, Exhibit] = {
    module.FIGURE.name: module.FIGURE
    for module in (
        one_update,
        entropy_gradient,
        learning_curves,
        clip_fractions,
        probability_entropy,
        ratios,
        baselines,
        phase_diagram,
        staleness,
        scorecard,
        band_and_noise,
        profiles,
        simplex,
    )
}


def read(results: Results) -> Frames:
    """What the registered figures need of every finished part."""
    return read_frames(results, [figure.needs for figure in FIGURES.values()])


def draw_all(frames: Frames) -> tuple[list[Drawing], dict[str, str]]:
    """Every figure the records allow, and for the others why not."""
    drawings, skipped = [], {}
    for name, figure in FIGURES.items():
        try:
            drawings.append(figure(frames))
        except NothingToDraw as reason:
            skipped[name] = str(reason)
    return drawings, skipped
