"""What the figures are drawn from, and what drawing one gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from erc_bench.analysis.statistics import mean_intervals
from erc_bench.studies.records import Results

__all__ = ["Drawing", "Frames", "NothingToDraw", "Settings", "band", "drawn_band"]


#: Experiments that are no sweep and are left out of figures 1 to 6: what their own figure shows.
OWN_FIGURE = ("baselines",)


class NothingToDraw(LookupError):  # noqa: N818 - a finding about the records, not an error
    """The records lack what a figure shows; the message says what."""


@dataclass(frozen=True)
class Settings:
    """An experiment's bounds: clip range and band as (low, high) distances from 1, and delta."""

    clip: tuple[float, float] = (0.2, 0.28)
    band: tuple[float, float] = (0.05, 0.05)
    delta: float = 0.01


@dataclass(frozen=True)
class Frames:
    """What the figures show of a results folder's records, read once.

    Attributes:
        runs: every run.
        metrics: updates, and tokens: sampled tokens, of the experiments in ``panels``.
        config: the configuration.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    tokens: pd.DataFrame
    config: dict[str, Any]

    @classmethod
    def read(cls, results: Results) -> Frames:
        """What the figures show of every finished part (see :mod:`erc_bench.presentation.plots.reading`)."""
        from erc_bench.presentation.plots.reading import read_frames  # noqa: PLC0415 - it reads into this class

        return read_frames(results)

    @property
    def experiments(self) -> list[str]:
        """In the records' order."""
        return list(dict.fromkeys(self.runs["experiment"]))

    @property
    def panels(self) -> list[str]:
        """Experiments with a panel in figures 1 to 6, in the records' order.

        Sweeps and tuned arms have figures of their own, 7, 8 and 10, where points of a grid are
        axes and not arms; without any other experiment they are drawn here too.
        """
        plain = [e for e in self.experiments if self.about(e).get("regime") != "sweep"]
        return [e for e in plain if e not in OWN_FIGURE] or plain or self.experiments

    def about(self, experiment: str) -> dict[str, Any]:
        """The configuration's entry of an experiment; empty where it has none."""
        found = self.config.get("experiments")
        entry = found.get(experiment) if isinstance(found, dict) else None
        return entry if isinstance(entry, dict) else {}

    def arms(self, experiment: str) -> list[str]:
        """Objectives that ran in an experiment, in the records' order."""
        runs = self.runs
        return list(dict.fromkeys(runs.loc[runs["experiment"] == experiment, "objective"]))

    def settings(self, experiment: str) -> Settings:
        """Bounds from the configuration; what it does not say is as in the paper."""
        entry = self.about(experiment)
        default = Settings()

        def bounds(key: str, otherwise: tuple[float, float]) -> tuple[float, float]:
            value = entry.get(key)
            if not isinstance(value, dict):
                return otherwise
            return float(value.get("low", otherwise[0])), float(value.get("high", otherwise[1]))

        delta = entry.get("delta", default.delta)
        return Settings(
            bounds("clip", default.clip),
            bounds("band", default.band),
            float(delta) if isinstance(delta, int | float) else default.delta,
        )

    def failures(self, experiment: str, objective: str) -> tuple[int, int]:
        """Number of diverged runs and of all runs of an arm."""
        runs = self.runs
        arm = runs[(runs["experiment"] == experiment) & (runs["objective"] == objective)]
        return int(arm["diverged"].astype(bool).sum()), len(arm)


@dataclass(frozen=True)
class Drawing:
    """A figure, the tidy data it shows, and words computed from that data.

    Attributes:
        name: its file's name.
        title: its heading.
        figure: the figure; marks of one objective have an id that starts with ``style.GROUP``.
        data: what it shows.
        caption: what is drawn, and its numbers.
        notice: what to look for, and what the data show of it.
    """

    name: str
    title: str
    figure: Figure
    data: pd.DataFrame
    caption: str
    notice: str


def drawn_band(values: np.ndarray) -> pd.DataFrame:
    """As :func:`band`, its ends NaN below three seeds: of two, Student's interval fills the page."""
    found = band(values)
    few = found["n"] < 3
    return found.assign(low=found["low"].mask(few), high=found["high"].mask(few))


def band(values: np.ndarray) -> pd.DataFrame:
    """Mean and 95 % Student-t interval over axis 0 (seeds), NaN left out: one row per column.

    Columns mean, low, high, n; with one seed low and high are NaN.
    """
    mean, low, high, n = mean_intervals(values)
    return pd.DataFrame({"mean": mean, "low": low, "high": high, "n": n})
