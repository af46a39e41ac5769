"""A finished run beside the papers' numbers, with intervals; where nothing was run it says so."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from erc_bench.adapters.logs import read_log
from erc_bench.errors import InputError

__all__ = ["Row", "as_markdown", "compare", "targets"]

AVERAGED = ("aime24", "aime25", "hmmt25")
FIVE = ("aime24", "aime25", "hmmt25", "math500", "amc23")


@dataclass(frozen=True)
class Row:
    """One number of a paper and ours.

    Attributes:
        what: what it is.
        target: the paper's.
        source: where it stands.
        value: ours; None: not run.
        low: end of our 95 % interval.
        high: the other.
        note: what keeps the two from being the same thing.
    """

    what: str
    target: float
    source: str
    value: float | None = None
    low: float = math.nan
    high: float = math.nan
    note: str = ""

    @property
    def finding(self) -> str:
        """Whether the paper's number lies in our interval; never more than that."""
        if self.value is None:
            return "not run"
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return "no interval"
        return (
            "inside our interval"
            if self.low <= self.target <= self.high
            else "outside our interval"
        )


def targets() -> dict[str, Any]:
    """``targets.toml``."""
    return tomllib.loads((resources.files("paper_repro") / "targets.toml").read_text("utf-8"))


def compare(
    model: str, objective: str, evaluation: Path | None = None, log: Path | None = None
) -> list[Row]:
    """Every target of this run.

    Args:
        model: ``1.5b`` or ``7b``.
        objective: that was trained.
        evaluation: what ``paper_repro.evaluation score`` wrote.
        log: of the training, as ``erc_bench.adapters.logs`` reads it.

    Raises:
        InputError: a file that is not what it should be, or nothing to compare with.
    """
    known = targets()
    scores = _scores(evaluation) if evaluation else {}
    rows = []
    for paper, benchmarks in (("erc", AVERAGED), ("ce-gppo", FIVE)):
        target = known[paper]["average"].get(model, {}).get(objective)
        if target is None:
            continue
        note = known[paper]["unit"]
        have = [scores[name] for name in benchmarks if name in scores]
        row = Row(f"average of {', '.join(benchmarks)}", target, known[paper]["source"], note=note)
        if len(have) == len(benchmarks):
            row = Row(row.what, target, row.source, *_average(have), note=note)
        elif have:
            missing = [name for name in benchmarks if name not in scores]
            row = Row(row.what, target, row.source, note=f"missing: {', '.join(missing)}")
        rows.append(row)
    shares = known["erc"]["tokens"]
    metric = (
        "gate/dropped_fraction" if objective.startswith("erc-") else "clip/ratio_bound_fraction"
    )
    row = Row(metric, 100 * shares[metric], shares["source"], note="percent of tokens")
    if log is not None:
        row = Row(
            metric, row.target, row.source, *_share(log, metric), note="percent, mean over steps"
        )
    rows.append(row)
    return rows


def _scores(path: Path) -> dict[str, dict[str, float]]:
    """Benchmarks with ``avg``, ``low``, ``high`` in percent."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        return {
            str(name): {key: float(one[key]) for key in ("avg", "low", "high")}
            for name, one in found.items()
        }
    except OSError as error:
        raise InputError(f"evaluation: {path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"evaluation: {path} is not what `paper_repro.evaluation score` writes "
            f"({type(error).__name__}: {error})"
        ) from None


def _average(scores: list[dict[str, float]]) -> tuple[float, float, float]:
    """Mean over benchmarks; their errors are independent, so half-widths add in squares."""
    mean = sum(s["avg"] for s in scores) / len(scores)
    below = math.sqrt(sum((s["avg"] - s["low"]) ** 2 for s in scores)) / len(scores)
    above = math.sqrt(sum((s["high"] - s["avg"]) ** 2 for s in scores)) / len(scores)
    return mean, mean - below, mean + above


def _share(path: Path, metric: str) -> tuple[float, float, float]:
    """Mean over the run's steps, in percent, with a block-bootstrap interval: steps are correlated."""
    import numpy as np  # noqa: PLC0415

    values = read_log(path).metrics[metric].dropna().to_numpy(dtype=float) * 100
    if len(values) == 0:
        raise InputError(f"log: {path} has no {metric}")
    size = max(1, round(len(values) ** (1 / 3)))
    rng = np.random.default_rng(0)
    starts = rng.integers(0, len(values), (2000, math.ceil(len(values) / size)))
    index = (starts[..., None] + np.arange(size)) % len(values)
    means = values[index.reshape(2000, -1)[:, : len(values)]].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def as_markdown(rows: list[Row]) -> str:
    """For people."""
    lines = ["| number | paper | ours (95 % interval) | the paper's is | note | source |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        ours = (
            "not run" if row.value is None else f"{row.value:.2f} ({row.low:.2f} to {row.high:.2f})"
        )
        lines.append(
            f"| {row.what} | {row.target:.2f} | {ours} | {row.finding} | {row.note} | {row.source} |"
        )
    return "\n".join(lines) + "\n"
