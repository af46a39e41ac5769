"""Small deterministic records with realistic dynamics and known answers, without a trainer.

Tokens come from real softmax distributions: logits, an update of them, and every drift measured
exactly. Metrics follow stated curves, so their means are known (see ``CURVES``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from erc_bench.core.errors import InputError
from erc_bench.studies.arms import parse
from erc_bench.studies.records import Results

ARMS = ("ppo-clip", "dapo", "gppo", "erc-dapo", "erc-gppo")
ROLLOUTS, UPDATES = 20, 8
CLIP, BAND, DELTA = (0.2, 0.28), (0.05, 0.05), 0.01
#: The means of these shares over each seed's run, up to the factor of `seed_factor`.
BOUND, OUT_OF_BAND, DROPPED = 0.002, 0.24, 0.2


def seed_factor(seed: int) -> float:
    return 1.0 + 0.1 * (seed - 1)


def score(objective: str, seed: int) -> float:
    """A run's score: the gate adds 0.1, every seed 0.01."""
    return 0.5 + 0.1 * objective.startswith("erc-") + 0.01 * seed


def spread_over_updates(mean: float, staleness: np.ndarray) -> np.ndarray:
    """A share that is 0 at staleness 0, grows with it, and has the given mean over a rollout."""
    return mean * staleness / np.arange(UPDATES).mean()


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p)).sum(-1)


def make_tokens(
    rng: np.random.Generator, count: int, erc: bool, clips: bool, actions: int = 16
) -> pd.DataFrame:
    staleness = rng.integers(0, UPDATES, count)
    logits = rng.normal(0, rng.choice([0.7, 2.5, 4.0], (count, 1)), (count, actions))
    step = 0.05 * staleness[:, None] * rng.normal(0, 1, (count, actions))
    old = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    new = np.exp(logits + step) / np.exp(logits + step).sum(-1, keepdims=True)
    action = np.array([rng.choice(actions, p=p) for p in old])
    rows = np.arange(count)
    log_ratio = np.log(new[rows, action]) - np.log(old[rows, action])
    log_rho = np.log(entropy(new) + 1e-8) - np.log(entropy(old) + 1e-8)
    advantage = rng.choice([-1.0, 1.0], count)
    ratio, rho = np.exp(log_ratio), np.exp(log_rho)
    bound = ((ratio > 1 + CLIP[1]) & (advantage > 0)) | ((ratio < 1 - CLIP[0]) & (advantage < 0))
    outside = ~((1 - BAND[0] < rho) & (rho < 1 + BAND[1]))
    moved = np.abs(new - old)
    return pd.DataFrame(
        {
            "update": rng.integers(0, ROLLOUTS, count) * UPDATES + staleness,
            "staleness": staleness,
            "position": rng.integers(0, 12, count),
            "action": action,
            "advantage": advantage,
            "prob/old": old[rows, action],
            "prob/new": new[rows, action],
            "log_ratio": log_ratio,
            "entropy/old": entropy(old),
            "entropy/new": entropy(new),
            "log_entropy_ratio": log_rho,
            "kl_exact": (old * np.log(old / new)).sum(-1),
            "tv": moved.sum(-1) / 2,
            "clip_bound": bound & clips,
            "gate_dropped": outside & erc,
            "probs/old": list(old),
            "probs/new": list(new),
        }
    )


def make_metrics(rng: np.random.Generator, seed: int, erc: bool, clips: bool) -> pd.DataFrame:
    updates = np.arange(ROLLOUTS * UPDATES)
    rollout, staleness = updates // UPDATES, updates % UPDATES
    progress = updates / updates[-1]
    factor = seed_factor(seed)
    jitter = 0.05 if erc else 0.12
    entropies = (
        1.6 - (0.3 if erc else 0.9) * progress * factor + 0.02 * rng.normal(size=len(updates))
    )
    returns = (0.1 + (0.75 if erc else 0.6) * (1 - np.exp(-4 * progress)))[rollout * UPDATES]
    returns = returns + np.repeat(0.03 * rng.normal(size=ROLLOUTS), UPDATES)
    out_of_band = spread_over_updates(OUT_OF_BAND * factor, staleness)
    kl = spread_over_updates(0.004 if erc else 0.006, staleness)
    return pd.DataFrame(
        {
            "rollout": rollout,
            "update": updates,
            "staleness": staleness,
            "tokens": (rollout + 1) * 768,
            "reward/mean": returns,
            "grad/norm": 0.3 + jitter * rng.normal(size=len(updates)) + 0.1 * progress,
            "diverged": False,
            "clip/ratio_bound_fraction": (
                spread_over_updates(BOUND, staleness) if clips else np.nan
            ),
            "gate/dropped_fraction": (
                spread_over_updates(DROPPED * factor, staleness) if erc else 0.0
            ),
            "drift/out_of_band_fraction": out_of_band,
            "drift/kl_exact": kl,
            "drift/tv_hidden": 4 * kl,
            "drift/hidden_violation_fraction": out_of_band / 3,
            "drift/entropy_old": entropies,
            "drift/entropy_new": entropies,
        }
    )


def make_run(
    experiment: str, objective: str, seed: int, tokens: int, diverged: bool = False
) -> dict[str, pd.DataFrame]:
    erc, clips = objective.startswith("erc-"), "reinforce" not in objective
    rng = np.random.default_rng([seed, len(objective), sum(map(ord, experiment + objective))])
    keys = {
        "experiment": experiment,
        "environment": f"erc/{experiment.title().replace('_', '')}-v0",
        "objective": objective,
        "seed": seed,
    }
    metrics = make_metrics(rng, seed, erc, clips)
    if diverged:
        metrics["diverged"] = metrics["update"] >= 60
        measured = [c for c in metrics if "/" in c]
        metrics.loc[metrics["diverged"], measured] = np.nan
    final = metrics.iloc[-1]
    runs = pd.DataFrame(
        [
            {
                "reward/initial": 0.1,
                "reward/final": np.nan if diverged else 0.85 if erc else 0.7 + 0.02 * seed,
                "reward/optimal": 1.0,
                "entropy/initial": 1.6,
                "entropy/final": final["drift/entropy_new"],
                "tokens": int(final["tokens"]),
                "diverged": diverged,
                "score": np.nan if diverged else score(objective, seed),
            }
        ]
    )
    sample = make_tokens(rng, tokens, erc, clips)
    tables = {"runs": runs, "metrics": metrics, "tokens": sample}
    return {
        name: pd.concat([pd.DataFrame([keys] * len(t)), t], axis=1) for name, t in tables.items()
    }


def described(label: str) -> dict[str, object]:
    """What a manifest says of an arm; of a name that is no recipe's, nothing."""
    try:
        arm = parse(label)
    except InputError:
        return {}
    return {**arm.described(), "overrides": dict(arm.overrides)}


def make_results(
    path: Path,
    *,
    experiments: tuple[str, ...] = ("unsampled_shift", "forking_tokens"),
    arms: tuple[str, ...] = ARMS,
    seeds: int = 4,
    tokens: int = 150,
    diverged: tuple[tuple[str, int], ...] = (),
) -> Results:
    """Records of every experiment, arm and seed; ``diverged`` lists (objective, seed)."""
    config = {
        "seed": 0,
        "experiments": {
            name: {
                "question": f"What does {name} ask?",
                "environment": f"erc/{name.title().replace('_', '')}-v0",
                "objectives": {
                    arm: {**described(arm), "equation": "min(rA, clip(r)A)"} for arm in arms
                },
                "train": {"rollouts": ROLLOUTS, "updates_per_rollout": UPDATES},
                "clip": {"low": CLIP[0], "high": CLIP[1]},
                "band": {"low": BAND[0], "high": BAND[1]},
                "delta": DELTA,
                "seeds": seeds,
            }
            for name in experiments
        },
    }
    results = Results.create(path, config)
    for i, experiment in enumerate(experiments):
        runs = [
            make_run(experiment, arm, seed, tokens, (arm, seed) in diverged)
            for arm in arms
            for seed in range(seeds)
        ]
        results.write_part(
            f"{i:02d}",
            {
                table: pd.concat([run[table] for run in runs], ignore_index=True)
                for table in ("runs", "metrics", "tokens")
            },
        )
    return results
