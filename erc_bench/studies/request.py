"""What a run is asked for: nine options, shared by the command line, the functions and the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from erc_bench.core.errors import InputError

if TYPE_CHECKING:
    from erc_bench.studies.base import Experiment

__all__ = ["TIERS", "Options", "Request", "Tier"]

Tier = Literal["smoke", "quick", "full"]
TIERS: tuple[Tier, ...] = get_args(Tier)


class Options(TypedDict, total=False):
    """The fields of :class:`Request` that are given by name."""

    environment: str | None
    objectives: Sequence[str] | None
    seeds: int | None
    tier: Tier
    seed: int
    band: float | None
    settings: Mapping[str, Any]
    grid: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Request:
    """What is to be trained, before names are looked up.

    Attributes:
        experiments: registered names, or experiments of your own.
        environment: a Gymnasium id to train on instead of experiments.
        objectives: arms, ``name`` or ``name:parameter=value,...``; None: each experiment's own.
        seeds: seeds per arm; arms with the same seed are paired. None: the tier's.
        tier: size of the work.
        seed: root of all randomness.
        band: half-width of the entropy gate of every arm that has one and does not name its own; the same
            as ``band=...`` behind each of these arms, or as an axis of the grid.
        settings: fields of ``TrainConfig`` to change, as ``{"learning_rate": 1e-3}``.
        grid: values of hyperparameters, as ``{"learning_rate": [1e-3, 2e-3], "band": [0.02, 0.05]}``;
            every arm is trained at every point of the axes that it has.

    Raises:
        InputError: a value out of its range; the message names field, value and what is allowed.
    """

    experiments: tuple[str | Experiment, ...] = ()
    environment: str | None = None
    objectives: Sequence[str] | None = None
    seeds: int | None = None
    tier: Tier = "quick"
    seed: int = 0
    band: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tier not in TIERS:
            raise InputError(f"tier: {self.tier!r} is unknown; allowed: {', '.join(TIERS)}")
        if self.seeds is not None and self.seeds < 1:
            raise InputError(f"seeds: {self.seeds} is not allowed; must be at least 1")
        if self.seed < 0:
            raise InputError(f"seed: {self.seed} is not allowed; must be at least 0")
        if self.band is not None and not self.band > 0:
            raise InputError(f"band: {self.band} is not allowed; must be greater than 0")
        if self.environment is not None and self.experiments:
            raise InputError("environment: give either experiments or an environment, not both")
        if self.environment is None and not self.experiments:
            raise InputError("experiments: none given; name some, or an environment")
