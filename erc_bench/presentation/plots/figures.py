"""The gallery: every figure by name."""

from __future__ import annotations

from collections.abc import Callable

from erc_bench.presentation.plots.band_and_noise import fig10_band_and_noise
from erc_bench.presentation.plots.baselines import fig7_baselines
from erc_bench.presentation.plots.clipping import fig4_clip_fractions
from erc_bench.presentation.plots.curves import fig2_entropy_gradient, fig3_learning_curves
from erc_bench.presentation.plots.frames import Drawing, Frames, NothingToDraw
from erc_bench.presentation.plots.one_update import fig1_one_update
from erc_bench.presentation.plots.phase import fig8_phase_diagram
from erc_bench.presentation.plots.profiles import fig11_profiles
from erc_bench.presentation.plots.scorecard import fig9_scorecard
from erc_bench.presentation.plots.staleness import fig8b_staleness
from erc_bench.presentation.plots.tokens import fig5_probability_entropy, fig6_ratios

__all__ = ["FIGURES", "draw_all"]

FIGURES: dict[str, Callable[[Frames], Drawing]] = {
    "fig1_one_update": fig1_one_update,
    "fig2_entropy_gradient": fig2_entropy_gradient,
    "fig3_learning_curves": fig3_learning_curves,
    "fig4_clip_fractions": fig4_clip_fractions,
    "fig5_probability_entropy": fig5_probability_entropy,
    "fig6_ratios": fig6_ratios,
    "fig7_baselines": fig7_baselines,
    "fig8_phase_diagram": fig8_phase_diagram,
    "fig8b_staleness": fig8b_staleness,
    "fig9_scorecard": fig9_scorecard,
    "fig10_band_and_noise": fig10_band_and_noise,
    "fig11_profiles": fig11_profiles,
}


def draw_all(frames: Frames) -> tuple[list[Drawing], dict[str, str]]:
    """Every figure the records allow, and for the others why not."""
    drawings, skipped = [], {}
    for name, draw in FIGURES.items():
        try:
            drawings.append(draw(frames))
        except NothingToDraw as reason:
            skipped[name] = str(reason)
    return drawings, skipped
