"""From records to figures: pure functions that read and write no file."""

from erc_bench.presentation.plots.figures import FIGURES, draw_all
from erc_bench.presentation.plots.frames import Drawing, Frames, NothingToDraw
from erc_bench.presentation.plots.style import ArmStyle, arm_style, ordered, rc

__all__ = [
    "FIGURES",
    "ArmStyle",
    "Drawing",
    "Frames",
    "NothingToDraw",
    "arm_style",
    "draw_all",
    "ordered",
    "rc",
]
