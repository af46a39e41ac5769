"""How much work an experiment is: whether it fits this machine, and how its runs are cut into parts."""

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

#: About how many tokens one update of a whole population may have before it no longer fits the cache.
UPDATE_TOKENS = 8192
#: Rough bytes of working memory that one population may take.
MEMORY_BUDGET = 2**30
#: The most runs that one experiment may have.
MOST_RUNS = 1_000_000


@dataclass(frozen=True)
class Part:
    """The piece of work that is done, stored and resumed as one population.

    Attributes:
        name: the name of its files.
        runs: index of the arm and index of the seed of each run.
    """

    name: str
    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ExperimentPlan:
    """An experiment whose names and settings are resolved; ``number`` is its place in the plan."""

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
        # The second number counts a run's parameters, their gradients and two moments.
        least = max(self._bytes_per_run, 32 * self.config.hidden * actions)
        if least > _machine_bytes():
            raise InputError(
                f"settings: one run of {self.experiment.name} needs at least {least / 2**30:,.0f} GiB, "
                f"this machine has {_machine_bytes() / 2**30:,.0f}; lower prompts, group_size, hidden "
                "or evaluation_episodes"
            )

    @property
    def band(self) -> tuple[float, float]:
        """The band that all arms with an entropy gate share; the paper's band if they differ."""
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
        """The runs in chunks that suit cache and memory; they depend on the configuration alone.

        The more runs a population has, the more of them share the overhead of each operation, until
        its arrays leave the cache at about ``UPDATE_TOKENS``. Memory is the second limit.
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
            for a, b in pairwise(len(runs) * i // chunks for i in range(chunks + 1)):
                name = f"{self.number:02d}-{self.experiment.name}-{first + a:05d}-{first + b:05d}"
                found.append(Part(name, tuple(runs[a:b])))
            first += len(runs)
        return found

    def config_of(self, part: Part) -> TrainConfig:
        """The configuration that the runs of a part share."""
        return replace(self.config, **self.arms[part.runs[0][0]].shape)

    def cost(self, part: Part) -> int:
        """Rough size of a part, for scheduling the largest first."""
        passes = 1 + self.config_of(part).epochs
        return len(part.runs) * self.config.rollouts * self.tokens_per_rollout * passes


def _machine_bytes() -> float:
    """Memory of this machine; infinite if the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf
