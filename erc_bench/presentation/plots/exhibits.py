"""What a figure of the gallery is: a name, the columns it needs, a tidy table and how to draw it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from erc_bench.presentation.plots.frames import Frames
from erc_bench.presentation.plots.style import rc


@dataclass(frozen=True)
class Whole:
    """The one token whose columns are too large to be kept for any other.

    Attributes:
        columns: of its row.
        experiments: where it is looked for, in order.
        row: its place in ``frames.tokens``, which are those of one experiment; None: it is not there.
    """

    columns: tuple[str, ...]
    experiments: Callable[[Frames], list[str]]
    row: Callable[[Frames], int | None]


@dataclass(frozen=True)
class Needs:
    """Which columns a figure reads beyond those of every row, and of which rows.

    Attributes:
        metrics: columns of the updates.
        tokens: columns of sampled tokens, kept only where ``rows`` holds for ``frames.tokens``.
        arms: labels of the arms of an experiment whose sampled tokens are drawn; those whose gate
            drops tokens are always kept.
        whole: the token that is drawn with its distributions.
    """

    metrics: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    rows: Callable[[Frames], pd.Series] | None = None
    arms: Callable[[Frames, str], set[str]] | None = None
    whole: Whole | None = None


@dataclass(frozen=True)
class Drawing:
    """A figure with the tidy table it shows; an objective's marks have an id from ``style.group_of``."""

    number: str
    name: str
    title: str
    figure: Figure
    data: pd.DataFrame


@dataclass(frozen=True)
class Exhibit:
    """A registered figure.

    Attributes:
        number: as claims and readers call it.
        topic: what it shows, in one word for file names; the function of this name in
            ``reporting.captions`` writes the words about it.
        title: its heading.
        table: the tidy table that is drawn and stored beside the figure.
        draw: draws that table.
        needs: what must be read of the records.
    """

    number: str
    topic: str
    title: str
    table: Callable[[Frames], pd.DataFrame]
    draw: Callable[[Frames, pd.DataFrame], Figure]
    needs: Needs = Needs()

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"fig{self.number}_{self.topic}"

    def __call__(self, frames: Frames) -> Drawing:
        """Draw it.

        Raises:
            NothingToDraw: the records lack what it shows.
        """
        data = self.table(frames)
        with rc():
            figure = self.draw(frames, data)
        return Drawing(self.number, self.name, self.title, figure, data)
