"""Words about tuned arms and sweeps: figures 7, 8, 8b and 10."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from erc_bench.analysis.numbers import percent
from erc_bench.core.metrics import metric
from erc_bench.presentation.plots import Frames
from erc_bench.presentation.plots.band_and_noise import (
    GATE,
    OUTSIDE,
    PRECISION,
    SWEEP,
    TASK,
    format_name,
)
from erc_bench.presentation.plots.baselines import DIFFERENCE, EXPERIMENT, REFERENCE
from erc_bench.presentation.plots.phase_diagram import LOG_KL_RATIO, band_text
from erc_bench.presentation.plots.seeds import BASE, KL, REWARD
from erc_bench.presentation.reporting.words import Words, difference, shown, sign_of, tally, words


@words
def baselines(frames: Frames, data: pd.DataFrame) -> Words:
    """Each arm's reward against the reference's, its drift, its tuned settings and failures."""
    seeds = frames.runs.loc[frames.runs["experiment"] == EXPERIMENT, "seed"].nunique()
    names = [*frames.looks(data["arm"].unique())]
    by_value = {value: rows.set_index("arm") for value, rows in data.groupby("value")}
    caption = (
        f"Arms tuned with an equal budget, {seeds} paired seeds. Above: points are "
        "seeds, marks medians and bars 95 % intervals over seeds; a diverged run has reward 0. "
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

    best = rows.loc[rows["estimate"].idxmax()]
    notice = (
        "In the second panel an interval right of the line is an arm that earns more than "
        f"{REFERENCE}, left of it less; below, the best trade is up and to the left. Highest "
        f"median reward: {best.name}, {shown(best)}."
    )
    ends = compared[np.isfinite(compared["low"])][["low", "high"]].to_numpy()
    if len(ends):
        signs = tally([sign_of(*pair) for pair in ends], "arms")
        notice += f" Against {REFERENCE}, reward is {signs} (95 % intervals, paired)."
    return Words(notice, caption)


@words
def phase_diagram(_: Frames, data: pd.DataFrame) -> Words:
    """In how many cells a gated arm is clearly better or worse, and its best and worst cell."""
    known = data[np.isfinite(data["estimate"])]
    reward = known[known["value"] == REWARD].groupby("objective", sort=False)
    drift = known[known["value"] == LOG_KL_RATIO].groupby("objective", sort=False)
    caption = (
        f"Each cell is the median over {int(data['n'].max())} paired seeds of a gated arm against "
        f"{BASE} at the same learning rate and updates per rollout (minibatches times epochs). "
        "Upper rows: difference in final reward, a diverged run counted as 0. Lower rows: ratio of "
        "exact KL; empty where there is one update per rollout and so no "
        "drift. 95 % intervals, not corrected for the number of cells."
    )
    findings, counts = [], []
    for arm, cells in reward:
        higher, lower = _clear(cells)
        counts.append(f"{arm} higher in {higher}, lower in {lower} of {len(cells)}")
        findings.append(
            f"{arm}: reward clearly higher than {BASE}'s in {higher} of {len(cells)} cells, "
            f"clearly lower in {lower}"
            + (f"; best {_cell(cells.loc[cells['estimate'].idxmax()])}" if higher else "")
            + (f"; worst {_cell(cells.loc[cells['estimate'].idxmin()])}" if lower else "")
            + "."
        )
    for arm, cells in drift:
        higher, lower = _clear(cells)
        findings.append(
            f"{arm}: exact KL clearly lower in {lower} of {len(cells)} cells, clearly higher in "
            f"{higher}."
        )
    notice = (
        "Strong colour is a clear difference: blue cells earn more than without the gate, red cells "
        f"less; pale, hatched cells show none. Reward against {BASE}'s, in cells: "
        f"{'; '.join(counts)}."
    )
    return Words(notice, " ".join([caption, *findings]))


def _clear(cells: pd.DataFrame) -> tuple[int, int]:
    return int((cells["low"] > 0).sum()), int((cells["high"] < 0).sum())


def _cell(cell: pd.Series) -> str:
    return (
        f"{difference(cell)} at learning rate {cell['learning_rate']:g}, {cell['updates']:g} "
        f"updates, {band_text(cell['band_low'], cell['band_high'])}"
    )


@words
def staleness(frames: Frames, data: pd.DataFrame) -> Words:
    """The best mean reward, and both values at the most updates per rollout."""
    reward = data[data["value"] == REWARD].dropna(subset=["estimate"])
    best = reward.loc[reward["estimate"].idxmax()]
    notice = (
        "With one update per rollout the gate cannot act; look where, to the right, gated lines "
        "leave their base's, in reward (left) and in drift (right). Highest median reward: "
        f"{best['objective']} with {best['updates']:g} updates per rollout, {shown(best)}."
    )
    caption = (
        "Final reward (a diverged run counts as 0) and exact KL per token, mean over a run's "
        "updates, against updates per rollout: medians and 95 % intervals over "
        f"{int(data['n'].max())} seeds. Logarithmic axes; with one update per rollout the KL is 0 "
        "and has no place on them."
    )
    most, kl = data["updates"].max(), metric(KL)
    last = data[data["updates"] == most].set_index(["value", "objective"])
    texts = [
        f"{name} {shown(last.loc[(REWARD, name)])} with "
        f"{shown(last.loc[(KL, name)], kl.scale)} {kl.shown}"
        for name in frames.looks(data["objective"].unique())
        if (REWARD, name) in last.index and np.isfinite(last.loc[(KL, name), "estimate"])
    ]
    return Words(
        notice, f"{caption} At {most:g} updates: {', '.join(texts)}." if texts else caption
    )


@words
def band_and_noise(frames: Frames, data: pd.DataFrame) -> Words:
    """The best half-width of each arm, and the noise floor beside what the gate drops."""
    notice, caption = [], []
    swept, noise, reference = (data[data["part"] == part] for part in (SWEEP, PRECISION, TASK))
    if len(swept):
        best = f"Highest median reward: {', '.join(_best_widths(frames, swept))}."
        notice.append(
            f"Above, look for a half-width whose reward lies over {BASE}'s level line, and at its "
            f"drift. {best}"
        )
        caption.append(
            "Above: final reward (a diverged run counts as 0), share of tokens the gate drops and "
            "exact KL against the half-width of the band, means over a run's updates; medians and 95 % "
            f"intervals over {int(swept['n'].max())} seeds; level line: {BASE}, which has no gate. "
            f"{best}"
        )
    if len(noise):
        outside = noise[(noise["value"] == OUTSIDE) & np.isfinite(noise["estimate"])]
        still = outside[outside["jitter"] == outside["jitter"].min()].sort_values("bits")
        coarsest = still.iloc[0]
        text = (
            "Below, no update was made: whatever lies outside the band is noise. Rounding to the "
            f"coarsest format puts {percent(coarsest['estimate'])} there"
        )
        floors = [
            f"{format_name(row['bits'])} {shown(row, 100, ' %')}" for _, row in still.iterrows()
        ]
        caption.append(
            "Below: the learning rate is 0, so every token should have an entropy ratio of 1; the "
            "behaviour policy's logits are rounded and disturbed by Gaussian noise (jitter: its "
            "standard deviation). Share of tokens outside the band of 5 % and exact KL, medians and "
            f"95 % intervals over {int(noise['n'].max())} seeds. Outside the band at jitter "
            f"{coarsest['jitter']:g}: {', '.join(floors)}."
        )
        for _, dropped in reference.iterrows():
            text += f"; {GATE} drops {percent(dropped['estimate'])} in {TASK}"
            if dropped["estimate"] > 0:
                caption.append(
                    f"{GATE} drops {shown(dropped, 100, ' %')} in {TASK}; noise of the "
                    f"coarsest format alone puts {percent(coarsest['estimate'] / dropped['estimate'])} as "
                    "many outside."
                )
        notice.append(text + ".")
    return Words(" ".join(notice), " ".join(caption))


def _best_widths(frames: Frames, swept: pd.DataFrame) -> list[str]:
    reward = swept[(swept["value"] == REWARD) & np.isfinite(swept["estimate"])]
    found = []
    for name in frames.looks(reward["objective"].unique()):
        arm = reward[reward["objective"] == name]
        best = arm.loc[arm["estimate"].idxmax()]
        where = "" if math.isnan(best["half_width"]) else f" at ±{best['half_width']:g}"
        found.append(f"{name} {shown(best)}{where}")
    return found
