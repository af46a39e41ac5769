"""Trains a loss and a baseline side by side, on the smoke tier and on shared seeds.

Only the loss differs: both arms use the baseline's advantage estimator, sampling and penalties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from erc_bench.analysis.numbers import ends, number
from erc_bench.analysis.statistics import Interval, median_interval, paired_difference
from erc_bench.conformance import PolicyLoss
from erc_bench.conformance.reports import Extra
from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.core.metrics import METRICS
from erc_bench.objectives import Objective
from erc_bench.studies import plan
from erc_bench.studies.arms import parse
from erc_bench.studies.runner import one_thread, population_arm, trainer_of
from erc_bench.studies.sizing import ExperimentPlan
from erc_bench.training import TrainResult

__all__ = ["MEASURES", "Comparison", "Row", "as_extra", "compare", "total_rollouts"]

#: A bandit, forking tokens, and a reward that teaches nothing. Training on all takes seconds.
QUESTIONS = ("unsampled_shift", "forking_tokens", "entropy_null")
#: Number of paired seeds per arm.
SEEDS = 10

#: What is compared. The first three are means over a run's updates.
MEASURES = tuple(
    METRICS[name]
    for name in (
        "drift/kl_exact",
        "drift/hidden_violation_fraction",
        "drift/out_of_band_fraction",
        "reward/final",
    )
)


@dataclass(frozen=True)
class Row:
    """One measure in one experiment: medians over seeds, and the paired difference's 95 % interval."""

    experiment: str
    measure: str
    unit: str
    baseline: float
    loss: float
    difference: Interval

    def record(self) -> dict[str, Any]:
        """The row for a JSON file, in which unknown numbers are None."""
        d = self.difference
        ends = {"difference": d.estimate, "low": d.low, "high": d.high}
        numbers = {"baseline": self.baseline, "loss": self.loss, **ends}
        texts = {"experiment": self.experiment, "measure": self.measure, "unit": self.unit}
        return texts | {k: v if math.isfinite(v) else None for k, v in numbers.items()}


@dataclass(frozen=True)
class Comparison:
    """A loss against a baseline.

    Attributes:
        diverged: runs of the loss and of the baseline that diverged, of ``runs`` each.
    """

    loss: str
    baseline: str
    seeds: int
    rows: tuple[Row, ...]
    diverged: tuple[int, int]
    runs: int


#: What stands in for fields that these questions have not: no engine, and no reference.
_STAND_INS = {
    "rollout_logp": "old_logp",
    "ref_logp": "old_logp",
    "ref_log_probs": "old_log_probs",
}


class _Adapted:
    """Calls an adapted loss on populations ``(R, B, T)``, one run after the other."""

    adaptive = draws_order = False

    def __init__(self, loss: PolicyLoss) -> None:
        self.loss = loss

    def __call__(self, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses ``(R,)``, without metrics."""
        given = {n: v for n, v in vars(batch).items() if isinstance(v, Tensor) and n in _FIELDS}
        for name, other in _STAND_INS.items():
            if name not in given and other in given:
                given[name] = given[other]
        runs = range(len(batch.logp))
        return torch.stack([self.loss({n: v[r] for n, v in given.items()}) for r in runs]), {}


_FIELDS = frozenset(TokenBatch.__dataclass_fields__)


def total_rollouts(seeds: int = SEEDS) -> int:
    """Number of rollouts that :func:`compare` makes, for a progress bar."""
    return sum(p.config.rollouts for p in _plans("dapo", seeds, 0))


def _plans(baseline: str, seeds: int, seed: int) -> Sequence[ExperimentPlan]:
    return plan(
        list(QUESTIONS),
        objectives=[baseline],
        tier="smoke",
        seeds=seeds,
        seed=seed,
        settings={"token_samples": 0},
    ).experiments


def compare(
    loss: PolicyLoss,
    baseline: str = "dapo",
    *,
    seeds: int = SEEDS,
    seed: int = 0,
    on_rollout: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Train a loss and a baseline on the smoke tier of :data:`QUESTIONS`.

    Args:
        loss: from :func:`erc_bench.conformance.load_loss`.
        baseline: a recipe, or ``name:parameter=value,...``.
        seeds: paired seeds per arm, at least 2; below 6 there is no interval.
        seed: root of all randomness.
        on_rollout: called with the experiment's name after each rollout.

    Raises:
        InputError: an unknown baseline, too few seeds, or a loss that fails on a training batch.
    """
    parse(baseline)  # refuses an unknown baseline before anything is planned
    if seeds < 2:
        raise InputError(f"seeds: {seeds} is not allowed; must be at least 2")
    rows: list[Row] = []
    diverged = np.zeros(2, dtype=int)
    plans = _plans(baseline, seeds, seed)
    for planned in plans:
        name = planned.experiment.name
        result = _train(planned, loss, seeds, seed, lambda name=name: on_rollout(name))  # type: ignore[misc]
        diverged += result.runs["diverged"].reshape(2, seeds).sum(1)
        for measure in MEASURES:
            values = measure.scale * _per_run(result, measure.name).reshape(2, seeds)
            ours, theirs = (pd.Series(v) for v in values)
            medians = median_interval(theirs).estimate, median_interval(ours).estimate
            difference = paired_difference(theirs, ours)
            rows.append(Row(name, measure.label, measure.shown, *medians, difference))
    failed = (int(diverged[0]), int(diverged[1]))
    return Comparison(loss.name, baseline, seeds, tuple(rows), failed, seeds * len(plans))


def _per_run(result: TrainResult, metric: str) -> NDArray[Any]:
    """One number per run: a metric's mean over updates, or the final reward, which is 0 after divergence."""
    if metric == "reward/final":
        return np.where(result.runs["diverged"], 0.0, result.runs["reward/final"])
    finite = np.ma.masked_invalid(result.metrics[metric])
    return np.asarray(finite.mean(0).filled(math.nan))


def _train(
    planned: ExperimentPlan, loss: PolicyLoss, seeds: int, seed: int, on_rollout: Callable[[], None]
) -> TrainResult:
    """Train both arms in one population, in which the loss's runs come first."""
    (baseline,) = planned.arms
    ours = loss.objective or cast(Objective, _Adapted(loss))
    arms = [
        population_arm(label, objective, baseline.recipe, range(seeds))
        for label, objective in ((loss.name, ours), (baseline.label, baseline.objective))
    ]
    try:
        with one_thread():
            trainer = trainer_of(planned, planned.config, arms, seed)
            return trainer.run(on_rollout=lambda done: on_rollout() if done else None)
    except InputError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise InputError(
            f"loss: training with it failed: {type(error).__name__}: {text[:200]}"
        ) from error


def as_extra(found: Comparison) -> Extra:
    """The comparison as a table of a check's report."""
    rows = []
    for row in found.rows:
        d = row.difference
        interval = number(d.estimate, signed=True)
        interval += f" [{ends(d.low, d.high, signed=True)}]" if d.known else ""
        clear = "  *" if d.excludes(0.0) else ""
        heading = f"{row.measure}, {row.unit}" if row.unit else row.measure
        rows.append(
            (row.experiment, heading, number(row.baseline), number(row.loss), interval + clear)
        )
    ours, theirs = found.diverged
    note = (
        f"Smoke tier, {found.seeds} paired seeds: medians, and the median of loss minus "
        f"{found.baseline} with its 95 % interval; * where it excludes 0. Only the loss differs: both "
        f"arms use the baseline's advantages and sampling. Diverged runs: {ours} of {found.runs} with "
        f"the loss, {theirs} of {found.runs} with the baseline. So small a run shows large changes only, "
        "and one interval in twenty excludes 0 by chance."
    )
    records = {
        "baseline": found.baseline,
        "seeds": found.seeds,
        "diverged": {"loss": ours, "baseline": theirs, "of": found.runs},
        "rows": [row.record() for row in found.rows],
    }
    columns = ("experiment", "measure", found.baseline, "loss", "difference [95 % interval]")
    return Extra(f"{found.loss} against {found.baseline}", columns, rows, note, records)
