"""Settings of the arms of ``baselines``: the same number of candidates for each, on seeds of their own.

``python -m erc_bench.studies.selection`` trains every candidate and writes ``selected.json``, from
which the experiment takes its arms. The root seed differs from that of any reported run.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from erc_bench.core.storage import atomic_write
from erc_bench.studies.base import Experiment
from erc_bench.studies.plan import plan
from erc_bench.studies.records import Results, provenance
from erc_bench.studies.runner import execute

__all__ = ["CANDIDATES", "LEARNING_RATES", "candidates", "choose", "selected"]

ROOT_SEED, SEEDS = 1000, 5
LEARNING_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
#: What else is varied of each arm: its own constraint, around its source's value where that has one.
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


def candidates(arm: str) -> list[str]:
    """Every setting of an arm that is tried, as specifications.

    >>> candidates("dapo")[:2]
    ['dapo:learning_rate=0.0005,clip_high=0.2', 'dapo:learning_rate=0.0005,clip_high=0.28']
    """
    own, values = CANDIDATES[arm]
    points = itertools.product(LEARNING_RATES, values)
    return [f"{arm}:learning_rate={rate!r},{own}={value!r}" for rate, value in points]


def choose(runs: pd.DataFrame) -> dict[str, Any]:
    """The candidate of the highest mean score of each arm; of equal ones the first tried.

    Args:
        runs: rows with ``objective`` (a specification) and ``score``.

    Returns:
        By arm: ``chosen``, and ``tried``, the score's mean and 95 % half-interval of every candidate.
    """
    found: dict[str, Any] = {}
    for spec, scores in runs.groupby("objective", sort=False)["score"]:
        arm = str(spec).partition(":")[0]
        n = len(scores)
        half = float(stats.t.ppf(0.975, n - 1) * scores.std(ddof=1) / n**0.5) if n > 1 else None
        tried = found.setdefault(arm, {"chosen": "", "tried": {}})["tried"]
        tried[spec] = {"score": float(scores.mean()), "half_interval": half}
    for entry in found.values():
        entry["chosen"] = max(entry["tried"], key=lambda s, e=entry: e["tried"][s]["score"])  # type: ignore[misc]
    return found


def selected() -> tuple[str, ...]:
    """The chosen specification of every arm, in the order of :data:`CANDIDATES`."""
    text = resources.files("erc_bench.studies").joinpath("selected.json").read_text()
    arms = json.loads(text)["arms"]
    return tuple(str(arms[arm]["chosen"]) for arm in CANDIDATES)


def select(experiment: Experiment, out: Path, *, resume: bool, workers: int) -> dict[str, Any]:
    """Train every candidate on the selection's seeds and choose."""
    specs = tuple(spec for arm in CANDIDATES for spec in candidates(arm))
    work = plan([replace(experiment, objectives=specs)], seeds=SEEDS, seed=ROOT_SEED)
    results: Results = execute(work, out, resume=resume, workers=workers)
    return {
        "experiment": experiment.name,
        "root_seed": ROOT_SEED,
        "seeds": SEEDS,
        "candidates_per_arm": len(LEARNING_RATES) * 3,
        "rule": "highest mean score; of equal ones the first tried",
        "train": results.config["experiments"][experiment.name]["train"],
        "provenance": {k: v for k, v in provenance().items() if k != "arguments"},
        "arms": choose(results.read("runs")),
    }


def main() -> None:
    """Choose the settings of ``baselines`` and write them into the package."""
    from erc_bench.studies.questions.baselines import BASELINES  # noqa: PLC0415 - it reads the file

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/selection"))
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    found = select(BASELINES, asked.out, resume=asked.resume, workers=asked.workers)
    text = json.dumps(found, indent=2) + "\n"
    target = Path(__file__).with_name("selected.json")
    atomic_write(target, lambda stream: stream.write(text.encode()))


if __name__ == "__main__":
    main()
