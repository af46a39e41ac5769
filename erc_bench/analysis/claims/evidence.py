"""The records as the claims need them: runs and tokens by experiment and arm, paired by seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas as pd

from erc_bench.analysis.bounds import Bounds
from erc_bench.analysis.claims.rules import REWARD
from erc_bench.studies.arms import stored_arms
from erc_bench.studies.records import Results

__all__ = ["COLLAPSED", "Evidence"]

#: Whether a run lost what it had learned, or diverged; older records lack it.
COLLAPSED = "reward/collapsed"
TOKEN_COLUMNS = ["objective", "seed", "log_ratio", "log_entropy_ratio"]
TOKEN_COLUMNS += ["kl_exact", "prob/old", "entropy/old", "gate_dropped"]


class Evidence:
    """Everything of a results folder that a claim may ask for.

    Attributes:
        runs: the ``runs`` table with the column ``reward/of_optimum``, which is at most 1 (an
            evaluation by samples can exceed the optimum); a diverged run has collapsed.
    """

    def __init__(self, results: Results) -> None:
        runs = results.read("runs")
        optimal = runs["reward/optimal"].where(runs["reward/optimal"] > 0)
        diverged = runs["diverged"].astype(bool)
        earned = runs["reward/final"].where(~diverged, 0.0)
        runs = runs.assign(**{REWARD: (earned / optimal).clip(upper=1.0)})
        if COLLAPSED in runs:
            runs[COLLAPSED] = runs[COLLAPSED].astype(float).where(~diverged, 1.0)
        self.runs = runs
        self._arms = {
            (str(experiment), str(label)): frame.set_index("seed")
            for (experiment, label), frame in self.runs.groupby(
                ["experiment", "objective"], sort=False
            )
        }
        self._results = results
        self._tokens: dict[str, dict[str, pd.DataFrame]] = {}

    @cached_property
    def labels(self) -> dict[str, list[str]]:
        """Arms of every experiment, in the records' order."""
        found: dict[str, list[str]] = {}
        for experiment, label in self._arms:
            found.setdefault(experiment, []).append(label)
        return found

    def entry(self, experiment: str) -> Mapping[str, Any]:
        """The experiment's configuration; empty where the manifest has none."""
        found = self._results.config.get("experiments")
        entry = found.get(experiment) if isinstance(found, dict) else None
        return entry if isinstance(entry, dict) else {}

    def bounds(self, experiment: str) -> Bounds:
        """What the experiment's drift was measured against."""
        return Bounds.of(self.entry(experiment))

    def arm(self, experiment: str, label: str) -> pd.DataFrame:
        """Runs of an arm, by seed."""
        return self._arms[experiment, label]

    def off_policy_tokens(self, experiment: str, label: str) -> pd.DataFrame:
        """Sampled tokens of updates after the first of a rollout, where the policy has moved."""
        if experiment not in self._tokens:
            where = [("experiment", "==", experiment), ("staleness", ">", 0)]
            tokens = self._results.read("tokens", TOKEN_COLUMNS, where=where)
            self._tokens[experiment] = {
                str(arm): frame.drop(columns="objective")
                for arm, frame in tokens.groupby("objective", sort=False)
            }
            self._tokens[experiment][""] = tokens.iloc[:0]
        found = self._tokens[experiment]
        return found.get(label, found[""])

    def comparisons(
        self, experiment: str, recipes: Sequence[str], at: Mapping[str, Iterable[float]]
    ) -> list[tuple[str, ...]]:
        """Labels of the arms with these recipes, one tuple for each point of the experiment's grid.

        Arms belong together where the axes of the grid that both have agree; the axes in ``at``
        must have one of its values. Without a grid every arm of a recipe is meant, whatever
        settings it was tuned to.
        """
        labels = self.labels.get(experiment, [])
        known = self._recipes(experiment)
        by_recipe = [[a for a in labels if known.get(a, a) == recipe] for recipe in recipes]
        axes = [*dict.fromkeys([*self.axes(experiment), *at])]
        return [
            arms
            for arms in itertools.product(*by_recipe)
            if all(_agree(self.values(experiment, arms, axis), at.get(axis)) for axis in axes)
        ]

    @cache  # noqa: B019  # an assessment has one Evidence, and ends with it
    def _recipes(self, experiment: str) -> dict[str, str]:
        """The name of each arm's recipe, by the arm's label."""
        stored = stored_arms(self._results.config, experiment)
        return {label: arm.recipe for label, arm in stored.items()}

    def axes(self, experiment: str) -> list[str]:
        """Names of the grid's axes."""
        return list(self.entry(experiment).get("grid") or {})

    def values(self, experiment: str, arms: Sequence[str], axis: str) -> list[float]:
        """Values of an axis in the arms that have it; ``band`` stands for its lower half."""
        column = next((c for c in (f"hyper/{axis}", f"hyper/{axis}_low") if c in self.runs), None)
        if column is None:
            return []
        found = [float(self.arm(experiment, label)[column].iloc[0]) for label in arms]
        return [value for value in found if math.isfinite(value)]

    def point(self, experiment: str, arms: Sequence[str], without: Iterable[str] = ()) -> str:
        """Where in the experiment's grid the arms stand, as ``64 updates, learning_rate=0.001``."""
        words, updates = [], False
        for axis in self.axes(experiment):
            values = self.values(experiment, arms, axis)
            if axis in ("epochs", "minibatches"):
                updates = True
            elif values and axis not in without:
                words.append(f"{axis}={values[-1]:g}")
        if updates:
            words.insert(0, self._updates(experiment, arms))
        return ", ".join(words)

    def _updates(self, experiment: str, arms: Sequence[str]) -> str:
        """Updates made per rollout: minibatches times epochs."""
        train = self.entry(experiment).get("train") or {}
        product = 1.0
        for name in ("minibatches", "epochs"):
            values = self.values(experiment, arms, name)
            product *= values[-1] if values else float(train.get(name, 1))
        return f"{product:g} update" + ("" if product == 1 else "s")


def _agree(values: Sequence[float], allowed: Iterable[float] | None) -> bool:
    """Whether the arms that have an axis share its value, and it is one of the allowed."""
    if not np.allclose(values, list(values[:1]) * len(values)):
        return False
    return allowed is None or (bool(values) and bool(np.isclose(values[0], list(allowed)).any()))
