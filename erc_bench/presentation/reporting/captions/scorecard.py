"""Words of figure 9."""

from __future__ import annotations

import pandas as pd

from erc_bench.analysis.numbers import estimate_text
from erc_bench.analysis.statistics import Estimate
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.scorecard import IQM, scores_of
from erc_bench.presentation.reporting.words import Words, sentence_list


def words(frames: Frames, data: pd.DataFrame) -> Words:
    """Who leads in how many experiments, and whose interquartile mean is highest."""
    scores = scores_of(frames)
    means = data[data["kind"] == "mean"]
    best = means.loc[means.groupby("experiment", sort=False)["value"].idxmax(), "objective"]
    leaders = sentence_list([f"{name} in {n}" for name, n in best.value_counts().head(3).items()])
    notice = (
        "An axis on which a solid line lies outside the broken one of its hue is an experiment that "
        "the gate helps; where the shaded intervals overlap, the order may be chance. Most often "
        f"highest in mean score, of {len(best)} experiments: {leaders}."
    )
    caption = (
        "Scores in [0, 1], 1 is best. Radars: mean and 95 % interval over seeds, in the experiments "
        "that the base and its gated arms share; the area means nothing, the order of the axes is "
        "arbitrary. Table: mean ± half of the 95 % Student-t interval."
    )
    iqm = data[data["kind"] == IQM]
    if len(iqm):
        caption += (
            f" {IQM}: interquartile mean over all runs of {sentence_list(scores.common)}, with its "
            "95 % stratified bootstrap interval; empty for objectives that did not run in all of "
            f"them. Highest: {_highest(iqm)}."
        )
    failed = frames.runs[frames.runs["diverged"].astype(bool)]
    failures = int(failed["experiment"].isin(scores.experiments).sum())
    return Words(
        notice, caption + (f" {failures} diverged runs count as score 0." if failures else "")
    )


def _highest(iqm: pd.DataFrame) -> str:
    best = iqm.loc[iqm["value"].idxmax()]
    text = (
        f"{best['objective']}, {estimate_text(Estimate(best['value'], best['low'], best['high']))}"
    )
    others = iqm[(iqm["objective"] != best["objective"]) & (iqm["high"] >= best["low"])]
    if others.empty:
        return text
    return f"{text}; its interval overlaps that of {sentence_list([*others['objective']])}"
