"""From records to figures: pure functions that read and write no file, and write no sentence."""

from erc_bench.presentation.plots.exhibits import Drawing, Exhibit, Needs
from erc_bench.presentation.plots.figures import FIGURES, draw_all, read
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.style import ArmStyle, arm_style, ordered, rc

__all__ = [
    "FIGURES",
    "ArmStyle",
    "Drawing",
    "Exhibit",
    "Frames",
    "Needs",
    "NothingToDraw",
    "arm_style",
    "draw_all",
    "ordered",
    "rc",
    "read",
]
