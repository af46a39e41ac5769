"""What stands below the figures, computed from the tables that they draw.

A figure's words are the function of its topic's name, in one of the modules here.
"""

from __future__ import annotations

from dataclasses import dataclass

from erc_bench.presentation.plots import FIGURES, Drawing, Frames
from erc_bench.presentation.reporting.captions import policies, scores, sweeps, tokens, training
from erc_bench.presentation.reporting.words import WORDS

__all__ = ["Plate", "captioned", "policies", "scores", "sweeps", "tokens", "training"]


@dataclass(frozen=True)
class Plate(Drawing):
    """A drawing with its words: what to look for (``notice``), what is drawn (``caption``)."""

    notice: str
    caption: str


def captioned(drawing: Drawing, frames: Frames) -> Plate:
    """A figure of the gallery with the words about it."""
    notice, caption = WORDS[FIGURES[drawing.name].topic](frames, drawing.data)
    return Plate(**vars(drawing), notice=notice, caption=caption)
