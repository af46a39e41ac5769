"""The pre-registered rules: ``claims.toml`` as checked objects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from erc_bench.analysis.statistics import MEDIAN, Estimator, mean_estimator
from erc_bench.core.errors import InputError
from erc_bench.core.validation import Count, checked_dataclass, checked_file

__all__ = [
    "REWARD",
    "SCORES",
    "Claim",
    "Criterion",
    "Decides",
    "Part",
    "Regime",
    "RuleBook",
    "Statistic",
    "Thresholds",
    "load",
]

Regime = Literal["paper", "stress", "breaking", "sweep"]
Decides = Literal["every", "mean", "no", "cells"]
Statistic = Literal[
    "value",
    "share",
    "value-to-reference",
    "mean",
    "mean-difference",
    "difference",
    "ratio",
    "auroc",
    "auroc-difference",
    "recall",
    "precision",
    "dropped-below-kept",
]
Unit = Literal["", "%", "pp", "times"]

#: Final reward, 0 for a diverged run, as a share of the best policy's exact expected reward.
REWARD = "reward/of_optimum"
#: Columns of scores in [0, 1].
SCORES = (REWARD, "reward/final", "score")

#: How many columns and how many arms each statistic takes.
TAKES: dict[Statistic, tuple[int, int]] = {
    "value": (1, 1),
    "share": (2, 1),
    "value-to-reference": (2, 1),
    "mean": (1, 1),
    "mean-difference": (1, 2),
    "difference": (1, 2),
    "ratio": (1, 2),
    "auroc": (1, 1),
    "auroc-difference": (2, 1),
    "recall": (2, 1),
    "precision": (2, 1),
    "dropped-below-kept": (1, 1),
}

Texts = Annotated[tuple[str, ...], Field(min_length=1)]
Numbers = Annotated[tuple[float, ...], Field(min_length=1)]
#: A level or a rate: a number between 0 and 1, without both ends.
Open = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class Criterion:
    """Where an interval must lie for a claim to hold, ``(above, below)``, or to fail.

    It fails below ``fails_below`` or above ``fails_above``.
    """

    above: float = -math.inf
    below: float = math.inf
    fails_below: float = -math.inf
    fails_above: float = math.inf

    def logarithm(self) -> Criterion:
        """The same criterion for the logarithm of a positive number."""

        def log(x: float) -> float:
            return -math.inf if x <= 0 else math.log(x)

        return Criterion(*map(log, (self.above, self.below, self.fails_below, self.fails_above)))


@checked_dataclass
class Holding:
    """Where an interval must lie for a part to hold: above the one and below the other value."""

    above: float = -math.inf
    below: float = math.inf

    def __post_init__(self) -> None:
        if math.isinf(self.above) and math.isinf(self.below):
            raise InputError("above: missing; needs above, below or both")
        if not self.above < self.below:
            raise InputError(f"above: {self.above} is not below {self.below}")


@checked_dataclass
class Failing:
    """Where it must lie for a part to fail: below the one or above the other value."""

    below: float = -math.inf
    above: float = math.inf


@checked_dataclass
class Part:
    """A statistic that decides a claim or is shown beside it; ``claims.toml`` explains the keys."""

    name: str
    statistic: Statistic
    columns: Texts
    unit: Unit
    decides: Decides
    arms: Annotated[tuple[Texts, ...], Field(min_length=1)]
    experiments: Mapping[Regime, Texts]
    holding: Annotated[Holding | None, Field(alias="holds")] = None
    failing: Annotated[Failing | None, Field(alias="fails")] = None
    at: Mapping[str, Numbers] = field(default_factory=dict)
    reference: str = ""
    steadies: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        columns, arms = TAKES[self.statistic]
        if len(self.columns) != columns:
            raise InputError(f"columns: {self.statistic} takes {columns}, not {len(self.columns)}")
        for compared in self.arms:
            if len(compared) != arms:
                raise InputError(f"arms: {self.statistic} takes {arms}, not {len(compared)}")
        if bool(self.reference) != (self.statistic == "value-to-reference"):
            raise InputError("reference: belongs to value-to-reference, and to no other statistic")
        if self.holding is None and (self.decides != "no" or self.failing is not None):
            raise InputError("holds: missing; only a part that decides nothing can omit it")

    @property
    def holds(self) -> Criterion | None:
        """Where the claim holds and where it fails; without ``fails``, it fails outside ``holds``."""
        if self.holding is None:
            return None
        above, below = self.holding.above, self.holding.below
        if self.failing is None:
            return Criterion(above, below, fails_below=above, fails_above=below)
        return Criterion(above, below, self.failing.below, self.failing.above)

    @property
    def compares_scores(self) -> bool:
        """Whether it is a paired difference of scores, which a change of collapse can overrule."""
        return self.statistic == "difference" and self.columns[0] in SCORES

    @property
    def estimator(self) -> Estimator:
        """What is estimated from the values per seed: a mean of scores or flags, else the median."""
        if self.statistic == "mean":
            return mean_estimator(0.0, 1.0)
        return mean_estimator(-1.0, 1.0) if self.statistic == "mean-difference" else MEDIAN

    @property
    def logarithmic(self) -> bool:
        """Whether intervals are computed on the logarithm."""
        return self.statistic == "ratio"


@checked_dataclass
class Claim:
    """A statement and the parts that decide it; ``words`` for holding and failing."""

    id: str
    title: str
    statement: str
    paper: str
    figures: tuple[Count, ...]
    parts: Annotated[tuple[Part, ...], Field(alias="part", min_length=1)]
    words: Annotated[tuple[str, ...], Field(min_length=2, max_length=2)] = (
        "reproduced",
        "not reproduced",
    )


@checked_dataclass
class Thresholds:
    """The section ``[rules]``: levels, the margin of collapse, least numbers of seeds and of tokens."""

    level: Open
    collapse: Open
    seeds: Annotated[int, Field(ge=2)]
    false_discovery_rate: Open
    tokens: Count


@checked_dataclass
class RuleBook:
    """Every claim, and what they share: ``claims.toml`` as it stands."""

    version: Literal[1]
    rules: Thresholds
    claims: Annotated[tuple[Claim, ...], Field(alias="claim", min_length=1)]

    def __post_init__(self) -> None:
        names = [claim.id for claim in self.claims]
        if len(set(names)) < len(names):
            raise InputError(f"claim: id: {', '.join(names)}: each may be used once")


@cache
def load(path: Path | None = None) -> RuleBook:
    """Read and check a file of rules; without a path, the package's own.

    Raises:
        InputError: not TOML, or a key that is unknown, missing or of a wrong value, by its name.
    """
    source = files("erc_bench.analysis") / "claims.toml" if path is None else path
    found: RuleBook = checked_file(RuleBook, source, "claims")
    return found
