"""Figure 7: every tuned arm's final reward beside how far its updates went."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from erc_bench.presentation.plots.frames import Drawing, Frames
from erc_bench.presentation.plots.layout import (
    group_labels,
    legend_below,
    log_ticks,
    new_figure,
    plus_minus,
    subfigures,
    tally,
)
from erc_bench.presentation.plots.per_run import KL, REWARD, group_bands, paired_bands, runs_of
from erc_bench.presentation.plots.style import (
    INK,
    MUTED,
    WIDE,
    arm_style,
    group_of,
    name_text,
    ordered,
    styled,
)

__all__ = ["fig7_baselines"]

EXPERIMENT, REFERENCE = "baselines", "erc-dapo"
HIDDEN = "mean/drift/hidden_violation_fraction"
DIFFERENCE = "difference"
#: columns of the upper row: value, heading, factor, whether on a logarithmic axis
_COLUMNS = (
    (REWARD, "final reward", 1.0, False),
    (DIFFERENCE, f"final reward − {REFERENCE}", 1.0, False),
    (KL, "exact KL (nats)", 1.0, True),
    (HIDDEN, "hidden violations (%)", 100.0, False),
)


@styled
def fig7_baselines(frames: Frames) -> Drawing:
    """Final reward, its paired difference to erc-dapo and drift of every tuned arm.

    Above: one row per arm, points are seeds, bars 95 % intervals. Below: reward against drift, where
    up and to the left is better.
    """
    runs = runs_of(frames, EXPERIMENT, [KL, HIDDEN])
    runs = runs.assign(arm=_names(runs))
    arms = ordered(runs["arm"])
    data = _measured(runs)
    figure = new_figure(WIDE, 1.1 + 0.19 * len(arms) + 2.4)
    upper, lower = subfigures(figure, (0.6 + 0.19 * len(arms), 2.9))
    for axes, (value, heading, scale, log) in zip(upper.subplots(1, 4), _COLUMNS, strict=True):
        _rows(axes, runs, data[data["value"] == value], arms, scale)
        axes.set_xlabel(heading)
        if log:
            axes.set_xscale("log")
            log_ticks(axes, "x")
        axes.tick_params(labelleft=value == REWARD)
    left, right = lower.subplots(1, 2, sharey=True)
    for axes, (value, heading, scale, log) in zip((left, right), _COLUMNS[2:], strict=True):
        _trade_off(axes, data, arms, value, scale)
        axes.set_xlabel(f"{heading}, mean over updates")
        if log:
            axes.set_xscale("log")
            log_ticks(axes, "x")
    left.set_ylabel("final reward")
    handles = [_mark(arm) for arm in arms]
    legend_below(figure, handles, [name_text(arm) for arm in arms])
    return Drawing(
        "fig7_baselines",
        "Tuned baselines",
        figure,
        data,
        _caption(runs, data, arms),
        _notice(data),
    )


def _names(runs: pd.DataFrame) -> pd.Series:
    """The recipe's name, or the whole label where a recipe has several."""
    labels = runs.groupby("recipe")["objective"].transform("nunique")
    return runs["recipe"].where(labels == 1, runs["objective"])


def _measured(runs: pd.DataFrame) -> pd.DataFrame:
    tables = [
        group_bands(runs, ["arm"], value).assign(value=value) for value in (REWARD, KL, HIDDEN)
    ]
    reference = runs[runs["recipe"] == REFERENCE]
    if reference["arm"].nunique() == 1:
        others = runs[runs["recipe"] != REFERENCE]
        paired = paired_bands(reference, others, [], ["arm"], REWARD)
        tables.append(paired.assign(value=DIFFERENCE))
    settings = runs.drop_duplicates("arm").set_index("arm")["objective"].str.partition(":")[2]
    table = pd.concat(tables, ignore_index=True)
    failed = runs.groupby("arm")["diverged"].sum().astype(int)
    return table.assign(
        settings=table["arm"].map(settings), diverged=table["arm"].map(failed)
    )[["value", "arm", "settings", "mean", "low", "high", "n", "diverged"]]  # fmt: skip


def _mark(arm: str) -> Line2D:
    style = arm_style(arm)
    return Line2D([], [], color=style.color, marker=style.marker, linestyle="none", markersize=5.5,
                  gid=group_of(arm))  # fmt: skip


def _rows(
    axes: Axes, runs: pd.DataFrame, data: pd.DataFrame, arms: list[str], scale: float
) -> None:
    """One row per arm: seeds as faint points, mean and interval in front."""
    if not data.empty and data["value"].iloc[0] == DIFFERENCE:
        axes.axvline(0.0, color=INK, linewidth=0.8)
    for place, arm in enumerate(arms):
        style = arm_style(arm)
        for _, row in data[data["arm"] == arm].iterrows():
            if row["value"] != DIFFERENCE:
                seeds = scale * runs.loc[runs["arm"] == arm, row["value"]].to_numpy()
                y = place + 0.25 * np.sin(2.4 * np.arange(len(seeds)))  # fixed, and no two as one
                axes.plot(seeds, y, color=style.color, marker=".", markersize=3.5, alpha=0.35,
                          linestyle="none", markeredgewidth=0, gid=group_of(arm))  # fmt: skip
            if math.isfinite(row["low"]):
                axes.plot(scale * row[["low", "high"]], [place, place], color=style.color,
                          linewidth=2.0, alpha=0.7, solid_capstyle="butt", gid=group_of(arm))  # fmt: skip
            axes.plot([scale * row["mean"]], [place], marker=style.marker, markersize=4.5,
                      color=style.color, linestyle="none", zorder=4, gid=group_of(arm))  # fmt: skip
    axes.set_yticks(range(len(arms)), [name_text(a) for a in arms])
    group_labels(axes.get_yticklabels(), arms)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _trade_off(axes: Axes, data: pd.DataFrame, arms: list[str], value: str, scale: float) -> None:
    """Reward against drift, a cross of two intervals per arm."""
    table = data.set_index(["value", "arm"])
    for arm in arms:
        style = arm_style(arm)
        x, y = scale * table.loc[(value, arm), ["mean", "low", "high"]], table.loc[(REWARD, arm)]
        axes.plot([x["low"], x["high"]], [y["mean"]] * 2, color=style.color, linewidth=1.0,
                  gid=group_of(arm))  # fmt: skip
        axes.plot([x["mean"]] * 2, [y["low"], y["high"]], color=style.color, linewidth=1.0,
                  gid=group_of(arm))  # fmt: skip
        axes.plot([x["mean"]], [y["mean"]], marker=style.marker, markersize=6, color=style.color,
                  linestyle="none", markeredgecolor="white", markeredgewidth=0.5, zorder=4,
                  gid=group_of(arm))  # fmt: skip
    axes.set_title("better: up and to the left", fontsize=6.5, fontweight="normal", color=MUTED)


def _ends(row: pd.Series) -> str:
    """The interval in brackets; nothing with one seed."""
    return f" ({row['low']:+.3f} to {row['high']:+.3f})" if math.isfinite(row["low"]) else ""


def _notice(data: pd.DataFrame) -> str:
    reward = data[data["value"] == REWARD].dropna(subset=["mean"])
    best = reward.loc[reward["mean"].idxmax()]
    text = (
        "In the second panel an interval right of the line is an arm that earns more than "
        f"{REFERENCE}, left of it less; below, the best trade is up and to the left. Highest mean "
        f"reward: {best['arm']}, {plus_minus(best)}."
    )
    found = data[(data["value"] == DIFFERENCE) & np.isfinite(data["low"])]
    if len(found):
        signs = [int(row["low"] > 0) - int(row["high"] < 0) for _, row in found.iterrows()]
        text += f" Against {REFERENCE}, reward is {tally(signs, 'arms')} (95 % intervals, paired)."
    return text


def _caption(runs: pd.DataFrame, data: pd.DataFrame, arms: list[str]) -> str:
    text = (
        f"Arms tuned with an equal budget, {runs['seed'].nunique()} paired seeds. Above: points are "
        "seeds, marks means and bars 95 % intervals over seeds; a diverged run has reward 0. "
        "Exact KL (logarithmic axis) and hidden violations (exact KL above δ, ratio inside the "
        "clip range) are means over a run's updates. Below: reward against drift."
    )
    found = data[data["value"] == DIFFERENCE].set_index("arm")
    words = [
        f"{arm} {row['mean']:+.3f}" + _ends(row)
        for arm, row in ((a, found.loc[a]) for a in arms if a in found.index)
    ]
    if words:
        text += f" Final reward minus {REFERENCE}'s on the same seeds: {', '.join(words)}."
    kl = data[data["value"] == KL].set_index("arm")
    text += (
        f" Exact KL in 10⁻³ nats: {', '.join(f'{a} {plus_minus(kl.loc[a], 1e3)}' for a in arms)}."
    )
    chosen = data.drop_duplicates("arm").set_index("arm")["settings"]
    tuned = [f"{arm} {chosen[arm].replace(',', ', ')}" for arm in arms if chosen[arm]]
    failed = data.drop_duplicates("arm").set_index("arm")["diverged"]
    lost = [f"{arm} {failed[arm]}" for arm in arms if failed[arm]]
    text += f" Tuned settings: {'; '.join(tuned)}." if tuned else ""
    return text + (f" Diverged runs: {', '.join(lost)}." if lost else "")
