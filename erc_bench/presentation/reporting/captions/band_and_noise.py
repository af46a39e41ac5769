"""Words of figure 10."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from erc_bench.analysis.numbers import percent
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.band_and_noise import (
    BASE,
    GATE,
    OUTSIDE,
    PRECISION,
    SWEEP,
    TASK,
    format_name,
)
from erc_bench.presentation.plots.seeds import REWARD
from erc_bench.presentation.reporting.words import Words, shown


def words(frames: Frames, data: pd.DataFrame) -> Words:
    """The best half-width of each arm, and the noise floor beside what the gate drops."""
    notice, caption = [], []
    swept, noise, reference = (data[data["part"] == part] for part in (SWEEP, PRECISION, TASK))
    if len(swept):
        best = f"Highest mean reward: {', '.join(_best_widths(frames, swept))}."
        notice.append(
            f"Above, look for a half-width whose reward lies over {BASE}'s level line, and at its "
            f"drift. {best}"
        )
        caption.append(
            "Above: final reward (a diverged run counts as 0), share of tokens the gate drops and "
            "exact KL against the half-width of the band, means over a run's updates and 95 % "
            f"intervals over {int(swept['n'].max())} seeds; level line: {BASE}, which has no gate. "
            f"{best}"
        )
    if len(noise):
        outside = noise[(noise["value"] == OUTSIDE) & np.isfinite(noise["mean"])]
        still = outside[outside["jitter"] == outside["jitter"].min()].sort_values("bits")
        coarsest = still.iloc[0]
        text = (
            "Below, no update was made: whatever lies outside the band is noise. Rounding to the "
            f"coarsest format puts {percent(coarsest['mean'])} there"
        )
        floors = [
            f"{format_name(row['bits'])} {shown(row, 100, ' %')}" for _, row in still.iterrows()
        ]
        caption.append(
            "Below: the learning rate is 0, so every token should have an entropy ratio of 1; the "
            "behaviour policy's logits are rounded and disturbed by Gaussian noise (jitter: its "
            "standard deviation). Share of tokens outside the band of 5 % and exact KL, means and "
            f"95 % intervals over {int(noise['n'].max())} seeds. Outside the band at jitter "
            f"{coarsest['jitter']:g}: {', '.join(floors)}."
        )
        for _, dropped in reference.iterrows():
            text += f"; {GATE} drops {percent(dropped['mean'])} in {TASK}"
            if dropped["mean"] > 0:
                caption.append(
                    f"{GATE} drops {shown(dropped, 100, ' %')} in {TASK}; noise of the "
                    f"coarsest format alone puts {percent(coarsest['mean'] / dropped['mean'])} as "
                    "many outside."
                )
        notice.append(text + ".")
    return Words(" ".join(notice), " ".join(caption))


def _best_widths(frames: Frames, swept: pd.DataFrame) -> list[str]:
    reward = swept[(swept["value"] == REWARD) & np.isfinite(swept["mean"])]
    found = []
    for name in frames.looks(reward["objective"].unique()):
        arm = reward[reward["objective"] == name]
        best = arm.loc[arm["mean"].idxmax()]
        where = "" if math.isnan(best["half_width"]) else f" at ±{best['half_width']:g}"
        found.append(f"{name} {shown(best)}{where}")
    return found
