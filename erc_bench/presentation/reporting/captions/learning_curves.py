"""Words of figure 3."""

from __future__ import annotations

import math

import pandas as pd

from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.learning_curves import ROLLOUTS, optimum
from erc_bench.presentation.plots.seeds import final_reward
from erc_bench.presentation.reporting.words import Words, clear_sign, mean_of, tally


def words(frames: Frames, data: pd.DataFrame) -> Words:
    """Each pair's return after training, and how often the gate raises it."""
    assert len(data)
    findings, signs = [], []
    for experiment in frames.panels:
        runs = frames.runs[frames.runs["experiment"] == experiment]
        runs = runs.assign(value=final_reward(runs))
        values = runs.groupby(["objective", "seed"])["value"].mean()
        pairs = frames.pairs(experiment)
        signs += [clear_sign(values[base], values[gated]) for base, gated in pairs]
        names = dict.fromkeys(name for pair in pairs for name in pair)
        parts = [f"{name} {mean_of(values[name])}" for name in names]
        imported = "imported" in frames.about(experiment)  # a log: it has no evaluation
        measured = "Last rollout" if imported else "Final evaluation"
        findings += [f"{measured}, {experiment}: {', '.join(parts)}."] if parts else []
    known = any(math.isfinite(optimum(frames, experiment)) for experiment in frames.panels)
    caption = (
        "Mean return of rollouts against the tokens generated for training: mean and 95 % interval "
        f"over seeds, at most {ROLLOUTS} points, each the mean of a seed's consecutive rollouts"
        f"{'; dotted: expected return of the best policy' if known else ''}. A diverged run has "
        "return 0 from its divergence on."
    )
    notice = (
        "Where a solid line (with the gate) runs above the broken line of its hue (without), the "
        "gate learns more from the same number of tokens."
    )
    if signs:
        notice += (
            f" The return at the end is {tally(signs, 'paired comparisons')} with the gate "
            "(95 % intervals)."
        )
    return Words(notice, " ".join([caption, *findings[:4]]))
