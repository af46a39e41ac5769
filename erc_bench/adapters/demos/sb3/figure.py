"""The comparison as a figure: learning curves above, shares of transitions below, returns at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from erc_bench.analysis.statistics.intervals import paired_difference
from erc_bench.presentation.plots.frames import Drawing, band
from erc_bench.presentation.plots.layout import legend_below, new_figure, tally
from erc_bench.presentation.plots.style import INK, WIDE, line_of, name_text, ordered, styled

__all__ = ["compared", "draw"]

SHARES: dict[str, tuple[str, dict[str, Any]]] = {
    "clip/ratio_bound_fraction": ("clip binds", {"linestyle": (0, (1, 1.2))}),
    "drift/out_of_band_fraction": ("outside the band", {}),
}


def compared(runs: pd.DataFrame, base: str = "ppo-clip") -> pd.DataFrame:
    """Per environment and arm: mean evaluation return, and its paired difference to the base."""
    rows = []
    for environment, here in runs.groupby("environment", sort=False):
        final = here.groupby(["objective", "seed"])["final"].first()
        for arm in ordered(here["objective"]):
            mean = band(final[arm].to_numpy()[:, None]).iloc[0]
            row = {"environment": environment, "objective": arm, "seeds": int(mean["n"])}
            row |= {"return": mean["mean"], "low": mean["low"], "high": mean["high"]}
            own = here[here["objective"] == arm]
            row |= {name: own[metric].mean() for metric, (name, _) in SHARES.items()}
            row["dropped"] = own["gate/dropped_fraction"].mean()
            if arm != base and base in final:
                found = paired_difference(final[base], final[arm])
                ends = {"difference_low": found.low, "difference_high": found.high}
                row |= {"difference": found.mean, **ends}
            rows.append(row)
    return pd.DataFrame(rows)


def difference_texts(row: Mapping[str, Any]) -> tuple[str, str]:
    """A row's difference and its interval, with decimals to two digits of its wider end."""
    mean, low, high = (float(row[f"difference{end}"]) for end in ("", "_low", "_high"))
    widest = max(abs(low), abs(high))
    decimals = min(4, max(0, 1 - math.floor(math.log10(widest)))) if widest > 0 else 0
    texts = [f"{x:+.{decimals}f}" for x in (mean, low, high)]
    return texts[0], f"[{texts[1]}, {texts[2]}]"


def _curve(
    axes: Axes, here: pd.DataFrame, arm: str, metric: str, scale: float, **extra: object
) -> pd.DataFrame:
    wide = here[here["objective"] == arm].pivot_table(index="seed", columns="steps", values=metric)
    curve = band(wide.to_numpy() * scale)
    curve.insert(0, "steps", wide.columns.to_numpy())
    line = line_of(arm, **extra)
    axes.plot(curve["steps"] / 1e3, curve["mean"], **line)
    shaded = curve.dropna(subset=["low"])
    tint = {"color": line["color"], "alpha": 0.15, "linewidth": 0}
    axes.fill_between(shaded["steps"] / 1e3, shaded["low"], shaded["high"], **tint)
    return curve.assign(objective=arm, metric=metric)


@styled
def draw(runs: pd.DataFrame) -> Drawing:
    """Mean and 95 % interval over seeds."""
    environments = list(dict.fromkeys(runs["environment"]))
    figure = new_figure(WIDE, 4.0)
    grid = figure.subplots(2, len(environments), squeeze=False, sharex="col")
    table, data = compared(runs).set_index(["environment", "objective"]), []
    for environment, (above, below) in zip(environments, grid.T, strict=True):
        here = runs[runs["environment"] == environment]
        for arm in ordered(here["objective"]):
            data.append(_curve(above, here, arm, "return", 1.0).assign(environment=environment))
            for metric, (_, style) in SHARES.items():
                curve = _curve(below, here, arm, metric, 100.0, **style)
                data.append(curve.assign(environment=environment))
        title = environment.removeprefix("erc/").partition("-")[0]
        if "erc-ppo" in set(here["objective"]):
            row = table.loc[(environment, "erc-ppo")]
            title += f", {row['seeds']:.0f} seeds\nERC {' '.join(difference_texts(row))}"
        above.set_title(title, fontsize=6)
        below.set_xlabel("thousand steps")
        below.set_ylim(bottom=0)
    grid[0, 0].set_ylabel("return, last 100 episodes")
    grid[1, 0].set_ylabel("transitions (%)")
    arms = ordered(runs["objective"])
    handles = [Line2D([], [], **line_of(arm)) for arm in arms]
    labels = [name_text(arm) for arm in arms]
    for name, style in SHARES.values():
        handles.append(Line2D([], [], color=INK, **{"linestyle": "-"} | style))
        labels.append(name)
    legend_below(figure, handles, labels)
    caption = (
        "SB3's PPO with and without the entropy-ratio band, mean and 95 % interval over paired seeds. In the "
        "titles: ERC-PPO's return less PPO's after training, 20 evaluation episodes a seed."
    )
    ends = table.reindex(columns=["difference_low", "difference_high"]).dropna().to_numpy()
    signs = [int(low > 0) - int(high < 0) for low, high in ends]
    notice = (
        "Above, a gated line over PPO's means that the band helps; below, how much it drops for that. "
        f"Return after training is {tally(signs, 'paired comparisons')} (95 % intervals)."
    )
    return Drawing("sb3_control", "PPO with the band", figure, pd.concat(data), caption, notice)
