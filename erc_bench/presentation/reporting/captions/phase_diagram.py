"""Words of figure 8."""

from __future__ import annotations

import numpy as np
import pandas as pd

from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.phase_diagram import BASE, LOG_KL_RATIO, band_text
from erc_bench.presentation.plots.seeds import REWARD
from erc_bench.presentation.reporting.words import Words, difference


def words(_: Frames, data: pd.DataFrame) -> Words:
    """In how many cells a gated arm is clearly better or worse, and its best and worst cell."""
    known = data[np.isfinite(data["mean"])]
    reward = known[known["value"] == REWARD].groupby("objective", sort=False)
    drift = known[known["value"] == LOG_KL_RATIO].groupby("objective", sort=False)
    caption = (
        f"Each cell is the mean over {int(data['n'].max())} paired seeds of a gated arm against "
        f"{BASE} at the same learning rate and updates per rollout (minibatches times epochs). "
        "Upper rows: difference in final reward, a diverged run counted as 0. Lower rows: ratio of "
        "exact KL, geometric mean over seeds; empty where there is one update per rollout and so no "
        "drift. 95 % intervals, not corrected for the number of cells."
    )
    findings, counts = [], []
    for arm, cells in reward:
        higher, lower = _clear(cells)
        counts.append(f"{arm} higher in {higher}, lower in {lower} of {len(cells)}")
        findings.append(
            f"{arm}: reward clearly higher than {BASE}'s in {higher} of {len(cells)} cells, "
            f"clearly lower in {lower}"
            + (f"; best {_cell(cells.loc[cells['mean'].idxmax()])}" if higher else "")
            + (f"; worst {_cell(cells.loc[cells['mean'].idxmin()])}" if lower else "")
            + "."
        )
    for arm, cells in drift:
        higher, lower = _clear(cells)
        findings.append(
            f"{arm}: exact KL clearly lower in {lower} of {len(cells)} cells, clearly higher in "
            f"{higher}."
        )
    notice = (
        "Strong colour is a clear difference: blue cells earn more than without the gate, red cells "
        f"less; pale, hatched cells show none. Reward against {BASE}'s, in cells: "
        f"{'; '.join(counts)}."
    )
    return Words(notice, " ".join([caption, *findings]))


def _clear(cells: pd.DataFrame) -> tuple[int, int]:
    return int((cells["low"] > 0).sum()), int((cells["high"] < 0).sum())


def _cell(cell: pd.Series) -> str:
    return (
        f"{difference(cell)} at learning rate {cell['learning_rate']:g}, {cell['updates']:g} "
        f"updates, {band_text(cell['band_low'], cell['band_high'])}"
    )
