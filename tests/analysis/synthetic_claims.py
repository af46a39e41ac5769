"""Records of a world in which every claim holds; a test changes one thing and reads the verdict.

Values carry two kinds of noise: one that all arms of a seed share, as paired runs do, and a small
one of their own. Pairing by seed removes the first.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from erc_bench.studies import EXPERIMENTS
from erc_bench.studies.records import Results

SEVEN = ("ppo-clip", "grpo", "dapo", "gppo", "erc-dapo", "erc-gppo", "erc-directional-dapo")
GATES = ("dapo", "erc-dapo", "erc-directional-dapo")
REWARDS = {"erc-dapo": 0.75, "erc-gppo": 0.75, "erc-directional-dapo": 0.80}
PAPER = ("unsampled_shift", "forking_tokens", "rare_reward", "reward_shift")
EPOCHS, RATES, BITS, JITTERS = (1, 4), (0.001, 0.002), (24, 8), (0.0, 0.01, 0.03)

Change = Callable[[str, str, pd.DataFrame], None]


def labels(arms: Iterable[str], **grid: Iterable[float]) -> list[str]:
    """Arms at every point of a grid; ``dapo`` has no band."""
    found = []
    for arm in arms:
        axes = [
            [f"{key}={value!r}" for value in values]
            for key, values in grid.items()
            if key != "band" or arm != "dapo"
        ]
        found += [f"{arm}:{','.join(p)}" if p else arm for p in itertools.product(*axes)]
    return found


#: Experiments: the labels of their arms, and the grid.
WORLD: dict[str, tuple[list[str], dict[str, list[float]]]] = {
    **{name: (list(SEVEN), {}) for name in (*PAPER, "stress")},
    "arithmetic": (["dapo", "gppo", "erc-dapo", "erc-gppo", "erc-directional-dapo"], {}),
    "mode_swap": (["dapo", "erc-dapo"], {}),
    "baselines": (
        [
            "dapo:learning_rate=0.002",
            "erc-dapo:learning_rate=0.001",
            "dapo-kl",
            "dapo-entropy",
            "gspo",
            "dppo-tv",
            "kl-gate-dapo",
        ],
        {},
    ),
    "staleness": (labels(GATES, epochs=EPOCHS), {"epochs": list(EPOCHS)}),
    "phase_diagram": (
        labels(GATES, learning_rate=RATES, epochs=EPOCHS, band=(0.05, 0.2)),
        {"learning_rate": list(RATES), "epochs": list(EPOCHS), "band": [0.05, 0.2]},
    ),
    "precision": (
        labels(["erc-dapo"], rollout_bits=BITS, rollout_jitter=JITTERS),
        {"rollout_bits": list(BITS), "rollout_jitter": list(JITTERS)},
    ),
}
#: Where training breaks: every arm of the claims at one point, at which the bases collapse.
BREAKING = {
    "collapse_border": {"learning_rate": [0.004], "epochs": [4]},
    "lag": {"rollout_lag": [8]},
    "noisy_verifier": {"false_positives": [0.3], "false_negatives": [0.3]},
}
for _name, _grid in BREAKING.items():
    _arms = EXPERIMENTS[_name].objectives
    WORLD[_name] = (labels(_arms, **_grid), _grid)


def _hyper(label: str) -> dict[str, float]:
    items = filter(None, label.partition(":")[2].split(","))
    found = {}
    for key, _, value in (item.partition("=") for item in items):
        for name in ("band_low", "band_high") if key == "band" else (key,):
            found[f"hyper/{name}"] = float(value)
    return found


def make_runs(experiment: str, label: str, seeds: int) -> pd.DataFrame:
    recipe = label.partition(":")[0]
    erc = recipe.startswith("erc-")
    breaks, gated = experiment in BREAKING, "-" in recipe
    shared = np.random.default_rng(zlib.crc32(experiment.encode())).normal(size=(seeds, 12))
    own = np.random.default_rng(zlib.crc32(f"{experiment}{label}".encode())).normal(
        size=(seeds, 12)
    )
    noise = iter((shared + 0.1 * own).T)

    def around(mean: float, spread: float = 0.1) -> np.ndarray:
        return mean * np.exp(spread * next(noise))

    return pd.DataFrame(
        {
            "experiment": experiment,
            "environment": "erc/Test-v0",
            "objective": label,
            "seed": np.arange(seeds),
            "reward/initial": 0.1,
            "reward/final": (
                (0.7 if gated and not recipe.startswith("placebo-") else 0.5)
                if breaks
                else REWARDS.get(recipe, 0.7)
            )
            + 0.03 * next(noise),
            "reward/optimal": 1.0,
            "entropy/initial": 1.0,
            "entropy/final": 0.5,
            "tokens": 1000,
            "diverged": False,
            "reward/collapsed": (np.arange(seeds) % 2 == 0) & breaks & (not gated),
            "mean/drift/violation_fraction": 0.1,
            "mean/drift/hidden_violation_fraction": around(0.07),
            "jitter/drift/entropy_new": around(0.05 if erc else 0.1),
            "jitter/grad/norm": around(0.05 if erc else 0.1),
            "std/drift/entropy_new": around(0.2),
            "std/grad/norm": around(0.2),
            "mean/clip/ratio_bound_fraction": around(0.002),
            "mean/gate/dropped_fraction": around(0.2) if erc else 0.0,
            "mean/drift/kl_exact": around(0.004 if erc else 0.006),
            "mean/drift/out_of_band_fraction": around(0.05),
            **_hyper(label),
        }
    )


def make_tokens(experiment: str, label: str, seeds: int, count: int = 48) -> pd.DataFrame:
    """A quarter violates delta; the entropy ratio sees it, the sampled ratio does not."""
    rng = np.random.default_rng(zlib.crc32(f"tokens {experiment}{label}".encode()))
    n = seeds * count
    violates = np.tile(np.arange(count) % 4 == 0, seeds)
    seen, unseen = rng.normal(size=n) * np.where(violates, 4, 1), rng.normal(size=n)
    if experiment == "mode_swap":
        seen, unseen = unseen, seen
    dropped = np.tile(np.arange(count) % 5 == 0, seeds) & label.startswith("erc-")
    entropy = rng.uniform(0.2, 2.0, n) * np.where(dropped, 0.5, 1.0)
    return pd.DataFrame(
        {
            "experiment": experiment,
            "environment": "erc/Test-v0",
            "objective": label,
            "seed": np.repeat(np.arange(seeds), count),
            "update": 1,
            "staleness": 1,
            "position": 0,
            "action": 0,
            "advantage": 1.0,
            "prob/old": 0.5,
            "prob/new": 0.5,
            "log_ratio": unseen / 10,
            "entropy/old": entropy,
            "entropy/new": entropy,
            "log_entropy_ratio": seen / 10,
            "kl_exact": np.where(violates, 0.02, 0.001),
            "tv": 0.1,
            "clip_bound": False,
            "gate_dropped": dropped,
        }
    )


def make_world(
    path: Path,
    *,
    only: Iterable[str] = tuple(WORLD),
    seeds: int = 30,
    runs: Change | None = None,
    tokens: Change | None = None,
    arms: Callable[[str], bool] = lambda _: True,
) -> Results:
    """Write the world's records; ``runs`` and ``tokens`` change an arm's frame in place."""
    entries = {
        name: {
            "grid": WORLD[name][1],
            "delta": 0.01,
            "regime": "paper",
            "train": {"minibatches": 8, "epochs": 1, "learning_rate": 0.001},
            "objectives": {label: {"recipe": label.partition(":")[0]} for label in WORLD[name][0]},
        }
        for name in only
    }
    results = Results.create(path, {"seed": 0, "experiments": entries})
    for number, name in enumerate(entries):
        frames: dict[str, list[pd.DataFrame]] = {"runs": [], "tokens": []}
        for label in filter(arms, WORLD[name][0]):
            made = {
                "runs": make_runs(name, label, seeds),
                "tokens": make_tokens(name, label, seeds),
            }
            for table, change in (("runs", runs), ("tokens", tokens)):
                if change:
                    change(name, label, made[table])
                frames[table].append(made[table])
        tables = {table: pd.concat(found, ignore_index=True) for table, found in frames.items()}
        metrics = tables["runs"][
            ["experiment", "environment", "objective", "seed", "tokens", "diverged"]
        ]
        extra = {"rollout": 0, "update": 0, "staleness": 0, "reward/mean": 0.5, "grad/norm": 1.0}
        results.write_part(f"{number:02d}-{name}", {**tables, "metrics": metrics.assign(**extra)})
    return results
