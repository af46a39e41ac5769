"""Words about scores: figures 9 and 11."""

from __future__ import annotations

import pandas as pd

from erc_bench.analysis.numbers import estimate_text
from erc_bench.analysis.scores import OVERALL
from erc_bench.analysis.statistics import Estimate
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.profiles import FOUND, IMPROVEMENT
from erc_bench.presentation.plots.scorecard import IQM, scores_of
from erc_bench.presentation.reporting.words import Words, sentence_list, words


@words
def scorecard(frames: Frames, data: pd.DataFrame) -> Words:
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
        "arbitrary. Table: mean and 95 % interval."
    )
    iqm = data[data["kind"] == IQM]
    if len(iqm):
        caption += (
            f" {IQM}: interquartile mean over all runs of {sentence_list(scores.common)}, with its "
            "95 % interval; empty for objectives that did not run in all of "
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


@words
def profiles(frames: Frames, data: pd.DataFrame) -> Words:
    """How likely each gate improves on its base, and what the tests found."""
    notice = "A profile above another is better at that score; profiles that cross have no order."
    caption = (
        "Left: share of runs that score above τ, averaged over "
        f"{sentence_list(scores_of(frames).common)}; bands are pointwise 95 % intervals."
    )
    improved = data[data["kind"] == IMPROVEMENT]
    if improved.empty:
        return Words(notice, caption)
    better, worse, tested = _found(improved)
    notice += (
        " On the right, a filled mark right of one half is an experiment in which the gate helps: "
        f"{better} of {tested} tests found it better, {worse} worse."
    )
    caption += (
        " Right: probability that a run with the gate scores higher than the run of the same seed "
        "without it, ties one half, with 95 % intervals. "
        "Filled: the mean difference on the same seeds differs from 0 in a sign-flip test, p < "
        f"{FOUND:g} after Holm's correction for {len(improved)} tests. A mark counts pairs and its "
        "filling weighs them, so many small losses and few large gains leave it open below one half."
    )
    findings = []
    for (base, other), here in improved.groupby(["base", "objective"], sort=False):
        whole = here[here["experiment"] == OVERALL]
        row = (whole if len(whole) else here).iloc[0]
        found = Estimate(row["value"], row["low"], row["high"])
        text = f"{other} over {base}, {row['experiment']}: {estimate_text(found)}"
        better, worse, tested = _found(here)
        findings.append(f"{text}; of {tested} experiments better in {better}, worse in {worse}.")
    return Words(notice, " ".join([caption, *findings]))


def _found(improved: pd.DataFrame) -> tuple[int, int, int]:
    """Experiments found better and found worse, and those tested."""
    single = improved[improved["experiment"] != OVERALL]
    found = single.loc[single["p_holm"] < FOUND, "difference"]
    return int((found > 0).sum()), int((found < 0).sum()), len(single)
