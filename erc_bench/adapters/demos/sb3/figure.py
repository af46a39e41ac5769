"""The comparison as a figure: learning curves above, shares of transitions below them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from erc_bench.analysis.numbers import decimals
from erc_bench.analysis.statistics import median_interval, paired_difference
from erc_bench.presentation.plots import layout
from erc_bench.presentation.plots.seeds import over_seeds
from erc_bench.presentation.plots.style import INK, WIDE, line_of, ordered, styled
from erc_bench.presentation.reporting.captions import Plate
from erc_bench.presentation.reporting.words import sign_of, tally
from erc_bench.studies.arms import StoredArm, stored_arm

__all__ = ["compared", "draw"]

SHARES: dict[str, tuple[str, dict[str, Any]]] = {
    "clip/ratio_bound_fraction": ("clip binds", {"linestyle": (0, (1, 1.2))}),
    "drift/out_of_band_fraction": ("outside the band", {}),
}

_ERC_PPO = StoredArm("erc-ppo", "erc-ppo", "ppo-clip", ("EntropyRatio",), (0.05, 0.05))


def _arms(runs: pd.DataFrame) -> dict[str, StoredArm]:
    """The arms by label, in the order of legends; SB3's own gated arm is no recipe of this package."""
    names = runs["objective"].unique()
    arms = (_ERC_PPO if name == _ERC_PPO.label else stored_arm(name) for name in names)
    return {arm.label: arm for arm in ordered(arms)}


def compared(runs: pd.DataFrame, base: str = "ppo-clip") -> pd.DataFrame:
    """Per environment and arm: median evaluation return, and its paired difference to the base."""
    rows = []
    for environment, here in runs.groupby("environment", sort=False):
        final = here.groupby(["objective", "seed"])["final"].first()
        for arm in _arms(here):
            final_return = median_interval(final[arm])
            row = {"environment": environment, "objective": arm, "seeds": final_return.n}
            row |= {
                "return": final_return.estimate,
                "low": final_return.low,
                "high": final_return.high,
            }
            own = here[here["objective"] == arm]
            row |= {name: own[metric].mean() for metric, (name, _) in SHARES.items()}
            row["dropped"] = own["gate/dropped_fraction"].mean()
            if arm != base and base in final:
                found = paired_difference(final[base], final[arm])
                ends = {"difference_low": found.low, "difference_high": found.high}
                row |= {"difference": found.estimate, **ends}
            rows.append(row)
    return pd.DataFrame(rows)


def difference_text(row: Mapping[str, Any]) -> str:
    """A row's difference and its interval if it has one, to two digits of the wider end."""
    median, low, high = (float(row[f"difference{end}"]) for end in ("", "_low", "_high"))
    widest = max(abs(end) for end in (median, low, high) if not math.isnan(end))
    kind = f"+.{decimals(widest, 4) if widest > 0 else 0}f"
    return f"{median:{kind}}" + ("" if math.isnan(low) else f" [{low:{kind}}, {high:{kind}}]")


def _curve(
    axes: Axes, here: pd.DataFrame, arm: StoredArm, metric: str, scale: float, **extra: object
) -> pd.DataFrame:
    curve = over_seeds(here[here["objective"] == arm.label], ["objective", "steps"], metric)
    curve[["estimate", "low", "high"]] *= scale
    line = line_of(arm, **extra)
    axes.plot(curve["steps"] / 1e3, curve["estimate"], **line)
    shaded = curve.dropna(subset=["low"])
    ends = shaded["low"], shaded["high"]
    axes.fill_between(shaded["steps"] / 1e3, *ends, color=line["color"], alpha=0.15, linewidth=0)
    return curve.assign(metric=metric)


@styled
def draw(runs: pd.DataFrame) -> Plate:
    """Draw medians and 95 % intervals over seeds; the titles tell the returns after training."""
    environments = list(dict.fromkeys(runs["environment"]))
    figure = layout.new_figure(WIDE, 4.0)
    grid = figure.subplots(2, len(environments), squeeze=False, sharex="col")
    table, data = compared(runs).set_index(["environment", "objective"]), []
    for environment, (above, below) in zip(environments, grid.T, strict=True):
        here = runs[runs["environment"] == environment]
        for arm in _arms(here).values():
            data.append(_curve(above, here, arm, "return", 1.0).assign(environment=environment))
            for metric, (_, style) in SHARES.items():
                curve = _curve(below, here, arm, metric, 100.0, **style)
                data.append(curve.assign(environment=environment))
        title = environment.removeprefix("erc/").partition("-")[0]
        if "erc-ppo" in set(here["objective"]):
            row = table.loc[(environment, "erc-ppo")]
            title += f", {row['seeds']:.0f} seeds\nERC {difference_text(row)}"
        above.set_title(title, fontsize=6)
        below.set_xlabel("thousand steps")
        below.set_ylim(bottom=0)
    grid[0, 0].set_ylabel("return, last 100 episodes")
    grid[1, 0].set_ylabel("transitions (%)")
    entries = layout.line_handles(_arms(runs))
    for name, style in SHARES.values():
        entries.append((Line2D([], [], color=INK, **{"linestyle": "-"} | style), name))
    layout.legend_below(figure, entries)
    caption = (
        "SB3's PPO with and without the entropy-ratio band, median and 95 % interval over paired seeds. In "
        "the titles: ERC-PPO's return less PPO's after training, 20 evaluation episodes a seed."
    )
    ends = table.reindex(columns=["difference_low", "difference_high"]).dropna().to_numpy()
    signs = [sign_of(low, high) for low, high in ends]
    notice = (
        "Above, a gated line over PPO's means that the band helps; below, how much it drops for that. "
        f"Return after training is {tally(signs, 'paired comparisons')} (95 % intervals)."
    )
    title = "PPO with the band"
    return Plate("", "sb3_control", title, figure, pd.concat(data), notice, caption)
