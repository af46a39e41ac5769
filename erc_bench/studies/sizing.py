"""How much work an experiment is: what fits this machine, and how its runs are cut into parts."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import gymnasium as gym

from erc_bench.core.errors import InputError
from erc_bench.core.metrics import BAND
from erc_bench.studies.arms import Arm
from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

__all__ = ["ExperimentPlan", "Part"]

#: Tokens in one update of a whole population, about: larger ones no longer fit the cache.
UPDATE_TOKENS = 8192
#: Rough bytes of working memory that one population may take.
MEMORY_BUDGET = 2**30
#: Runs of one experiment at most.
MOST_RUNS = 1_000_000


@dataclass(frozen=True)
class Part:
    """The piece of work that is done, stored and resumed as one population.

    Attributes:
        name: of its files.
        runs: (index of the arm, index of the seed) of each run.
    """

    name: str
    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ExperimentPlan:
    """An experiment with everything resolved; ``number`` is its place in the plan."""

    number: int
    experiment: Experiment
    config: TrainConfig
    environment: gym.Env[Any, Any]
    arms: tuple[Arm, ...]
    seeds: int
    grid: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        name = self.experiment.name
        if not re.fullmatch(r"\w[\w.-]*", name):  # it becomes part of file names
            raise InputError(
                f"experiments: {name!r} is not allowed; must be letters, digits, _, - and ."
            )
        runs = self.seeds * len(self.arms)
        if runs > MOST_RUNS:
            raise InputError(
                f"seeds: {self.seeds} is not allowed; with {len(self.arms)} arms must be at most "
                f"{MOST_RUNS // len(self.arms)}"
            )
        actions: int = self.environment.get_wrapper_attr("dynamics").num_actions
        # a run's parameters, their gradients and two moments; its distributions over actions
        least = max(self._bytes_per_run, 32 * self.config.hidden * actions)
        if least > _machine_bytes():
            raise InputError(
                f"settings: one run of {self.experiment.name} needs at least {least / 2**30:,.0f} GiB, "
                f"this machine has {_machine_bytes() / 2**30:,.0f}; lower prompts, group_size, hidden "
                "or evaluation_episodes"
            )

    @property
    def band(self) -> tuple[float, float]:
        """The band that all arms with an entropy gate share; the paper's, where they share none."""
        bands = {(float(b[0]), float(b[1])) for arm in self.arms if (b := arm.objective.band)}
        return bands.pop() if len(bands) == 1 else BAND

    @property
    def _bytes_per_run(self) -> int:
        dynamics = self.environment.get_wrapper_attr("dynamics")
        rounds = self.config.generation_rounds
        evaluation = self.config.evaluation_episodes * dynamics.horizon
        held = max((1 + rounds) * self.tokens_per_rollout, evaluation)
        return int(8 * dynamics.num_actions * held)

    @property
    def tokens_per_rollout(self) -> int:
        """Tokens that one run generates for a rollout, before any dynamic sampling."""
        horizon: int = self.environment.get_wrapper_attr("dynamics").horizon
        return self.config.prompts * self.config.group_size * horizon

    @property
    def parts(self) -> list[Part]:
        """Runs in chunks that suit cache and memory; depends on the configuration alone.

        More runs in a population share the overhead of an operation until its arrays leave the
        cache, which is where ``UPDATE_TOKENS`` lies; memory bounds what is left.
        """
        by_shape: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
        for seed in range(self.seeds):
            for index, arm in enumerate(self.arms):
                by_shape.setdefault(tuple(sorted(arm.shape.items())), []).append((index, seed))
        found = []
        first = 0
        for shape, runs in by_shape.items():
            update = self.tokens_per_rollout / replace(self.config, **dict(shape)).minibatches
            size = max(1, int(min(UPDATE_TOKENS / update, MEMORY_BUDGET / self._bytes_per_run)))
            chunks = math.ceil(len(runs) / size)
            bounds = [len(runs) * i // chunks for i in range(chunks + 1)]
            found += [
                Part(self._part_name(first + a, first + b), tuple(runs[a:b]))
                for a, b in pairwise(bounds)
            ]
            first += len(runs)
        return found

    def _part_name(self, first: int, last: int) -> str:
        return f"{self.number:02d}-{self.experiment.name}-{first:05d}-{last:05d}"

    def config_of(self, part: Part) -> TrainConfig:
        """The configuration that the runs of a part share."""
        return replace(self.config, **self.arms[part.runs[0][0]].shape)

    def cost(self, part: Part) -> int:
        """Rough size of a part, for scheduling the largest first."""
        passes = 1 + self.config_of(part).epochs
        return len(part.runs) * self.config.rollouts * self.tokens_per_rollout * passes


def _machine_bytes() -> float:
    """Memory of this machine; infinite where it does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf
