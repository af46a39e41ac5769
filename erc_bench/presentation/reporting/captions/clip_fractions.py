"""Words of figure 4."""

from __future__ import annotations

import math

import pandas as pd

from erc_bench.analysis.numbers import number, percent
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.clip_fractions import BAND, BOUND, WHOLE
from erc_bench.presentation.reporting.words import Words, shown


def words(frames: Frames, data: pd.DataFrame) -> Words:
    """Per pair, what the base's clip determines and what lies outside the gated arm's band."""
    whole = data[data["kind"] == WHOLE].set_index(["experiment", "objective", "metric"])
    findings, shares = [], []
    for experiment in dict.fromkeys(data["experiment"]):
        for base, gated in frames.pairs(experiment):
            keys = [(experiment, base, BOUND), (experiment, gated, BAND)]
            if not all(key in whole.index for key in keys):
                continue
            bound, outside = (whole.loc[key] for key in keys)
            shares.append((bound["mean"], outside["mean"]))
            findings.append(
                f"{experiment}: clip of {base} {shown(bound, 100, ' %')}, band of {gated} "
                f"{shown(outside, 100, ' %')}."
            )
    if not findings and BAND in set(data["metric"]):
        outside = data.loc[(data["kind"] == WHOLE) & (data["metric"] == BAND), "mean"]
        findings = [
            f"Outside the band lay {percent(outside.min())} to {percent(outside.max())} of tokens."
        ]
    caption = (
        "Share of tokens whose loss PPO's clip determines against the share outside ERC's entropy "
        "band. Curves: over training, means over whole rollouts. Rows: over whole runs, mean "
        "and 95 % interval over seeds. Dotted: the paper's 0.02 % and 20.29 %. The axis is linear "
        "below 0.01 %."
    )
    return Words(_notice(shares), " ".join([caption, *findings[:6]]))


def _notice(shares: list[tuple[float, float]]) -> str:
    text = (
        "The distance between an open circle (clip) and a diamond (band) on the logarithmic axis is "
        "how much more the band catches."
    )
    known = [(bound, outside) for bound, outside in shares if math.isfinite(bound + outside)]
    if not known:
        return text
    more = sum(outside > bound for bound, outside in known)
    text += (
        f" More tokens lie outside the band of a gated arm than its base clips in {more} of "
        f"{len(known)} pairs of an arm and its base"
    )
    factors = [outside / bound for bound, outside in known if bound > 0]
    if factors:
        text += f", {number(min(factors))} to {number(max(factors))} times as many"
    return text + "."
