"""Words of figure 7."""

from __future__ import annotations

import numpy as np
import pandas as pd

from erc_bench.core.metrics import metric
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.baselines import DIFFERENCE, EXPERIMENT, REFERENCE
from erc_bench.presentation.plots.seeds import KL, REWARD
from erc_bench.presentation.reporting.words import Words, difference, shown, sign_of, tally


def words(frames: Frames, data: pd.DataFrame) -> Words:
    """Each arm's reward against the reference's, its drift, its tuned settings and failures."""
    seeds = frames.runs.loc[frames.runs["experiment"] == EXPERIMENT, "seed"].nunique()
    names = [*frames.looks(data["arm"].unique())]
    by_value = {value: rows.set_index("arm") for value, rows in data.groupby("value")}
    caption = (
        f"Arms tuned with an equal budget, {seeds} paired seeds. Above: points are "
        "seeds, marks means and bars 95 % intervals over seeds; a diverged run has reward 0. "
        "Exact KL (logarithmic axis) and hidden violations (exact KL above δ, ratio inside the "
        "clip range) are means over a run's updates. Below: reward against drift."
    )
    compared = by_value.get(DIFFERENCE, data.iloc[:0].set_index("arm"))
    if len(compared):
        texts = [f"{n} {difference(compared.loc[n])}" for n in names if n in compared.index]
        caption += f" Final reward minus {REFERENCE}'s on the same seeds: {', '.join(texts)}."
    kl = metric(KL)
    drift = [f"{n} {shown(by_value[KL].loc[n], kl.scale)}" for n in names]
    caption += f" Exact KL in {kl.shown}: {', '.join(drift)}."
    rows = by_value[REWARD].loc[names]
    tuned = [f"{n} {s.replace(',', ', ')}" for n, s in rows["settings"].items() if s]
    failed = [f"{n} {count}" for n, count in rows["diverged"].items() if count]
    caption += f" Tuned settings: {'; '.join(tuned)}." if tuned else ""
    caption += f" Diverged runs: {', '.join(failed)}." if failed else ""

    best = rows.loc[rows["mean"].idxmax()]
    notice = (
        "In the second panel an interval right of the line is an arm that earns more than "
        f"{REFERENCE}, left of it less; below, the best trade is up and to the left. Highest mean "
        f"reward: {best.name}, {shown(best)}."
    )
    ends = compared[np.isfinite(compared["low"])][["low", "high"]].to_numpy()
    if len(ends):
        signs = tally([sign_of(*pair) for pair in ends], "arms")
        notice += f" Against {REFERENCE}, reward is {signs} (95 % intervals, paired)."
    return Words(notice, caption)
