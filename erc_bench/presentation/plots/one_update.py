"""Figure 1: what one update did to the distribution of one token's state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from erc_bench.analysis.bounds import Bounds
from erc_bench.analysis.claims.statistics import violating
from erc_bench.analysis.numbers import percent
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.exhibits import Exhibit, Needs, Whole
from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.style import ACCENT, BOLD, CLOUD, INK, WIDE, name_text

FIRST = "unsampled_shift"  # the experiment in which a token is looked for first
ARMS = ("ppo-clip", "dapo", "grpo", "gppo")
SHOWN = 12  # actions drawn one by one; the rest is one bar
DISTRIBUTIONS = ("probs/old", "probs/new")


def hidden_violations(tokens: pd.DataFrame, bounds: Bounds) -> pd.Series:
    """Tokens with exact KL above delta and the sampled ratio inside the clip range."""
    low, high = math.log1p(-bounds.clip[0]), math.log1p(bounds.clip[1])
    return (tokens["kl_exact"] > bounds.delta) & tokens["log_ratio"].between(low, high)


def tv_hidden(tokens: Any) -> Any:
    """Total variation that the sampled action's own probability does not explain, ``TV - |p_a - q_a|``."""
    return tokens["tv"] - tokens["prob/old"] * abs(np.expm1(tokens["log_ratio"]))


def experiments_in_order(frames: Frames) -> list[str]:
    """Where the token shown is looked for."""
    return sorted(frames.panels, key=lambda e: e != FIRST)


def choose_token(frames: Frames) -> tuple[str, str, pd.Series, pd.DataFrame]:
    """The token shown: experiment, objective, its row, and all stale tokens of that arm.

    The first of unsampled_shift and then the other experiments, and there the first of ppo-clip,
    dapo, grpo, gppo, that has a hidden violation with a stored distribution. Among those with more
    exact KL than the clip permits the sampled action, so that other actions carry the excess, and in
    the upper half of staleness (if none, without the one or the other condition), the one with the
    median :func:`tv_hidden`, the lower one of two; ties go to the first in the records' order.

    Raises:
        NothingToDraw: no such token.
    """
    tokens = frames.tokens
    if not {*DISTRIBUTIONS} <= set(tokens):
        raise NothingToDraw("no token was stored with its whole distribution")
    for experiment in experiments_in_order(frames):
        for objective in ARMS:
            arm = tokens[(tokens["experiment"] == experiment) & (tokens["objective"] == objective)]
            arm = arm[(arm["staleness"] > 0) & np.isfinite(arm["kl_exact"])]
            bounds = frames.bounds(experiment)
            found = arm[hidden_violations(arm, bounds) & arm["probs/old"].notna()]
            if len(found):
                late = found["staleness"] >= arm["staleness"].max() / 2
                excess = violating(found, "clip_kl", bounds)
                among = next(
                    a for a in (found[late & excess], found[excess], found[late], found) if len(a)
                )
                by_mass = np.argsort(tv_hidden(among).to_numpy(), kind="stable")
                return experiment, objective, among.iloc[by_mass[(len(among) - 1) // 2]], arm
    raise NothingToDraw(
        f"no token of {', '.join(ARMS)} violates exact KL with its ratio inside the clip range"
    )


def _arms(frames: Frames, experiment: str) -> set[str]:
    return {*ARMS} if experiment == experiments_in_order(frames)[0] else set()


def _violating(frames: Frames) -> pd.Series:
    tokens = frames.tokens
    found = pd.Series(False, index=tokens.index)
    for experiment in frames.panels:
        here = (tokens["experiment"] == experiment) & tokens["objective"].isin(ARMS)
        found |= here & hidden_violations(tokens, frames.bounds(experiment))
    return found


def _row(frames: Frames) -> int | None:
    try:
        return int(choose_token(frames)[2].name)
    except NothingToDraw:
        return None


def table(frames: Frames) -> pd.DataFrame:
    """Probabilities before and after of the token's actions, and every sampled token of its arm."""
    experiment, _, token, arm = choose_token(frames)
    hidden = hidden_violations(arm, frames.bounds(experiment))
    points = arm[["seed", "staleness", "log_ratio", "kl_exact"]]
    points = points.assign(panel="tokens", hidden=hidden)
    return pd.concat([_actions(token), points], ignore_index=True)


def _actions(token: pd.Series) -> pd.DataFrame:
    """The likeliest actions and the sampled one, by probability before; all others as one row."""
    old, new = (np.asarray(token[name], dtype=np.float64) for name in DISTRIBUTIONS)
    action = int(token["action"])
    rank = np.argsort(-np.maximum(old, new), kind="stable")
    shown = list(rank if len(rank) <= SHOWN + 1 else rank[:SHOWN])
    if action not in shown:
        shown[-1] = action
    shown.sort(key=lambda i: -old[i])
    rows = pd.DataFrame(
        {
            "panel": "distribution",
            "action": [str(i) for i in shown],
            "prob_old": old[shown],
            "prob_new": new[shown],
            "sampled": [i == action for i in shown],
        }
    )
    if rest := len(old) - len(shown):
        others = {"panel": "distribution", "action": f"other ({rest})", "sampled": False}
        others |= {"prob_old": 1 - rows["prob_old"].sum(), "prob_new": 1 - rows["prob_new"].sum()}
        rows = pd.concat([rows, pd.DataFrame([others])], ignore_index=True)
    return rows


def draw(frames: Frames, data: pd.DataFrame) -> Figure:
    """A token whose ratio stays inside PPO's clip range while its distribution moves too far.

    Left: old and new distribution of its state. Right: exact KL against the sampled ratio for all
    sampled tokens of the arm with staleness of at least 1.
    """
    experiment, objective, token, _ = choose_token(frames)
    bounds = frames.bounds(experiment)
    figure = layout.new_figure(WIDE, 3.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.08, 1))
    draw_distribution(left, data[data["panel"] == "distribution"])
    low, high = 1 - bounds.clip[0], 1 + bounds.clip[1]
    left.set_title(
        f"sampled ratio r = {math.exp(token['log_ratio']):.3f}, inside [{low:g}, {high:g}]\n"
        f"exact KL = {token['kl_exact']:.3g} nats > {bounds.delta:g}\n"
        f"TV = {token['tv']:.3f}, of which hidden {tv_hidden(token):.3f};  "
        f"ρ = {math.exp(token['log_entropy_ratio']):.3f}",
        fontweight="normal",
        fontsize=7.5,
    )
    points = data[data["panel"] == "tokens"]
    draw_tokens(right, points, bounds)
    here = token["log_ratio"], token["kl_exact"]
    right.plot(*here, "o", ms=6.5, mfc="none", mec=INK, mew=1.2, zorder=5)
    right.set_title(f"{name_text(objective)}, {len(points):,} sampled tokens")
    return figure


def draw_distribution(axes: Axes, actions: pd.DataFrame) -> Axes:
    """Bars of a state's actions before and after, the sampled one named."""
    long = actions.melt(["action", "sampled"], ["prob_old", "prob_new"], "when", "probability")
    long = long.replace({"when": {"prob_old": "before", "prob_new": "after"}})
    colors = {"hue": "when", "palette": ["#c3c9cf", "#0b5cad"], "saturation": 1}
    sns.barplot(long, x="action", y="probability", ax=axes, **colors)
    place = int(np.flatnonzero(actions["sampled"])[0])
    tallest = actions[["prob_old", "prob_new"]].max(axis=1).to_numpy()
    clear = float(tallest[max(place - 2, 0) : place + 3].max())  # above the bars the word spans
    arrow = {"arrowstyle": "-|>", "color": ACCENT, "linewidth": 0.9, "shrinkB": 1}
    ends = (place, float(tallest[place])), (place, clear + 0.08 * tallest.max())
    axes.annotate("sampled", *ends, arrowprops=arrow, color=ACCENT, fontsize=7, **BOLD)
    names = [name.replace(" ", "\n") for name in actions["action"]]
    labels = axes.set_xticks(range(len(names)), names) and axes.get_xticklabels()
    labels[place].set(color=ACCENT, fontweight="bold")
    axes.set(xlabel="action, by probability before", xlim=(-0.8, len(names) - 0.4))
    axes.set(ylim=(0, 1.22 * float(tallest.max())))
    axes.legend(loc="upper right", handlelength=1.2)
    return axes


def draw_tokens(axes: Axes, points: pd.DataFrame, bounds: Bounds) -> Axes:
    """Exact KL against the importance ratio, hidden violations in colour and on top."""
    low, high = math.log1p(-bounds.clip[0]), math.log1p(bounds.clip[1])
    floor = max(float(np.quantile(points["kl_exact"], 0.02)), 1e-8)
    hidden = points["hidden"].astype(bool)
    kl = points["kl_exact"].clip(lower=floor)
    axes.axvspan(low, high, color="#eef1f4", zorder=0)
    axes.axhline(bounds.delta, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    shown = points.assign(kl_exact=kl, hidden=hidden).sort_values("hidden", kind="stable")
    colors = {"hue": "hidden", "palette": {False: "#8a8a8a", True: ACCENT}}
    sns.scatterplot(shown, x="log_ratio", y="kl_exact", ax=axes, **colors, **CLOUD)
    axes.set_yscale("log")
    top = max(float(kl.max()), 3 * bounds.delta)
    axes.set(
        ylim=(floor, 4 * top), xlim=layout.log_limits(points["log_ratio"].to_numpy(), (low, high))
    )
    layout.ratio_ticks(axes, "x")
    axes.set_xlabel("importance ratio r (shaded: clip range)")
    axes.set_ylabel(f"exact KL (nats); dashed: δ = {bounds.delta:g}")
    text = f"hidden violations: {percent(float(hidden.mean()))}"
    axes.text((low + high) / 2, 3.2 * top, text, va="top", color=ACCENT, fontsize=7, **BOLD)
    return axes


NEEDS = Needs(
    tokens=("action", "tv", "prob/old", "entropy/old"),
    rows=_violating,
    arms=_arms,
    whole=Whole(DISTRIBUTIONS, experiments_in_order, _row),
)
FIGURE = Exhibit("1", "one_update", "One PPO update", table, draw, NEEDS)
