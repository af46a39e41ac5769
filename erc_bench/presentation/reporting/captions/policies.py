"""Words about policies of three actions: figure 12."""

from __future__ import annotations

import numpy as np
import pandas as pd

from erc_bench.objectives import make
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.simplex import (
    OLD,
    STARTS,
    SWAPPED,
    UPDATES,
    VALUES,
    allowed,
)
from erc_bench.presentation.reporting.words import Words, counted, sentence_list, words


@words
def simplex(frames: Frames, data: pd.DataFrame) -> Words:
    """Which rules find nothing wrong with a swap, and how many starts the updates leave where they are."""
    names = list(dict.fromkeys(data["objective"]))
    swapped = np.array([SWAPPED])
    blind = [name for name in names if allowed(make(name), swapped).item()]
    moved = float(np.sum(np.array(OLD) * np.log(np.array(OLD) / np.array(SWAPPED))))
    old, swap = (", ".join(f"{p:g}" for p in policy) for policy in (OLD, SWAPPED))
    notice = (
        "A ratio clip, a bound on probabilities and a bound on the KL shade a patch around the rollout's "
        "policy; a band on the entropy ratio shades a ring, which passes through all swaps of its "
        "probabilities."
    )
    if blind:
        notice += (
            f" {sentence_list(blind)} cannot tell ({swap}) from ({old}), {moved:.2f} nats away."
        )
    stuck = []
    for name in names:
        walked = data[(data["objective"] == name) & (data["kind"] == "path")]
        spread = walked.groupby("line")[["p1", "p2", "p3"]].agg(np.ptp).max(axis=1)
        stuck.append(f"{name} {int((spread < 1e-6).sum())}")
    values = ", ".join(f"{v:g}" for v in VALUES)
    caption = (
        f"Exact expected updates of one state with three actions that earn {values}; corners are sure of "
        f"one action. The rollout was drawn from ({old}). Shaded: policies at which no action's token is "
        "clipped or gated, whatever its advantage (with gates: by the gates). Arrows: one update, every "
        "action weighted by the rollout's policy; their length grows with the root of the change. Lines: "
        f"{counted(UPDATES, 'update')} from {counted(len(STARTS), 'start')}. "
        f"Starts that no update moves: {', '.join(stuck)}. No records are shown: the recipes that ran "
        "decide which panels there are."
    )
    return Words(notice, caption)
