"""What a run is asked for: options that the command line, the functions and the plan share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, get_args

from erc_bench.core.errors import InputError

if TYPE_CHECKING:
    from erc_bench.studies.base import Experiment

__all__ = ["TIERS", "Choices", "Options", "Request", "Tier"]

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
class Choices:
    """The options that are written alike on the command line and in Python."""

    environment: str | None = None
    """Train on this environment instead of experiments, as erc/TokenForks-v0."""
    objectives: Sequence[str] | None = None
    """Arms: names, or name:parameter=value,... as erc-dapo:band_low=0.1. None: each experiment's."""
    seeds: int | None = None
    """Seeds per arm, shared between arms. None: the tier's (smoke 3, quick 5, full 20)."""
    tier: Tier = "quick"
    """Size of the work: smoke takes seconds, quick about a minute, full much longer."""
    seed: int = 0
    """Root of all randomness."""
    band: float | None = None
    """Half-width of the entropy-ratio band of every arm that gates on it; the same as erc-dapo:band=0.1 or
    --grid band=0.1. An arm with a gate is measured against its own band, any other arm against the paper's.
    None: 0.05, the paper's."""


@dataclass(frozen=True, kw_only=True)
class Request(Choices):
    """What is to be trained, before names are looked up.

    Raises:
        InputError: a value out of its range; the message names field, value and what is allowed.
    """

    experiments: Sequence[str | Experiment] = ()
    """Registered names, or experiments of your own."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``TrainConfig`` to change, as ``{"learning_rate": 1e-3}``."""
    grid: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Values of hyperparameters, as ``{"learning_rate": [1e-3, 2e-3], "band": [0.02, 0.05]}``; every arm
    is trained at every point of the axes that it has."""

    def __post_init__(self) -> None:
        # The command line's help reads this module and does not wait for pydantic.
        from pydantic import Field  # noqa: PLC0415

        from erc_bench.core.validation import Count, Size, checked  # noqa: PLC0415

        checked(Tier, self.tier, at="tier")
        checked(Count | None, self.seeds, at="seeds")
        checked(Size, self.seed, at="seed")
        checked(Annotated[float, Field(gt=0)] | None, self.band, at="band")
        if self.environment is not None and self.experiments:
            raise InputError("environment: give either experiments or an environment, not both")
        if self.environment is None and not self.experiments:
            raise InputError("experiments: none given; name some, or an environment")
