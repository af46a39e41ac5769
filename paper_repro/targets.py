"""The papers' numbers: ``targets.toml``, or a file like it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from erc_bench.core.errors import InputError

__all__ = ["Paper", "targets"]


@dataclass(frozen=True)
class Paper:
    """What one paper reports.

    Attributes:
        source: where.
        unit: of the averages.
        benchmarks: over which they are taken.
        benchmarks_known: False: the list is assumed.
        average: model to arm to percent.
        tokens: metric to its share of the tokens, in [0, 1].
        tokens_source: where these stand.
    """

    source: str
    unit: str
    benchmarks: tuple[str, ...]
    benchmarks_known: bool
    average: Mapping[str, Mapping[str, float]]
    tokens: Mapping[str, float]
    tokens_source: str


def targets(path: Path | None = None) -> dict[str, Paper]:
    """Papers by name.

    Args:
        path: a file in the form of ``targets.toml``. None: that one.

    Raises:
        InputError: unreadable, or not of that form.

    >>> targets()["erc"].average["1.5b"]["erc-dapo"]
    55.1
    """
    try:
        text = (
            (resources.files("paper_repro") / "targets.toml").read_text("utf-8")
            if path is None
            else path.read_text("utf-8")
        )
        return {name: _paper(table) for name, table in tomllib.loads(text).items()}
    except OSError as error:
        raise InputError(f"targets: {path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"targets: {path} is not in the form of targets.toml ({type(error).__name__}: {error})"
        ) from None


def _paper(table: dict[str, Any]) -> Paper:
    tokens = dict(table.get("tokens", {}))
    tokens_source = str(tokens.pop("source", table["source"]))
    return Paper(
        source=str(table["source"]),
        unit=str(table["unit"]),
        benchmarks=tuple(str(name) for name in table["benchmarks"]),
        benchmarks_known=bool(table["benchmarks_known"]),
        average={
            str(model): {str(arm): float(value) for arm, value in arms.items()}
            for model, arms in table["average"].items()
        },
        tokens={str(metric): float(share) for metric, share in tokens.items()},
        tokens_source=tokens_source,
    )
