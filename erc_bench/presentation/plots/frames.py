"""What the figures are drawn from: the records' tables, their settings and their arms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from erc_bench.analysis.bounds import Bounds
from erc_bench.presentation.plots.style import legend_place, ordered
from erc_bench.studies.arms import StoredArm, StoredArms, gated_pairs, stored_arm, stored_arms

#: Experiments that are no sweep and still have a figure of their own: figures 1 to 6 leave them out.
OWN_FIGURE = ("baselines",)


class NothingToDraw(LookupError):  # noqa: N818 - a finding about the records, not an error
    """The records lack what a figure shows; the message says what."""


@dataclass(frozen=True)
class Frames:
    """What the figures show of a results folder's records, read once.

    Attributes:
        runs: every run.
        metrics: updates, and tokens: sampled tokens, of the experiments in ``panels``.
        config: the configuration.
    """

    runs: pd.DataFrame
    metrics: pd.DataFrame
    tokens: pd.DataFrame
    config: dict[str, Any]

    @property
    def experiments(self) -> list[str]:
        """In the records' order."""
        return list(dict.fromkeys(self.runs["experiment"]))

    @property
    def panels(self) -> list[str]:
        """Experiments with a panel in figures 1 to 6, in the records' order.

        Sweeps and tuned arms have figures of their own, 7, 8 and 10, where points of a grid are
        axes and not arms; without any other experiment they are drawn here too.
        """
        plain = [
            e for e in self.experiments if self.about(e).get("regime") not in ("sweep", "breaking")
        ]
        return [e for e in plain if e not in OWN_FIGURE] or plain or self.experiments

    def about(self, experiment: str) -> dict[str, Any]:
        """The configuration's entry of an experiment; empty where it has none."""
        found = self.config.get("experiments")
        entry = found.get(experiment) if isinstance(found, dict) else None
        return entry if isinstance(entry, dict) else {}

    @cached_property
    def _stored(self) -> dict[str, StoredArms]:
        return {e: stored_arms(self.config, e) for e in self.experiments}

    def arm(self, experiment: str, label: str) -> StoredArm:
        """An arm of an experiment by its label."""
        return self._stored[experiment][label]

    def arms(self, experiment: str) -> dict[str, StoredArm]:
        """The arms that ran in an experiment, by label, in the order of legends."""
        labels = self.runs.loc[self.runs["experiment"] == experiment, "objective"].unique()
        return {a.label: a for a in ordered(self.arm(experiment, str(name)) for name in labels)}

    def pairs(self, experiment: str) -> list[tuple[str, str]]:
        """Labels of each (arm without a gate, arm with an entropy band on it) of an experiment."""
        return gated_pairs(self.arms(experiment).values())

    @cached_property
    def _known(self) -> dict[str, StoredArm]:
        stored = [arm for arms in self._stored.values() for arm in arms.values()]
        recipes = {a.recipe: replace(a, label=a.recipe, overrides={}) for a in stored}
        return recipes | {a.label: a for a in stored}

    def looks(self, names: Iterable[str]) -> dict[str, StoredArm]:
        """An arm to be drawn as, for labels and names of recipes, in the order of legends."""
        found = {str(name): self._known.get(str(name)) or stored_arm(str(name)) for name in names}
        return dict(sorted(found.items(), key=lambda item: (legend_place(item[1]), item[0])))

    def bounds(self, experiment: str) -> Bounds:
        """What the experiment's drift was measured against."""
        return Bounds.of(self.about(experiment))

    def failures(self, experiment: str, objective: str) -> tuple[int, int]:
        """Number of diverged runs and of all runs of an arm."""
        runs = self.runs
        arm = runs[(runs["experiment"] == experiment) & (runs["objective"] == objective)]
        return int(arm["diverged"].astype(bool).sum()), len(arm)
