"""What stands below a figure: one module per figure, called by the figure's topic.

Each has a function ``words`` that computes its sentences from the table that the figure draws.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from erc_bench.presentation.plots import FIGURES, Drawing, Frames
from erc_bench.presentation.reporting.words import Words

__all__ = ["Plate", "captioned"]


@dataclass(frozen=True)
class Plate(Drawing):
    """A drawing with its words: what to look for (``notice``), what is drawn (``caption``)."""

    notice: str
    caption: str


def captioned(drawing: Drawing, frames: Frames) -> Plate:
    """A figure of the gallery with the words about it."""
    module = importlib.import_module(f"{__name__}.{FIGURES[drawing.name].topic}")
    words: Words = module.words(frames, drawing.data)
    return Plate(**vars(drawing), notice=words.notice, caption=words.caption)
