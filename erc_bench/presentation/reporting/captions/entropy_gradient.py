"""Words of figure 2."""

from __future__ import annotations

import pandas as pd

from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.entropy_gradient import GRADIENT, bin_width
from erc_bench.presentation.reporting.words import Words, clear_sign, mean_of, tally


def words(frames: Frames, data: pd.DataFrame) -> Words:
    """Each pair's change of entropy and spread of the gradient norm, and how often the gate steadies it."""
    assert len(data)
    findings, signs, averaged = [], [], 1
    for experiment in frames.panels:
        here = frames.metrics[frames.metrics["experiment"] == experiment]
        averaged = max(averaged, bin_width(here))
        runs = frames.runs[frames.runs["experiment"] == experiment]
        runs = runs.set_index(["objective", "seed"])
        change = runs["entropy/final"] - runs["entropy/initial"]
        spread = here.groupby(["objective", "seed"])[GRADIENT].std()
        pairs = frames.pairs(experiment)
        signs += [clear_sign(spread[base], spread[gated]) for base, gated in pairs]
        parts = [
            f"{name} changed entropy by {mean_of(change[name], unit=' nats')}, gradient-norm spread "
            f"{mean_of(spread[name])}"
            for name in dict.fromkeys(name for pair in pairs for name in pair)
        ]
        findings += [f"{experiment}: {'; '.join(parts)}."] if parts else []
    caption = (
        "Entropy per token and the gradient's norm before clipping, over training: mean and 95 % "
        "interval over seeds, diverged runs until they diverge."
    )
    if averaged > 1:
        caption += f" Points are means of up to {averaged} updates within a seed."
    notice = (
        "Compare a solid line (with the gate) with the broken line of its hue (without): the gate "
        "steadies training where the solid gradient norm varies less."
    )
    if signs:
        notice += (
            f" With the gate its spread is {tally(signs, 'paired comparisons')} (95 % intervals)."
        )
    return Words(notice, " ".join([caption, *findings[:2]]))
