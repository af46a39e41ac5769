"""Words over training: figures 2 to 4."""

from __future__ import annotations

import math

import pandas as pd

from erc_bench.analysis.numbers import number, percent
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.clip_fractions import BAND, BOUND, WHOLE
from erc_bench.presentation.plots.entropy_gradient import GRADIENT, bin_width
from erc_bench.presentation.plots.learning_curves import ROLLOUTS, optimum
from erc_bench.presentation.plots.seeds import final_reward
from erc_bench.presentation.reporting.words import Words, clear_sign, median_of, shown, tally, words


@words
def entropy_gradient(frames: Frames, data: pd.DataFrame) -> Words:
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
            f"{name} changed entropy by {median_of(change[name], unit=' nats')}, gradient-norm spread "
            f"{median_of(spread[name])}"
            for name in dict.fromkeys(name for pair in pairs for name in pair)
        ]
        findings += [f"{experiment}: {'; '.join(parts)}."] if parts else []
    caption = (
        "Entropy per token and the gradient's norm before clipping, over training: median and 95 % "
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


@words
def learning_curves(frames: Frames, data: pd.DataFrame) -> Words:
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
        parts = [f"{name} {median_of(values[name])}" for name in names]
        imported = "imported" in frames.about(experiment)  # a log: it has no evaluation
        measured = "Last rollout" if imported else "Final evaluation"
        findings += [f"{measured}, {experiment}: {', '.join(parts)}."] if parts else []
    known = any(math.isfinite(optimum(frames, experiment)) for experiment in frames.panels)
    caption = (
        "Mean return of rollouts against the tokens generated for training: median and 95 % interval "
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


@words
def clip_fractions(frames: Frames, data: pd.DataFrame) -> Words:
    """Per pair, what the base's clip determines and what lies outside the gated arm's band."""
    whole = data[data["kind"] == WHOLE].set_index(["experiment", "objective", "metric"])
    findings, shares = [], []
    for experiment in dict.fromkeys(data["experiment"]):
        for base, gated in frames.pairs(experiment):
            keys = [(experiment, base, BOUND), (experiment, gated, BAND)]
            if not all(key in whole.index for key in keys):
                continue
            bound, outside = (whole.loc[key] for key in keys)
            shares.append((bound["estimate"], outside["estimate"]))
            findings.append(
                f"{experiment}: clip of {base} {shown(bound, 100, ' %')}, band of {gated} "
                f"{shown(outside, 100, ' %')}."
            )
    if not findings and BAND in set(data["metric"]):
        outside = data.loc[(data["kind"] == WHOLE) & (data["metric"] == BAND), "estimate"]
        findings = [
            f"Outside the band lay {percent(outside.min())} to {percent(outside.max())} of tokens."
        ]
    caption = (
        "Share of tokens whose loss PPO's clip determines against the share outside ERC's entropy "
        "band. Curves: over training, means over whole rollouts. Rows: over whole runs, median "
        "and 95 % interval over seeds. Dotted: the paper's 0.02 % and 20.29 %. The axis is linear "
        "below 0.01 %."
    )
    return Words(_clip_notice(shares), " ".join([caption, *findings[:6]]))


def _clip_notice(shares: list[tuple[float, float]]) -> str:
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
