"""The papers' numbers: ``targets.toml``, or a file like it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import Field

from erc_bench.core.validation import Fraction, checked_dataclass, checked_file

__all__ = ["Paper", "Tokens", "targets"]


@checked_dataclass
class Tokens:
    """Shares of the tokens in [0, 1] that a paper reports; None where it does not."""

    clip_bound: Annotated[Fraction | None, Field(alias="clip/ratio_bound_fraction")] = None
    dropped: Annotated[Fraction | None, Field(alias="gate/dropped_fraction")] = None
    source: str = ""


@checked_dataclass
class Paper:
    """What one paper reports.

    Attributes:
        source: where it reports its averages.
        unit: of the averages.
        benchmarks: over which they are taken.
        benchmarks_known: False if the list is assumed.
        average: model to arm to percent.
        tokens: shares of tokens, with a source of their own if it is another.
    """

    source: str
    unit: str
    benchmarks: tuple[str, ...]
    benchmarks_known: bool
    average: Mapping[str, Mapping[str, float]]
    tokens: Tokens = field(default_factory=Tokens)


def targets(path: Path | None = None) -> dict[str, Paper]:
    """Papers by name.

    Args:
        path: a file in the form of ``targets.toml``; None is that file itself.

    Raises:
        InputError: unreadable, or not of that form; names the key.

    >>> targets()["erc"].average["1.5b"]["erc-dapo"]
    55.1
    """
    source = path or resources.files("paper_repro") / "targets.toml"
    found: dict[str, Paper] = checked_file(dict[str, Paper], source, "targets")
    return found
