"""Words of figure 8b."""

from __future__ import annotations

import numpy as np
import pandas as pd

from erc_bench.core.metrics import metric
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.seeds import KL, REWARD
from erc_bench.presentation.reporting.words import Words, shown


def words(frames: Frames, data: pd.DataFrame) -> Words:
    """The best mean reward, and both values at the most updates per rollout."""
    reward = data[data["value"] == REWARD].dropna(subset=["mean"])
    best = reward.loc[reward["mean"].idxmax()]
    notice = (
        "With one update per rollout the gate cannot act; look where, to the right, gated lines "
        "leave their base's, in reward (left) and in drift (right). Highest mean reward: "
        f"{best['objective']} with {best['updates']:g} updates per rollout, {shown(best)}."
    )
    caption = (
        "Final reward (a diverged run counts as 0) and exact KL per token, mean over a run's "
        "updates, against updates per rollout: means and 95 % intervals over "
        f"{int(data['n'].max())} seeds. Logarithmic axes; with one update per rollout the KL is 0 "
        "and has no place on them."
    )
    most, kl = data["updates"].max(), metric(KL)
    last = data[data["updates"] == most].set_index(["value", "objective"])
    texts = [
        f"{name} {shown(last.loc[(REWARD, name)])} with "
        f"{shown(last.loc[(KL, name)], kl.scale)} {kl.shown}"
        for name in frames.looks(data["objective"].unique())
        if (REWARD, name) in last.index and np.isfinite(last.loc[(KL, name), "mean"])
    ]
    return Words(
        notice, f"{caption} At {most:g} updates: {', '.join(texts)}." if texts else caption
    )
