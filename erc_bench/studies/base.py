"""What an experiment is: one scientific question, with environment, budget, arms and score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from erc_bench.core.validation import unknown
from erc_bench.studies.scores import gap_closed
from erc_bench.training import TrainConfig

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EXPERIMENTS", "MAIN_ARMS", "Experiment", "experiment", "register"]

Regime = Literal["paper", "stress", "breaking", "sweep"]

#: The paper's contrast: PPO-clip and its descendants, ERC on the two of them it was tried on, and the
#: gate of this project that keeps the gradients leading back into the band.
MAIN_ARMS = ("ppo-clip", "grpo", "dapo", "gppo", "erc-dapo", "erc-gppo", "erc-directional-dapo")


@dataclass(frozen=True)
class Experiment:
    """One question put to a set of objectives.

    Attributes:
        name: its name in records and on the command line.
        question: one sentence.
        environment: a Gymnasium id whose environment has ``dynamics``.
        expectation: which objective should win, and why, as written before the runs.
        score: takes the table of runs and gives one number in [0, 1] per row.
        score_meaning: what 0 and 1 stand for.
        config: settings of the quick tier.
        tiers: what the other tiers change.
        seeds: number of seeds per tier.
        objectives: arms, as recipe specifications.
        environment_options: keyword arguments of the environment.
        regime: ``paper`` makes 8 updates per rollout, and PPO's clip seldom binds; ``stress`` is far
            from that; ``breaking`` goes over a grid from where a base learns to where it collapses;
            ``sweep`` over any other grid.
        grid: values of hyperparameters at which every arm is trained; a grid that is asked for on
            the command line takes its place.
    """

    name: str
    question: str
    environment: str
    expectation: str
    score: Callable[[pd.DataFrame], pd.Series] = gap_closed
    score_meaning: str = "share of the gap between the warm-started policy's return and 1"
    config: TrainConfig = field(default_factory=TrainConfig)
    tiers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: Mapping[str, int] = field(default_factory=lambda: {"smoke": 3, "quick": 6, "full": 30})
    objectives: tuple[str, ...] = MAIN_ARMS
    environment_options: Mapping[str, Any] = field(default_factory=dict)
    regime: Regime = "paper"
    grid: Mapping[str, Sequence[float]] = field(default_factory=dict)


EXPERIMENTS: dict[str, Experiment] = {}


def register(entry: Experiment) -> Experiment:
    """Add an experiment under its name; names are unique."""
    if entry.name in EXPERIMENTS:
        raise ValueError(f"experiment {entry.name!r} is registered twice")
    EXPERIMENTS[entry.name] = entry
    return entry


def experiment(name: str) -> Experiment:
    """Look an experiment up.

    Raises:
        InputError: unknown name.
    """
    if name not in EXPERIMENTS:
        raise unknown("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]
