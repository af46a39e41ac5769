"""Figures over training: entropy and gradient norm, learning curves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from erc_bench.presentation.plots.frames import Drawing, Frames, NothingToDraw, band, drawn_band
from erc_bench.presentation.plots.layout import (
    arm_legend,
    clear_sign,
    first_column,
    new_figure,
    over_seeds,
    paired_panels,
    panel_grid,
    plus_minus,
    tally,
)
from erc_bench.presentation.plots.style import (
    COLUMN,
    INK,
    WIDE,
    arm_style,
    group_of,
    line_of,
    name_text,
    ordered,
    pairs,
    styled,
)

__all__ = ["fig2_entropy_gradient", "fig3_learning_curves"]

_OPTIMUM: dict[str, Any] = {"color": INK, "linewidth": 0.8, "linestyle": (0, (1, 1.5))}
ENTROPY, GRADIENT = "drift/entropy_new", "grad/norm"
POINTS, ROLLOUTS = 60, 30  # at most so many points in a curve


def _draw_band(axes: Axes, data: pd.DataFrame, x: str, name: str, arms: int) -> None:
    style = arm_style(name)
    order = 3 if name.startswith("erc-") else 2
    axes.plot(data[x], data["mean"], **line_of(name, zorder=order + 2))
    shaded = data.dropna(subset=["low", "high"])
    alpha = 0.15 if arms <= 4 else 0.09
    axes.fill_between(
        shaded[x], shaded["low"], shaded["high"], color=style.color, alpha=alpha, linewidth=0,
        zorder=order, gid=group_of(name),
    )  # fmt: skip


def _frame(axes: Axes, curves: list[pd.DataFrame], include: float = math.nan) -> None:
    """Limits for all bands; where a few would dwarf the means, for the means with room around."""
    if not curves:
        return
    drawn = pd.concat(curves)
    values = [*drawn["mean"], *([include] if math.isfinite(include) else [])]
    low, high = min(values), max(values)
    reach = (high - low) or abs(high) or 1.0
    bottom, top = (
        drawn["low"].fillna(drawn["mean"]).min(),
        drawn["high"].fillna(drawn["mean"]).max(),
    )
    bottom, top = min(bottom, low), max(top, high)
    axes.set_ylim(
        max(bottom, low - 0.4 * reach) - 0.06 * reach, min(top, high + 0.4 * reach) + 0.2 * reach
    )


def _mark_divergence(axes: Axes, points: list[tuple[float, float]], name: str) -> None:
    for x, y in points:
        axes.plot([x], [y], marker="x", markersize=4.5, markeredgewidth=1.3, zorder=6,
                  color=arm_style(name).color, linestyle="none", gid=group_of(name))  # fmt: skip


def _by_update(
    metrics: pd.DataFrame, metric: str, width: int
) -> tuple[pd.DataFrame, list[tuple[float, float]]]:
    """Band over seeds, each point the mean of ``width`` updates; and where diverged runs ended."""
    metrics = metrics[["seed", "update", "diverged", metric]]
    metrics = metrics.assign(bin=metrics["update"] // width)
    wide = metrics[np.isfinite(metrics[metric])].pivot_table(
        index="seed", columns="bin", values=metric
    )
    data = drawn_band(wide.to_numpy())
    data.insert(0, "update", wide.columns.to_numpy() * width + (width - 1) / 2)
    diverged = metrics.loc[metrics["diverged"].astype(bool), "seed"].unique()
    ends = [wide.loc[seed].dropna() for seed in diverged if seed in wide.index]
    marks = [(s.index[-1] * width + (width - 1) / 2, s.iloc[-1]) for s in ends if len(s)]
    return data, marks


def bin_width(metrics: pd.DataFrame) -> int:
    """Updates averaged to one point: whole rollouts, so that at most ``POINTS`` are drawn."""
    updates = int(metrics["update"].max()) + 1
    if updates <= POINTS:
        return 1
    stale = metrics["staleness"].max()  # NaN in logs of trainers that do not say
    per_rollout = int(stale) + 1 if math.isfinite(stale) else 1
    return per_rollout * math.ceil(updates / (POINTS * per_rollout))


@styled
def fig2_entropy_gradient(frames: Frames) -> Drawing:
    """Entropy per token and gradient norm against updates: mean and 95 % band over seeds.

    Longer runs are averaged over whole rollouts to at most ``POINTS`` points, each seed by itself.
    A diverged run counts until it diverges, and a cross marks where.
    """
    metrics = frames.metrics
    for metric in (ENTROPY, GRADIENT):
        if metric not in metrics or not np.isfinite(metrics[metric]).any():
            raise NothingToDraw(f"no values of {metric}")
    experiments = frames.panels
    count = len(experiments)
    figure, panels = paired_panels(count, 2.6, min(3.3, 8.6 / math.ceil(count / 3)))
    data, widths = [], set()
    for experiment, (upper, lower) in zip(experiments, panels, strict=True):
        here = metrics[metrics["experiment"] == experiment]
        width = bin_width(here)
        widths.add(width)
        for axes, metric in ((upper, ENTROPY), (lower, GRADIENT)):
            drawn = []
            for name in ordered(here["objective"]):
                curve, marks = _by_update(here[here["objective"] == name], metric, width)
                if curve.empty:
                    continue
                _draw_band(axes, curve, "update", name, here["objective"].nunique())
                _mark_divergence(axes, marks, name)
                drawn.append(curve)
                data.append(curve.assign(experiment=experiment, objective=name, metric=metric))
            _frame(axes, drawn, 0.0 if metric == GRADIENT else math.nan)
            axes.margins(x=0.01)
            if count == 1 or first_column(axes):
                axes.set_ylabel("entropy (nats)" if metric == ENTROPY else "gradient norm")
        upper.set_title(name_text(experiment))
        lower.set_ylim(bottom=0)
        lower.set_xlabel("update")
        if count == 1:
            upper.set_xlabel("update")
    arm_legend(figure, frames, {e: frames.arms(e) for e in experiments})
    averaged = max(widths)
    return Drawing(
        "fig2_entropy_gradient",
        "Entropy and gradient norm",
        figure,
        pd.concat(data, ignore_index=True),
        _caption_entropy(frames, averaged),
        _notice_entropy(frames),
    )


def _caption_entropy(frames: Frames, averaged: int) -> str:
    text = (
        "Entropy per token and the gradient's norm before clipping, over training: mean and 95 % "
        "interval over seeds, diverged runs until they diverge."
    )
    if averaged > 1:
        text += f" Points are means of up to {averaged} updates within a seed."
    findings = []
    for experiment in frames.panels:
        here = frames.metrics[frames.metrics["experiment"] == experiment]
        runs = frames.runs[frames.runs["experiment"] == experiment]
        for base, erc in pairs(frames.arms(experiment)):
            spread = {
                name: here[here["objective"] == name].groupby("seed")[GRADIENT].std()
                for name in (base, erc)
            }
            ended = runs.set_index(["objective", "seed"])
            change = ended["entropy/final"] - ended["entropy/initial"]
            parts = []
            for name in (base, erc):
                lost = band(change.loc[name].to_numpy()[:, None]).iloc[0]
                jitter = band(spread[name].to_numpy()[:, None]).iloc[0]
                parts.append(
                    f"{name} changed entropy by {plus_minus(lost, unit=' nats')}, gradient-norm "
                    f"spread {plus_minus(jitter)}"
                )
            findings.append(f"{experiment}: {'; '.join(parts)}.")
    return " ".join([text, *findings[:4]])


def _notice_entropy(frames: Frames) -> str:
    text = (
        "Compare a solid line (with the gate) with the broken line of its hue (without): the gate "
        "steadies training where the solid gradient norm varies less."
    )
    signs = []
    for experiment in frames.panels:
        here = frames.metrics[frames.metrics["experiment"] == experiment]
        spread = here.groupby(["objective", "seed"])[GRADIENT].std()
        arms = set(spread.index.get_level_values(0))
        signs += [clear_sign(spread[base], spread[erc]) for base, erc in pairs(arms)]
    if signs:
        text += (
            f" With the gate its spread is {tally(signs, 'paired comparisons')} (95 % intervals)."
        )
    return text


def _learning_curve(metrics: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[float, float]]]:
    """Band over seeds of the mean return per rollout, at common token counts.

    More than ``ROLLOUTS`` rollouts are averaged in blocks, each seed by itself.

    After its divergence a run has return 0. Where the seeds' token counts differ, their curves are
    interpolated linearly on a common grid between the largest first and the smallest last count.
    """
    curves, points = [], []
    columns = ["seed", "update", "rollout", "tokens", "reward/mean", "diverged"]
    for _, run in metrics[columns].sort_values("update").groupby("seed"):
        rollouts = run.drop_duplicates("rollout")
        alive = rollouts[np.isfinite(rollouts[["reward/mean", "tokens"]].astype(float)).all(axis=1)]
        if alive.empty:
            continue
        block = np.arange(len(alive)) // math.ceil(len(rollouts) / ROLLOUTS)
        blocks = alive[["tokens", "reward/mean"]].astype(float).groupby(block).mean()
        x, y = blocks["tokens"].to_numpy(), blocks["reward/mean"].to_numpy()
        failed = bool(run["diverged"].astype(bool).any())
        curves.append((x, y, failed))
        if failed:
            points.append((x[-1], y[-1]))
    if not curves:
        return pd.DataFrame(columns=["tokens", "mean", "low", "high", "n"]), []
    whole = [c for c in curves if not c[2]] or [max(curves, key=lambda c: c[0][-1])]
    first = whole[0][0]
    if all(len(x) == len(first) and (x == first).all() for x, _, _ in whole):
        grid = first
    else:
        start, stop = max(x[0] for x, _, _ in whole), min(x[-1] for x, _, _ in whole)
        grid = np.linspace(start, stop, max(len(first), 2))
    values = [np.interp(grid, x, y, right=0.0 if failed else None) for x, y, failed in curves]
    data = drawn_band(np.array(values))
    data.insert(0, "tokens", grid)
    return data, points


@styled
def fig3_learning_curves(frames: Frames) -> Drawing:
    """Mean return of each rollout against tokens generated: mean and 95 % band over seeds.

    Tokens, not updates, because dynamic sampling generates more for the same number of updates.
    """
    experiments = frames.panels
    figure = new_figure(
        COLUMN * 1.2 if len(experiments) == 1 else WIDE, 2.2 * math.ceil(len(experiments) / 3) + 0.6
    )
    data = []
    for axes, experiment in zip(panel_grid(figure, len(experiments)), experiments, strict=True):
        here = frames.metrics[frames.metrics["experiment"] == experiment]
        tokens = pd.to_numeric(here["tokens"]).max()
        drawn: list[pd.DataFrame] = []
        unit, word = (1e6, "million") if tokens >= 2e6 else (1e3, "thousand")
        for name in ordered(here["objective"]):
            curve, ends = _learning_curve(here[here["objective"] == name])
            if curve.empty:
                continue
            data.append(curve.assign(experiment=experiment, objective=name))
            drawn.append(curve)
            scaled = curve.assign(tokens=curve["tokens"] / unit)
            _draw_band(axes, scaled, "tokens", name, here["objective"].nunique())
            _mark_divergence(axes, [(x / unit, y) for x, y in ends], name)
        optimum = frames.runs.loc[frames.runs["experiment"] == experiment, "reward/optimal"].mean()
        if math.isfinite(optimum):
            axes.axhline(optimum, zorder=1, **_OPTIMUM)
        _frame(axes, drawn, optimum)
        axes.set_title(name_text(experiment))
        axes.set_xlabel(f"tokens generated ({word})")
        if first_column(axes):
            axes.set_ylabel("mean return")
        axes.margins(x=0.01)
    if not data:
        raise NothingToDraw("no rollout with a finite return and its number of tokens")
    known = (
        frames.runs.loc[frames.runs["experiment"].isin(experiments), "reward/optimal"].notna().any()
    )
    arm_legend(
        figure,
        frames,
        {e: frames.arms(e) for e in experiments},
        [(Line2D([], [], **_OPTIMUM), "optimum")] if known else [],
    )
    text = (
        "Mean return of rollouts against the tokens generated for training: mean and 95 % interval "
        f"over seeds, at most {ROLLOUTS} points, each the mean of a seed's consecutive rollouts"
        f"{'; dotted: expected return of the best policy' if known else ''}. A diverged run has "
        "return 0 from its divergence on."
    )
    return Drawing(
        "fig3_learning_curves",
        "Learning curves",
        figure,
        pd.concat(data, ignore_index=True),
        " ".join([text, *_final_rewards(frames)]),
        _notice_learning(frames),
    )


def _returns(frames: Frames, experiment: str) -> pd.DataFrame:
    """Runs of an experiment with ``value``, the return after training; 0 for a diverged run."""
    runs = frames.runs[frames.runs["experiment"] == experiment]
    failed = runs["diverged"].astype(bool)
    return runs.assign(value=runs["reward/final"].where(~failed, 0.0))


def _notice_learning(frames: Frames) -> str:
    text = (
        "Where a solid line (with the gate) runs above the broken line of its hue (without), the gate "
        "learns more from the same number of tokens."
    )
    signs = []
    for experiment in frames.panels:
        values = _returns(frames, experiment).groupby(["objective", "seed"])["value"].mean()
        arms = set(values.index.get_level_values(0))
        signs += [clear_sign(values[base], values[erc]) for base, erc in pairs(arms)]
    if signs:
        text += (
            f" The return at the end is {tally(signs, 'paired comparisons')} with the gate "
            "(95 % intervals)."
        )
    return text


def _final_rewards(frames: Frames) -> list[str]:
    """Final evaluation of each pair, per experiment."""
    sentences = []
    for experiment in frames.panels[:4]:
        runs = _returns(frames, experiment)
        parts = [
            f"{name} {plus_minus(over_seeds(runs[runs['objective'] == name], 'value'))}"
            for pair in pairs(runs["objective"])
            for name in pair
        ]
        if parts:
            imported = "imported" in frames.about(experiment)  # a log: it has no evaluation
            measured = "Last rollout" if imported else "Final evaluation"
            sentences.append(f"{measured}, {experiment}: {', '.join(parts)}.")
    return sentences
