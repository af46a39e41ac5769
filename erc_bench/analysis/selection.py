"""Chooses the settings of the arms of ``baselines`` from equally many candidates, on separate seeds.

``python -m erc_bench.analysis.selection`` trains every candidate and writes ``selected.json``, from
which the experiment takes its arms. The root seed differs from that of any reported run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from erc_bench.core.storage import write_text
from erc_bench.studies.arms import Arm, parse
from erc_bench.studies.base import Experiment
from erc_bench.studies.planning import plan
from erc_bench.studies.questions.baselines import EXPERIMENT, SELECTED
from erc_bench.studies.records import Results, provenance
from erc_bench.studies.runner import execute

__all__ = ["CANDIDATES", "LEARNING_RATES", "candidates", "choose", "select"]

ROOT_SEED, SEEDS = 1000, 5
LEARNING_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
#: What else is varied of each arm: its own constraint, around the value in its source if that has one.
CANDIDATES: Mapping[str, tuple[str, tuple[float, ...]]] = {
    "dapo": ("clip_high", (0.2, 0.28, 0.4)),
    "gppo": ("clip", (0.1, 0.2, 0.3)),
    "erc-dapo": ("band", (0.02, 0.05, 0.2)),
    "erc-gppo": ("band", (0.02, 0.05, 0.2)),
    "erc-directional-dapo": ("band", (0.02, 0.05, 0.2)),
    "dapo-kl": ("beta", (0.03, 0.3, 3.0)),
    "dapo-entropy": ("bonus", (3e-4, 3e-3, 3e-2)),
    "gspo": ("clip", (4e-4, 4e-3, 4e-2)),
    "dppo-tv": ("delta", (0.05, 0.1, 0.2)),
    "kl-gate-dapo": ("delta", (0.003, 0.01, 0.03)),
}


def candidates(name: str) -> list[Arm]:
    """Every setting of a recipe that is tried.

    >>> [arm.label for arm in candidates("dapo")[:2]]
    ['dapo:learning_rate=0.0005,clip_high=0.2', 'dapo:learning_rate=0.0005,clip_high=0.28']
    """
    own, values = CANDIDATES[name]
    return list(parse(name).grid({"learning_rate": LEARNING_RATES, own: values}))


def choose(runs: pd.DataFrame, arms: Iterable[Arm]) -> dict[str, Any]:
    """The candidate with the highest mean score of each recipe; the first tried of equal ones.

    Args:
        runs: rows with ``objective`` (an arm's label) and ``score``.
        arms: the candidates.

    Returns:
        For each recipe ``chosen``, and ``tried`` with the mean score of every candidate.
    """
    scores = dict(iter(runs.groupby("objective")["score"]))
    found: dict[str, Any] = {}
    for arm in arms:
        if arm.label in scores:
            entry = found.setdefault(arm.recipe.name, {"chosen": "", "tried": {}})
            entry["tried"][arm.label] = {"score": float(scores[arm.label].mean())}
    for entry in found.values():
        entry["chosen"] = max(entry["tried"], key=lambda s, e=entry: e["tried"][s]["score"])  # type: ignore[misc]
    return found


def select(experiment: Experiment, out: Path, *, resume: bool, workers: int) -> dict[str, Any]:
    """Train every candidate on the selection's seeds and choose."""
    arms = [arm for name in CANDIDATES for arm in candidates(name)]
    tried = replace(experiment, objectives=tuple(arm.label for arm in arms))
    work = plan([tried], seeds=SEEDS, seed=ROOT_SEED)
    results: Results = execute(work, out, resume=resume, workers=workers)
    return {
        "experiment": experiment.name,
        "root_seed": ROOT_SEED,
        "seeds": SEEDS,
        "candidates_per_arm": len(LEARNING_RATES) * 3,
        "rule": "highest mean score; of equal ones the first tried",
        "train": results.config["experiments"][experiment.name]["train"],
        "provenance": {k: v for k, v in provenance().items() if k != "arguments"},
        "arms": choose(results.read("runs"), arms),
    }


def main() -> None:
    """Choose the settings of ``baselines`` and write them into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/selection"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    found = select(EXPERIMENT, asked.out, resume=asked.resume, workers=asked.workers)
    write_text(SELECTED, json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
