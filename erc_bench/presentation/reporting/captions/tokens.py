"""Words about single tokens: figures 1, 5 and 6."""

from __future__ import annotations

import math
from collections import Counter

import pandas as pd

from erc_bench.analysis.claims.statistics import dropped_below_kept, violating
from erc_bench.analysis.numbers import percent, with_ends
from erc_bench.analysis.statistics import Interval, median_interval
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.one_update import choose_token, tv_hidden
from erc_bench.presentation.plots.probability_entropy import CELL_TOKENS, gated_tokens
from erc_bench.presentation.plots.ratios import OUTSIDE_BAND, OUTSIDE_CLIP, beyond_frame
from erc_bench.presentation.reporting.words import Words, counted, median_of, words


@words
def one_update(frames: Frames, data: pd.DataFrame) -> Words:
    """The token's numbers, the rule that chose it, and how many tokens of its arm are like it."""
    experiment, objective, token, arm = choose_token(frames)
    bounds = frames.bounds(experiment)
    points = data[data["panel"] == "tokens"]
    hidden = points["hidden"].astype(bool)
    per_seed = hidden.groupby(points["seed"]).mean()
    violations = int((points["kl_exact"] > bounds.delta).sum())
    of_all = percent(hidden.sum() / violations)
    stale = int(token["staleness"])
    late = " in the upper half of staleness" if stale >= arm["staleness"].max() / 2 else ""
    chosen = (
        "Its KL is more than the clip permits the sampled action, so that the others carry the excess. "
        f"Chosen by rule: the median of what moved between them among such tokens{late}. "
        if violating(token.to_frame().T.infer_objects(), "clip_kl", bounds).item()
        else ""
    )
    caption = (
        f"One update of {objective} on {experiment}. Left: the state of one sampled token after "
        f"{counted(stale, 'update')} on its rollout. The sampled action's ratio is "
        f"{math.exp(token['log_ratio']):.3f}, inside "
        f"[{1 - bounds.clip[0]:g}, {1 + bounds.clip[1]:g}], so the clip is silent; the exact "
        f"KL is {token['kl_exact']:.3g} nats, above {bounds.delta:g}. Of the total "
        f"variation of {token['tv']:.3f}, {tv_hidden(token):.3f} moved between other actions than the "
        f"sampled one. {chosen}Right: all sampled tokens with staleness of at least 1; "
        f"{median_of(per_seed, 100, ' %')} of them (median over "
        f"{counted(len(per_seed), 'seed')}) violate the exact KL inside the clip range, which is "
        f"{of_all} of all {violations:,} violations."
    )
    notice = (
        "The clip is silent although the distribution moved: the ratio of the sampled action lies "
        "inside the clip range, the exact KL above its bound. Orange points on the right are such "
        f"tokens: {of_all} of this arm's violations."
    )
    return Words(notice, caption)


_VERDICTS = {
    "lower": "dropped tokens have lower entropy",
    "higher": "dropped tokens have higher entropy",
    "unclear": "no clear difference in entropy",
    "unknown": "one seed, no interval",
}


@words
def probability_entropy(frames: Frames, data: pd.DataFrame) -> Words:
    """Per experiment, whether dropped tokens have lower entropy than kept ones."""
    assert len(data)
    findings, verdicts = [], Counter[str]()
    for experiment, here in gated_tokens(frames).items():
        medians = here.groupby("gate_dropped")["entropy/old"].median()
        if len(medians) < 2:
            findings.append(f"{experiment}: every sampled token was dropped.")
            continue
        below = median_interval(dropped_below_kept(here, "entropy/old", 1))
        verdict = _verdict(below)
        verdicts[verdict] += 1
        findings.append(
            f"{experiment}: {_VERDICTS[verdict]} (median {medians[True]:.2f} against "
            f"{medians[False]:.2f} nats kept; a dropped token is below a kept one with probability "
            f"{with_ends(below)})."
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
    if not below.known:
        return "unknown"
    if not below.excludes(0.5):
        return "unclear"
    return "lower" if below.low > 0.5 else "higher"


@words
def ratios(frames: Frames, data: pd.DataFrame) -> Words:
    """Shares of tokens that lie outside the clip range and outside the band."""
    findings, more = [], 0
    for (experiment, arm), here in data.groupby(["experiment", "objective"], sort=False):
        clip, band = (here["region"].isin(regions) for regions in (OUTSIDE_CLIP, OUTSIDE_BAND))
        by_clip, by_band = (
            median_of(outside.groupby(here["seed"]).mean(), 100, " %") for outside in (clip, band)
        )
        more += int(band.mean() > clip.mean())
        beyond = beyond_frame(here, frames.bounds(str(experiment)))
        findings.append(
            f"{experiment}, {arm}: {by_clip} of tokens outside the clip range, {by_band} outside "
            f"the band, {percent(float((clip & band).mean()))} outside both"
            + (f" ({percent(beyond)} lie outside the frame)." if beyond else ".")
        )
    notice = (
        "Blue points are what the band sees and the clip does not, orange points the reverse. "
        "More tokens lie outside the band than outside the clip range in "
        f"{more} of {counted(len(findings), 'panel')}."
    )
    caption = (
        "Importance ratio of the sampled action against the entropy ratio of its state, tokens "
        "with staleness of at least 1. Lines: the clip range and the band; above each panel, the "
        "regions' shares in the legend's order. "
    )
    return Words(notice, caption + " ".join(findings[:4]))
