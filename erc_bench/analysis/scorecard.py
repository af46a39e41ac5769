"""The scorecard: one number per run and measure, and its median over seeds.

Every measure is first computed within a run; what is shown is the median over seeds, the typical run,
with its 95 % interval. A measure of updates is the plain mean over all updates of the run, also those
at staleness 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from erc_bench.analysis.numbers import ends, number, with_ends
from erc_bench.analysis.scores import Scores
from erc_bench.analysis.statistics import (
    LEAST,
    Interval,
    mean_interval,
    median_interval,
    ratio_interval,
)
from erc_bench.core.errors import InputError
from erc_bench.core.metrics import METRICS, Metric
from erc_bench.studies.arms import gated_pairs, stored_arms
from erc_bench.studies.records import KEYS, Results

__all__ = [
    "MEASURES",
    "NOTE",
    "Contrast",
    "Measure",
    "collapses",
    "out_of_band_to_bound",
    "paired",
    "per_seed",
    "scores",
    "summary",
]


@dataclass(frozen=True)
class Measure:
    """A column of the scorecard: a metric, reduced to one number per run.

    Attributes:
        key: its name in the frames.
        group: the table that shows it.
        metric: its entry in the registry. If the runs have a column ``mean/<metric>``, its value is there.
    """

    key: str
    group: str
    metric: Metric


_COLUMNS = {
    "learning": {
        "final_reward": "reward/final",
        "share_of_optimum": "reward/share_of_optimum",
        "entropy_change": "entropy/change",
        "grad_norm_spread": "std/grad/norm",
        "tokens": "tokens",
    },
    "drift": {
        "clip_bound": "clip/ratio_bound_fraction",
        "out_of_band": "drift/out_of_band_fraction",
        "dropped": "gate/dropped_fraction",
        "kl_exact": "drift/kl_exact",
        "tv_hidden": "drift/tv_hidden",
        "hidden_violations": "drift/hidden_violation_fraction",
    },
}
MEASURES = tuple(Measure(k, g, METRICS[name]) for g, c in _COLUMNS.items() for k, name in c.items())

NOTE = (
    f"Median over seeds with its 95 % interval; n=3: three seeds, no interval below {LEAST}. "
    "A diverged run counts as reward 0; its other measures come from the updates before "
    "divergence. Shares are means over all updates, the first after a rollout (ratio 1) included."
)


def per_seed(results: Results) -> pd.DataFrame:
    """One row per run: its keys, ``diverged`` and every measure of :data:`MEASURES`."""
    runs = results.read("runs")
    keys = list(KEYS)
    diverged = runs["diverged"].astype(bool)
    reward = runs["reward/final"].where(~diverged, 0.0)
    frame = runs[keys].copy()
    frame["diverged"] = diverged
    frame["final_reward"] = reward
    frame["share_of_optimum"] = reward / runs["reward/optimal"].where(runs["reward/optimal"] > 0)
    frame["entropy_change"] = (runs["entropy/final"] - runs["entropy/initial"]).where(~diverged)
    frame["tokens"] = runs["tokens"].astype(np.float64)
    wanted = {name: key for key, name in _COLUMNS["drift"].items()}
    if "std/grad/norm" in runs:  # the runs hold summaries of their updates
        for metric, key in wanted.items():
            frame[key] = runs.get(f"mean/{metric}", np.nan)
        frame["grad_norm_spread"] = runs["std/grad/norm"]
    else:
        metrics = results.read("metrics").reindex(columns=[*keys, "grad/norm", *wanted])
        by_run = metrics.replace([np.inf, -np.inf], np.nan).groupby(keys, sort=False)
        within = by_run[list(wanted)].mean().rename(columns=wanted)
        within["grad_norm_spread"] = by_run["grad/norm"].std(ddof=1)
        frame = frame.join(within, on=keys)
    measures = {m.key: np.float64 for m in MEASURES}
    return frame[[*keys, "diverged", *measures]].astype(measures)


def collapses(results: Results) -> pd.DataFrame:
    """How many runs of each arm collapsed, and their share with its exact 95 % interval.

    Runs whose ``reward/collapsed`` is unknown are not counted.

    Returns:
        One row for each experiment and arm: ``collapsed``, ``runs``, ``share``, ``low``, ``high``.

    Raises:
        InputError: no part of the records is finished, or they are from before the column.
    """
    runs = results.read("runs")
    if "reward/collapsed" not in runs:
        raise InputError(f"results: {results.path} has no column reward/collapsed; run it anew")
    rows = []
    for keys, flags in runs.groupby(["experiment", "objective"], sort=False)["reward/collapsed"]:
        known = flags.dropna()
        found = mean_interval(known)
        rows.append((*keys, int(known.sum()), found.n, found.estimate, found.low, found.high))
    names = ["experiment", "objective", "collapsed", "runs", "share", "low", "high"]
    return pd.DataFrame(rows, columns=names)


def scores(results: Results) -> Scores:
    """The score of every run of the arms that ran at one setting.

    Raises:
        LookupError: the records have no scores, or only sweeps.
    """
    return Scores.of(results.read("runs"), results.config)


def summary(results: Results) -> pd.DataFrame:
    """One row per experiment and objective, in the records' order.

    Columns: ``experiment``, ``environment``, ``objective``, ``seeds`` and ``diverged`` (numbers of
    runs), and for every measure ``<key>/estimate``, ``/low``, ``/high`` (the 95 % interval over seeds) and
    ``/n`` (number of seeds with a value).
    """
    rows = []
    for (experiment, objective), runs in per_seed(results).groupby(
        ["experiment", "objective"], sort=False
    ):
        row: dict[str, object] = {
            "experiment": experiment,
            "environment": ", ".join(dict.fromkeys(runs["environment"])),
            "objective": objective,
            "seeds": len(runs),
            "diverged": int(runs["diverged"].sum()),
        }
        for measure in MEASURES:
            row |= _columns(measure.key, median_interval(runs[measure.key]))
        rows.append(row)
    return pd.DataFrame(rows)


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {f"{name}/{end}": getattr(interval, end) for end in ("estimate", "low", "high", "n")}


def paired(runs: pd.DataFrame, base: str, other: str) -> pd.DataFrame:
    """``other - base`` on the same seeds: one row per measure and experiment that ran both.

    Columns: ``experiment``, ``measure``, ``base/estimate``, ``other/estimate``, ``difference/estimate``,
    ``/low``, ``/high``, ``/n``, and ``verdict``: "better" or "worse" if the measure has a direction
    and the interval excludes 0, "unclear" if the interval includes 0, and "" without a direction.

    Args:
        runs: the table that :func:`per_seed` makes.
        base: label of an arm.
        other: label of the arm that is compared with it.

    Raises:
        LookupError: no experiment ran both.
    """
    rows = []
    both = runs[runs["objective"].isin((base, other))]
    for experiment, here in both.groupby("experiment", sort=False):
        a = here[here["objective"] == base].set_index("seed")
        b = here[here["objective"] == other].set_index("seed")
        shared = a.index.intersection(b.index)
        if shared.empty:
            continue
        a, b = a.loc[shared], b.loc[shared]
        for measure in MEASURES:
            before, after = a[measure.key], b[measure.key]
            difference = median_interval(after - before)
            rows.append(
                {
                    "experiment": experiment,
                    "measure": measure.key,
                    "base/estimate": median_interval(before).estimate,
                    "other/estimate": median_interval(after).estimate,
                    **_columns("difference", difference),
                    "verdict": _verdict(measure, difference),
                }
            )
    if not rows:
        raise LookupError(f"no experiment ran both {base!r} and {other!r} on the same seeds")
    return pd.DataFrame(rows)


def _verdict(measure: Measure, difference: Interval) -> str:
    if measure.metric.better is None:
        return ""
    if not difference.excludes(0.0):
        return "unclear"
    return "better" if (difference.estimate > 0) == (measure.metric.better == "higher") else "worse"


@dataclass(frozen=True)
class Contrast:
    """How much more ERC's band catches than PPO's clip (in the paper 20.29 % against 0.02 %).

    Attributes:
        experiment, base, other: the clip of arm ``base`` is compared with the band of arm ``other``.
        bound: share of tokens that the clip determines in ``base``.
        out_of_band: share of tokens outside the band in ``other``.
        out_of_band_in_base: the same share measured in ``base`` itself, which has no gate.
        per_seed: ``bound``, ``out_of_band`` and ``ratio`` by seed. The ratio is inf if nothing was
            clipped, and NaN if nothing was out of band either.
        ratio: median of the ratio over seeds; NaN if a seed has a share of 0.
        lower_bound: a ratio that the records support even if shares are 0: the low end of
            ``out_of_band`` over the high end of ``bound``. The latter is taken as at least
            3 / tokens, the 95 % limit if none of that many independent tokens was clipped.
        tokens: number of tokens from which ``bound`` was measured.
    """

    experiment: str
    base: str
    other: str
    bound: Interval
    out_of_band: Interval
    out_of_band_in_base: Interval
    per_seed: pd.DataFrame
    ratio: Interval
    lower_bound: float
    tokens: int

    def sentence(self) -> str:
        """The contrast in words, which claim no more than the records show."""
        if math.isnan(self.bound.estimate) or math.isnan(self.out_of_band.estimate):
            return f"{self.experiment}: shares of {self.base} or {self.other} are missing."
        text = (
            f"{self.experiment}: the clip of {self.base} determined {_share(self.bound)} of tokens, "
            f"{_share(self.out_of_band)} lay outside the entropy band of {self.other}"
        )
        if math.isfinite(self.ratio.estimate):
            text += f", {number(self.ratio.estimate)} times as many"
            if math.isfinite(self.ratio.low):
                text += f" (95 % interval {ends(self.ratio.low, self.ratio.high)})"
        elif self.lower_bound > 1:
            text += f", at least {number(self.lower_bound, 2)} times as many"
        n = self.out_of_band.n
        return f"{text}; {n} seed{'' if n == 1 else 's'}."


def _share(interval: Interval) -> str:
    return with_ends(interval, 100, " %")


def out_of_band_to_bound(
    results: Results, experiment: str, base: str | None = None, other: str | None = None
) -> Contrast:
    """Ratio of the out-of-band share in an ERC arm to the clip-bound share in its base.

    Without names, the first pair of a base and its plain entropy gate is taken; dapo, ppo-clip, grpo
    and gppo come before other bases.

    Raises:
        LookupError: the experiment has no such pair.
    """
    runs = per_seed(results)
    runs = runs[runs["experiment"] == experiment]
    arms = list(dict.fromkeys(runs["objective"]))
    stored = stored_arms(results.config, experiment)
    plain = [pair for pair in gated_pairs(stored[arm] for arm in arms) if stored[pair[1]].plain]
    if base is not None:
        plain = [pair for pair in plain if pair[0] == base]
    if base is None or other is None:
        if not plain:
            raise LookupError(f"{experiment}: no objective stands beside its entropy gate")
        order = {name: i for i, name in enumerate(("dapo", "ppo-clip", "grpo", "gppo"))}
        first, gate = min(plain, key=lambda pair: order.get(pair[0], len(order)))
        base, other = base or first, other or gate
    missing = [arm for arm in (base, other) if arm not in arms]
    if missing:
        raise LookupError(f"{experiment}: no records of {', '.join(missing)}")

    a = runs[runs["objective"] == base].set_index("seed")
    b = runs[runs["objective"] == other].set_index("seed")
    seeds = pd.concat(
        [a["clip_bound"].rename("bound"), b["out_of_band"].rename("out_of_band")],
        axis=1,
        join="inner",
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        seeds["ratio"] = seeds["out_of_band"].to_numpy() / seeds["bound"].to_numpy()
    bound = median_interval(seeds["bound"])
    out_of_band = median_interval(seeds["out_of_band"])
    tokens = int(a.loc[seeds.index, "tokens"].sum())
    low = _first_finite(out_of_band.low, out_of_band.estimate)
    high = max(_first_finite(bound.high, bound.estimate), 3 / tokens if tokens else math.nan)
    return Contrast(
        experiment=experiment,
        base=base,
        other=other,
        bound=bound,
        out_of_band=out_of_band,
        out_of_band_in_base=median_interval(a.loc[seeds.index, "out_of_band"]),
        per_seed=seeds,
        ratio=ratio_interval(seeds["bound"], seeds["out_of_band"]),
        lower_bound=max(low, 0.0) / high if high > 0 else math.nan,
        tokens=tokens,
    )


def _first_finite(*values: float) -> float:
    return next((v for v in values if math.isfinite(v)), math.nan)
