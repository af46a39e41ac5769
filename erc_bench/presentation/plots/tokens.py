"""Figures over single tokens: which tokens ERC drops, and what each of the two rules sees."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.lines import Line2D

from erc_bench.presentation.plots.frames import Drawing, Frames, NothingToDraw, Settings, band
from erc_bench.presentation.plots.layout import (
    first_column,
    legend_below,
    log_limits,
    new_figure,
    over_seeds,
    paired_panels,
    panel_grid,
    percent,
    plus_minus,
)
from erc_bench.presentation.plots.one_update import ratio_ticks
from erc_bench.presentation.plots.style import (
    COLUMN,
    INK,
    WIDE,
    group_of,
    name_text,
    ordered,
    styled,
)

__all__ = ["fig5_probability_entropy", "fig6_ratios", "lower_entropy_probability"]

KEPT, CUT = "#7d8790", "#c1440e"
SHARE = LinearSegmentedColormap.from_list("dropped", ["#e9ecef", "#f3b27a", CUT, "#5a1500"])
DASHED = (0, (4, 1.6))
CELL_TOKENS, STEPS = 3, 201  # tokens that a cell of the map needs; points of a curve
BASES = ("dapo", "ppo-clip", "grpo", "gppo", "ce-gppo", "dual-clip", "dr-grpo", "reinforce")


def lower_entropy_probability(dropped: np.ndarray, kept: np.ndarray) -> float:
    """Probability that a dropped token has lower entropy than a kept one, ties counted half."""
    if not len(dropped) or not len(kept):
        return math.nan
    ranks = pd.Series(np.concatenate([dropped, kept])).rank().to_numpy()
    above = ranks[: len(dropped)].sum() - len(dropped) * (len(dropped) + 1) / 2
    return float(1 - above / (len(dropped) * len(kept)))


def _stale(frames: Frames) -> pd.DataFrame:
    """Tokens on which a rule can act: at least one update after the rollout, ratios finite."""
    tokens = frames.tokens
    finite = np.isfinite(tokens[["log_ratio", "log_entropy_ratio"]]).all(axis=1)
    return tokens[(tokens["staleness"] > 0) & finite]


@styled
def fig5_probability_entropy(frames: Frames) -> Drawing:
    """Map of the share dropped over probability and entropy, and both groups' entropies.

    Tokens of all gated arms of an experiment with staleness of at least 1, the only ones a gate
    can drop.
    """
    tokens = _stale(frames)
    gated = tokens.loc[tokens["gate_dropped"].astype(bool), ["experiment", "objective"]]
    arms = {e: ordered(g["objective"]) for e, g in gated.groupby("experiment", sort=False)}
    if not arms:
        raise NothingToDraw("no sampled token was dropped by a gate")
    figure, panels = paired_panels(len(arms), 2.5, min(3.3, 8.6 / math.ceil(len(arms) / 3)))
    data, findings = [], []
    for (upper, lower), (experiment, names) in zip(panels, arms.items(), strict=True):
        here = tokens[(tokens["experiment"] == experiment) & tokens["objective"].isin(names)]
        here = here.assign(gate_dropped=here["gate_dropped"].astype(bool))
        top = float(here["entropy/old"].max()) * 1.04 or 1.0
        upper.set_title(name_text(experiment))
        first = first_column(upper)
        drawn = [_map(upper, here, top, first), _entropies(lower, here, top, first)]
        data += [part.assign(experiment=experiment) for part in drawn]
        findings.append(_finding(experiment, here))
    colors = ScalarMappable(Normalize(0, 100), SHARE)
    single = len(arms) == 1
    figure.colorbar(
        colors, ax=[upper for upper, _ in panels] if single else [a for p in panels for a in p],
        label="dropped (%)" if single else "dropped by the gate (% of a cell's tokens)",
        aspect=14 if single else 60,
        location="right" if single else "bottom", pad=0.02, fraction=0.1 if single else 0.03,
    )  # fmt: skip
    handles = [Line2D([], [], color=CUT), Line2D([], [], color=KEPT, linestyle=DASHED)]
    legend_below(figure, handles, ["dropped tokens", "kept tokens"])
    caption = (
        "Which tokens the gate drops. Map: share dropped among tokens of similar probability and "
        f"entropy (cells with at least {CELL_TOKENS} tokens). Curves: entropy of dropped and of "
        "kept tokens, as the share of each group at or below a value. Gated arms, staleness of at "
        "least 1. " + " ".join(findings[:4])
    )
    return Drawing(
        "fig5_probability_entropy",
        "Dropped tokens by probability and entropy",
        figure,
        pd.concat(data, ignore_index=True),
        caption,
        _notice_dropped(findings),
    )


def _notice_dropped(findings: list[str]) -> str:
    words = {
        "lower": "dropped tokens have lower entropy",
        "higher": "dropped tokens have higher entropy",
        "unclear": "no clear difference in entropy",
    }
    counts = [f"{word} in {sum(text in f for f in findings)}" for word, text in words.items()]
    return (
        "Where the solid curve (dropped) lies left of the dashed one (kept), the gate drops tokens the "
        "policy was already sure of; where it lies right, forks where it still explores. Entropy of "
        f"dropped tokens, over {len(findings)} panel{'s' if len(findings) != 1 else ''} (95 % "
        f"intervals): {', '.join(counts)}."
    )


def _map(axes: Axes, here: pd.DataFrame, top: float, first: bool) -> pd.DataFrame:
    """Draw the share dropped over probability and entropy; returns the cells with their counts."""
    shared: dict[str, Any] = {
        "gridsize": (20, 12), "mincnt": CELL_TOKENS, "extent": (0, 1, 0, top), "cmap": SHARE,
        "vmin": 0, "vmax": 100, "linewidths": 0.2, "edgecolors": "white",
    }  # fmt: skip
    share = 100 * here["gate_dropped"].astype(float)
    place = here["prob/old"].to_numpy(), here["entropy/old"].to_numpy()
    counts = axes.hexbin(*place, C=np.ones(len(here)), reduce_C_function=len, **shared)
    counts.remove()
    cells = axes.hexbin(*place, C=share, reduce_C_function=np.mean, **shared)
    axes.set(xlim=(0, 1), ylim=(0, top))
    axes.set_xlabel("old probability of the sampled action")
    if first:
        axes.set_ylabel("old entropy (nats)")
    x, y = np.asarray(cells.get_offsets()).T
    return pd.DataFrame(
        {
            "panel": "map",
            "prob/old": x,
            "entropy/old": y,
            "tokens": np.asarray(counts.get_array()).astype(int),
            "dropped": np.asarray(cells.get_array()) / 100,
        }
    )


def _entropies(axes: Axes, here: pd.DataFrame, top: float, first: bool) -> pd.DataFrame:
    """Draw both groups' distribution of entropy, read off at ``STEPS`` values; returns them."""
    dropped = here["gate_dropped"]
    at = np.linspace(0.0, top, STEPS)
    data = []
    for name, group, color, style in (
        ("kept", here.loc[~dropped, "entropy/old"], KEPT, DASHED),
        ("dropped", here.loc[dropped, "entropy/old"], CUT, "-"),
    ):
        if group.empty:
            continue
        values = np.sort(group.to_numpy())
        below = np.searchsorted(values, at, side="right") / len(values)
        axes.plot(at, 100 * below, color=color, linestyle=style, linewidth=1.5)
        axes.plot([np.median(values)], [50], marker="o", markersize=4, color=color)
        data.append(pd.DataFrame({"panel": name, "entropy/old": at, "share_at_or_below": below,
                                  "tokens": len(values)}))  # fmt: skip
    axes.set(xlim=(0, top), ylim=(0, 102))
    axes.set_xlabel("old entropy (nats); dot: median")
    if first:
        axes.set_ylabel("tokens at or below (%)")
    axes.set_title(f"dropped: {percent(float(dropped.mean()))}", fontsize=7, fontweight="normal")
    return pd.concat(data)


def _finding(experiment: str, here: pd.DataFrame) -> str:
    per_seed = [
        lower_entropy_probability(
            seed.loc[seed["gate_dropped"], "entropy/old"].to_numpy(),
            seed.loc[~seed["gate_dropped"], "entropy/old"].to_numpy(),
        )
        for _, seed in here.groupby("seed")
    ]
    interval = band(np.array(per_seed)[:, None]).iloc[0]
    medians = here.groupby("gate_dropped")["entropy/old"].median()
    if len(medians) < 2:
        return f"{experiment}: every sampled token was dropped."
    low, high, mean = interval["low"], interval["high"], interval["mean"]
    if not math.isfinite(low):
        verdict = "one seed, no interval"
    elif low > 0.5:
        verdict = "dropped tokens have lower entropy"
    elif high < 0.5:
        verdict = "dropped tokens have higher entropy"
    else:
        verdict = "no clear difference in entropy"
    return (
        f"{experiment}: {verdict} (median {medians[True]:.2f} against {medians[False]:.2f} nats "
        f"kept; a dropped token is below a kept one with probability "
        f"{plus_minus(pd.Series({'mean': mean, 'low': low, 'high': high}))})."
    )


_CLASSES = (
    ("inside both", "#8b949c"),
    ("outside band only", "#0072b2"),
    ("outside clip only", "#c77700"),
    ("outside both", "#1a1a1a"),
)


def _classes(tokens: pd.DataFrame, settings: Settings) -> pd.Series:
    clip = (math.log1p(-settings.clip[0]), math.log1p(settings.clip[1]))
    rho = np.exp(tokens["log_entropy_ratio"])
    outside_clip = ~tokens["log_ratio"].between(*clip)
    outside_band = ~((rho > 1 - settings.band[0]) & (rho < 1 + settings.band[1]))
    names = np.array([name for name, _ in _CLASSES])
    return pd.Series(names[outside_band.to_numpy() + 2 * outside_clip.to_numpy()], tokens.index)


@styled
def fig6_ratios(frames: Frames) -> Drawing:
    """Importance ratio against entropy ratio of the same tokens, with both rules' bounds.

    One arm per experiment, without a gate where there is one (the first of dapo, ppo-clip, grpo,
    gppo, ...), so that both rules are read from tokens that neither has shaped.
    """
    tokens = _stale(frames)
    chosen = {}
    for experiment in frames.panels:
        here = tokens[tokens["experiment"] == experiment]
        arms = ordered(here["objective"])
        plain = (
            [a for a in BASES if a in arms] + [a for a in arms if not a.startswith("erc-")] + arms
        )
        if plain:
            chosen[experiment] = plain[0]
    if not chosen:
        raise NothingToDraw("no sampled token with staleness of at least 1")
    count = len(chosen)
    figure = new_figure(
        COLUMN * 1.25 if count == 1 else WIDE,
        2.75 * math.ceil(count / 3) + (0.7 if count > 1 else 0.5),
    )
    data, findings, more = [], [], 0
    for axes, (experiment, arm) in zip(panel_grid(figure, count), chosen.items(), strict=True):
        here = tokens[(tokens["experiment"] == experiment) & (tokens["objective"] == arm)]
        settings = frames.settings(experiment)
        here = here.assign(region=_classes(here, settings))
        frame_out = _ratio_panel(axes, here, settings)
        axes.set_gid(group_of(arm))
        axes.set_title(f"{name_text(experiment)}\n{name_text(arm)}", fontsize=7.5, pad=15)
        shares = here["region"].value_counts(normalize=True)
        outside = here.assign(outside=here["region"].isin(["outside band only", "outside both"]))
        clipped = here.assign(outside=here["region"].isin(["outside clip only", "outside both"]))
        by_clip = plus_minus(over_seeds(clipped, "outside"), 100, " %")
        by_band = plus_minus(over_seeds(outside, "outside"), 100, " %")
        more += int(outside["outside"].mean() > clipped["outside"].mean())
        both = percent(float(shares.get("outside both", 0.0)))
        findings.append(
            f"{experiment}, {arm}: {by_clip} of tokens outside the clip range, {by_band} outside "
            f"the band, {both} outside both"
            + (f" ({percent(frame_out)} lie outside the frame)." if frame_out else ".")
        )
        data.append(
            here[["experiment", "objective", "seed", "staleness", "log_ratio",
                  "log_entropy_ratio", "region"]]
        )  # fmt: skip
    handles = [
        Line2D([], [], color=color, marker="o", markersize=4, linestyle="none")
        for _, color in _CLASSES
    ]
    legend_below(figure, handles, [name for name, _ in _CLASSES])
    caption = (
        "Importance ratio of the sampled action against the entropy ratio of its state, tokens "
        "with staleness of at least 1. Lines: the clip range and the band; above each panel, the "
        "regions' shares in the legend's order. " + " ".join(findings[:4])
    )
    return Drawing(
        "fig6_ratios",
        "Importance ratio and entropy ratio",
        figure,
        pd.concat(data, ignore_index=True),
        caption,
        "Blue points are what the band sees and the clip does not, orange points the reverse. "
        "More tokens lie outside the "
        f"band than outside the clip range in {more} of {count} panel{'s' if count != 1 else ''}.",
    )


def _ratio_panel(axes: Axes, here: pd.DataFrame, settings: Settings) -> float:
    """Draw one panel; returns the share of tokens beyond its frame."""
    clip = (math.log1p(-settings.clip[0]), math.log1p(settings.clip[1]))
    limits = (math.log1p(-settings.band[0]), math.log1p(settings.band[1]))
    x, y = here["log_ratio"], here["log_entropy_ratio"]
    for name, color in _CLASSES:
        mask = here["region"] == name
        axes.scatter(x[mask], y[mask], s=5, color=color, alpha=0.6, linewidth=0, rasterized=True,
                     zorder=2)  # fmt: skip
    for value in clip:
        axes.axvline(value, color=INK, linewidth=0.8, linestyle=(0, (4, 2)), zorder=3)
    for value in limits:
        axes.axhline(value, color="#0072b2", linewidth=0.8, linestyle=(0, (4, 2)), zorder=3)
    xlim, ylim = log_limits(x.to_numpy(), clip, 0.005), log_limits(y.to_numpy(), limits, 0.005)
    axes.set(xlim=xlim, ylim=ylim)
    ratio_ticks(axes, "x", 5)
    ratio_ticks(axes, "y", 7)
    axes.set_xlabel("importance ratio r")
    if first_column(axes):
        axes.set_ylabel("entropy ratio ρ")
    shares = here["region"].value_counts(normalize=True)
    for place, (name, color) in enumerate(_CLASSES):
        share = 100 * float(shares.get(name, 0.0))
        axes.annotate(
            f"{share:.1f} %" if share >= 1 else f"{share:.2g} %", (0.125 + 0.25 * place, 1.0),
            xytext=(0, 3), xycoords="axes fraction", textcoords="offset points", ha="center",
            va="bottom", fontsize=6.5, fontweight="bold", color=color,
        )  # fmt: skip
    return float(((x.abs() > xlim[1]) | (y.abs() > ylim[1])).mean())
