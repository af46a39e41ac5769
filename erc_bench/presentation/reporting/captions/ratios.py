"""Words of figure 6."""

from __future__ import annotations

import pandas as pd

from erc_bench.analysis.numbers import percent
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.ratios import OUTSIDE_BAND, OUTSIDE_CLIP, beyond_frame
from erc_bench.presentation.reporting.words import Words, counted, mean_of


def words(frames: Frames, data: pd.DataFrame) -> Words:
    """Shares of tokens that lie outside the clip range and outside the band."""
    findings, more = [], 0
    for (experiment, arm), here in data.groupby(["experiment", "objective"], sort=False):
        clip, band = (here["region"].isin(regions) for regions in (OUTSIDE_CLIP, OUTSIDE_BAND))
        by_clip, by_band = (
            mean_of(outside.groupby(here["seed"]).mean(), 100, " %") for outside in (clip, band)
        )
        more += int(band.mean() > clip.mean())
        beyond = beyond_frame(here, frames.settings(str(experiment)))
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
