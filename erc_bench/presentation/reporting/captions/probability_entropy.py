"""Words of figure 5."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from erc_bench.analysis.claims.statistics import dropped_below_kept
from erc_bench.analysis.numbers import plus_minus
from erc_bench.analysis.statistics import Interval, mean_interval
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.probability_entropy import CELL_TOKENS, gated_tokens
from erc_bench.presentation.reporting.words import Words, counted

_VERDICTS = {
    "lower": "dropped tokens have lower entropy",
    "higher": "dropped tokens have higher entropy",
    "unclear": "no clear difference in entropy",
    "unknown": "one seed, no interval",
}


def words(frames: Frames, data: pd.DataFrame) -> Words:
    """Per experiment, whether dropped tokens have lower entropy than kept ones."""
    assert len(data)
    findings, verdicts = [], Counter[str]()
    for experiment, here in gated_tokens(frames).items():
        medians = here.groupby("gate_dropped")["entropy/old"].median()
        if len(medians) < 2:
            findings.append(f"{experiment}: every sampled token was dropped.")
            continue
        below = mean_interval(dropped_below_kept(here, "entropy/old", 1))
        verdict = _verdict(below)
        verdicts[verdict] += 1
        findings.append(
            f"{experiment}: {_VERDICTS[verdict]} (median {medians[True]:.2f} against "
            f"{medians[False]:.2f} nats kept; a dropped token is below a kept one with probability "
            f"{plus_minus(below)})."
        )
    counts = [f"{verdict} in {verdicts[verdict]}" for verdict in ("lower", "higher", "unclear")]
    notice = (
        "Where the solid curve (dropped) lies left of the dashed one (kept), the gate drops tokens "
        "the policy was already sure of; where it lies right, forks where it still explores. Entropy "
        f"of dropped tokens, over {counted(len(findings), 'panel')} (95 % intervals): "
        f"{', '.join(counts)}."
    )
    caption = (
        "Which tokens the gate drops. Map: share dropped among tokens of similar probability and "
        f"entropy (cells with at least {CELL_TOKENS} tokens). Curves: entropy of dropped and of "
        "kept tokens, as the share of each group at or below a value. Gated arms, staleness of at "
        "least 1. "
    )
    return Words(notice, caption + " ".join(findings[:4]))


def _verdict(below: Interval) -> str:
    if below.n < 2:
        return "unknown"
    if not below.excludes(0.5):
        return "unclear"
    return "lower" if below.low > 0.5 else "higher"
