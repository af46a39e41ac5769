"""Figure 1: what one update did to the distribution of one token's state."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from erc_bench.presentation.plots.frames import Drawing, Frames, NothingToDraw, Settings
from erc_bench.presentation.plots.layout import (
    log_limits,
    new_figure,
    over_seeds,
    percent,
    plus_minus,
)
from erc_bench.presentation.plots.style import ACCENT, INK, WIDE, name_text, styled

__all__ = [
    "choose_token",
    "experiments_in_order",
    "fig1_one_update",
    "hidden_violations",
    "ratio_ticks",
]

EXPERIMENTS = ("unsampled_shift",)
ARMS = ("ppo-clip", "dapo", "grpo", "gppo")
SHOWN = 12  # actions drawn one by one; the rest is one bar


def hidden_violations(tokens: pd.DataFrame, settings: Settings) -> pd.Series:
    """Tokens with exact KL above delta and the sampled ratio inside the clip range."""
    low, high = math.log1p(-settings.clip[0]), math.log1p(settings.clip[1])
    inside = tokens["log_ratio"].between(low, high)
    return (tokens["kl_exact"] > settings.delta) & inside


def experiments_in_order(frames: Frames) -> list[str]:
    """Where the token shown is looked for: first in unsampled_shift."""
    return sorted(frames.panels, key=lambda e: e not in EXPERIMENTS)


def choose_token(frames: Frames) -> tuple[str, str, pd.Series, pd.DataFrame]:
    """The token shown: experiment, objective, its row, and all stale tokens of that arm.

    The first of unsampled_shift and then the other experiments, and there the first of ppo-clip,
    dapo, grpo, gppo, that has a hidden violation with a stored distribution. Among those in the
    upper half of staleness (if none, among all), the one with the median ``tv_unsampled``, the
    lower one of two; ties go to the first in the records' order.

    Raises:
        NothingToDraw: no such token.
    """
    tokens = frames.tokens
    if not {"probs/old", "probs/new"} <= set(tokens):
        raise NothingToDraw("no token was stored with its whole distribution")
    for experiment in experiments_in_order(frames):
        for objective in ARMS:
            arm = tokens[(tokens["experiment"] == experiment) & (tokens["objective"] == objective)]
            arm = arm[(arm["staleness"] > 0) & np.isfinite(arm["kl_exact"])]
            if arm.empty:
                continue
            found = arm[
                hidden_violations(arm, frames.settings(experiment)) & arm["probs/old"].notna()
            ]
            late = found[found["staleness"] >= arm["staleness"].max() / 2]
            found = late if len(late) else found
            if found.empty:
                continue
            by_mass = found.sort_values("tv_unsampled", kind="stable")
            return experiment, objective, by_mass.iloc[(len(by_mass) - 1) // 2], arm
    raise NothingToDraw(
        f"no token of {', '.join(ARMS)} violates exact KL with its ratio inside the clip range"
    )


@styled
def fig1_one_update(frames: Frames) -> Drawing:
    """A token whose ratio stays inside PPO's clip range while its distribution moves too far.

    Left: old and new distribution of its state. Right: exact KL against the sampled ratio for all
    sampled tokens of the arm with staleness of at least 1.
    """
    experiment, objective, token, arm = choose_token(frames)
    settings = frames.settings(experiment)
    figure = new_figure(WIDE, 3.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.08, 1))
    bars = _bars(left, token, settings)
    hidden = hidden_violations(arm, settings)
    _cloud(right, arm, hidden, token, settings)
    share = over_seeds(arm.assign(hidden=hidden), "hidden")
    violating = int((arm["kl_exact"] > settings.delta).sum())
    right.set_title(f"{name_text(objective)}, {len(arm):,} sampled tokens")
    points = arm[["seed", "staleness", "log_ratio", "kl_exact"]].assign(
        panel="tokens", hidden=hidden
    )
    stale = int(token["staleness"])
    late = " in the upper half of staleness" if stale >= arm["staleness"].max() / 2 else ""
    caption = (
        f"One update of {objective} on {experiment}. Left: the state of one sampled token after "
        f"{stale} update{'s' if stale != 1 else ''} on its rollout. The sampled action's ratio is "
        f"{math.exp(token['log_ratio']):.3f}, inside "
        f"[{1 - settings.clip[0]:g}, {1 + settings.clip[1]:g}], so the clip is silent; the exact "
        f"KL is {token['kl_exact']:.3g} nats, above {settings.delta:g}. The actions that were not "
        f"sampled carry {token['tv_unsampled']:.3f} of the total variation of {token['tv']:.3f}. "
        f"Chosen by rule: the median unsampled TV among such tokens{late}. Right: all sampled tokens "
        f"with staleness of at least 1; {plus_minus(share, 100, ' %')} of them (mean over "
        f"{int(share['n'])} seed{'s' if share['n'] != 1 else ''}) violate the exact KL inside the "
        f"clip range, which is {percent(hidden.sum() / violating)} of all {violating:,} violations."
    )
    notice = (
        "The clip is silent although the distribution moved: the ratio of the sampled action lies inside "
        "the clip range, the exact KL above its bound. Orange points on the right are such tokens: "
        f"{percent(hidden.sum() / violating)} of this arm's violations."
    )
    return Drawing(
        "fig1_one_update",
        "One PPO update",
        figure,
        pd.concat([bars, points], ignore_index=True),
        caption,
        notice,
    )


def _bars(axes: Axes, token: pd.Series, settings: Settings) -> pd.DataFrame:
    old = np.asarray(token["probs/old"], dtype=np.float64)
    new = np.asarray(token["probs/new"], dtype=np.float64)
    action = int(token["action"])
    rank = np.argsort(-np.maximum(old, new), kind="stable")
    shown = list(rank if len(rank) <= SHOWN + 1 else rank[:SHOWN])
    if action not in shown:
        shown[-1] = action
    shown.sort(key=lambda i: -old[i])
    rest = [i for i in range(len(old)) if i not in set(shown)]
    names = [str(i) for i in shown]
    heights_old, heights_new = list(old[shown]), list(new[shown])
    if rest:
        names.append(f"other\n({len(rest)})")
        heights_old.append(float(old[rest].sum()))
        heights_new.append(float(new[rest].sum()))
    x = np.arange(len(names))
    axes.bar(x - 0.21, heights_old, 0.4, color="#c3c9cf", label="before")
    axes.bar(x + 0.21, heights_new, 0.4, color="#0b5cad", label="after")
    place = shown.index(action)
    tallest = np.maximum(heights_old, heights_new)
    clear = float(tallest[max(place - 2, 0) : place + 3].max())  # above the bars the word spans
    axes.annotate(
        "sampled", (place, float(tallest[place])), xytext=(place, clear + 0.08 * tallest.max()),
        ha="center", color=ACCENT, fontsize=7, fontweight="bold",
        arrowprops={"arrowstyle": "-|>", "color": ACCENT, "linewidth": 0.9, "shrinkB": 1},
    )  # fmt: skip
    axes.set_xticks(x, names)
    axes.get_xticklabels()[place].set_color(ACCENT)
    axes.get_xticklabels()[place].set_fontweight("bold")
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("action, by probability before")
    axes.set_ylabel("probability")
    axes.set_ylim(0, 1.22 * float(tallest.max()))
    axes.legend(loc="upper right", handlelength=1.2)
    low, high = 1 - settings.clip[0], 1 + settings.clip[1]
    axes.set_title(
        f"sampled ratio r = {math.exp(token['log_ratio']):.3f}, inside [{low:g}, {high:g}]\n"
        f"exact KL = {token['kl_exact']:.3g} nats > {settings.delta:g}\n"
        f"TV = {token['tv']:.3f}, of which unsampled {token['tv_unsampled']:.3f};  "
        f"ρ = {math.exp(token['log_entropy_ratio']):.3f}",
        fontweight="normal", fontsize=7.5,
    )  # fmt: skip
    return pd.DataFrame(
        {
            "panel": "distribution",
            "action": [n.replace("\n", " ") for n in names],
            "prob_old": heights_old,
            "prob_new": heights_new,
            "sampled": [i == place for i in range(len(names))],
        }
    )


def _cloud(
    axes: Axes, arm: pd.DataFrame, hidden: pd.Series, token: pd.Series, settings: Settings
) -> None:
    low, high = math.log1p(-settings.clip[0]), math.log1p(settings.clip[1])
    floor = max(float(np.quantile(arm["kl_exact"], 0.02)), 1e-8)
    kl = arm["kl_exact"].clip(lower=floor)
    axes.axvspan(low, high, color="#eef1f4", zorder=0)
    axes.axhline(settings.delta, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    axes.scatter(arm["log_ratio"][~hidden], kl[~hidden], s=5, color="#8a8a8a", alpha=0.55,
                 linewidth=0, rasterized=True)  # fmt: skip
    axes.scatter(arm["log_ratio"][hidden], kl[hidden], s=6, color=ACCENT, alpha=0.7,
                 linewidth=0, rasterized=True)  # fmt: skip
    axes.scatter([token["log_ratio"]], [token["kl_exact"]], s=38, facecolor="none",
                 edgecolor=INK, linewidth=1.2, zorder=5)  # fmt: skip
    axes.set_yscale("log")
    top = max(float(kl.max()), 3 * settings.delta)
    axes.set_ylim(floor, top * 4)
    axes.set_xlim(*log_limits(arm["log_ratio"].to_numpy(), (low, high)))
    ratio_ticks(axes, "x")
    axes.set_xlabel("importance ratio r (shaded: clip range)")
    axes.set_ylabel(f"exact KL (nats); dashed: δ = {settings.delta:g}")
    share = percent(float(hidden.mean()))
    axes.text((low + high) / 2, top * 3.2, f"hidden violations: {share}", ha="center", va="top",
              color=ACCENT, fontsize=7, fontweight="bold")  # fmt: skip


_RATIOS = (
    *(1e-3, 1e-2, 0.05, 0.1, 0.2, 0.33, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0),
    *(1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 100.0, 1e3),
)


def ratio_ticks(axes: Axes, which: str, most: int = 7) -> None:
    """Ticks of a natural-log axis at round ratios, as many as have room."""
    limits = getattr(axes, f"get_{which}lim")()
    width = limits[1] - limits[0]
    room = width / most
    chosen = [0.0]
    for sign in (1, -1):
        last = 0.0
        for ratio in sorted(_RATIOS, key=lambda r: abs(math.log(r))):
            at = math.log(ratio)
            if at * sign > 0 and abs(at - last) >= room and limits[0] <= at <= limits[1]:
                chosen.append(at)
                last = at
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(FixedLocator(sorted(chosen)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{math.exp(v):.3g}"))
