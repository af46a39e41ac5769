"""Words of figure 1."""

from __future__ import annotations

import math

import pandas as pd

from erc_bench.analysis.numbers import percent
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.one_update import choose_token
from erc_bench.presentation.reporting.words import Words, counted, mean_of


def words(frames: Frames, data: pd.DataFrame) -> Words:
    """The token's numbers, the rule that chose it, and how many tokens of its arm are like it."""
    experiment, objective, token, arm = choose_token(frames)
    settings = frames.settings(experiment)
    points = data[data["panel"] == "tokens"]
    hidden = points["hidden"].astype(bool)
    per_seed = hidden.groupby(points["seed"]).mean()
    violating = int((points["kl_exact"] > settings.delta).sum())
    of_all = percent(hidden.sum() / violating)
    stale = int(token["staleness"])
    late = " in the upper half of staleness" if stale >= arm["staleness"].max() / 2 else ""
    caption = (
        f"One update of {objective} on {experiment}. Left: the state of one sampled token after "
        f"{counted(stale, 'update')} on its rollout. The sampled action's ratio is "
        f"{math.exp(token['log_ratio']):.3f}, inside "
        f"[{1 - settings.clip[0]:g}, {1 + settings.clip[1]:g}], so the clip is silent; the exact "
        f"KL is {token['kl_exact']:.3g} nats, above {settings.delta:g}. The actions that were not "
        f"sampled carry {token['tv_unsampled']:.3f} of the total variation of {token['tv']:.3f}. "
        f"Chosen by rule: the median unsampled TV among such tokens{late}. Right: all sampled tokens "
        f"with staleness of at least 1; {mean_of(per_seed, 100, ' %')} of them (mean over "
        f"{counted(len(per_seed), 'seed')}) violate the exact KL inside the clip range, which is "
        f"{of_all} of all {violating:,} violations."
    )
    notice = (
        "The clip is silent although the distribution moved: the ratio of the sampled action lies "
        "inside the clip range, the exact KL above its bound. Orange points on the right are such "
        f"tokens: {of_all} of this arm's violations."
    )
    return Words(notice, caption)
