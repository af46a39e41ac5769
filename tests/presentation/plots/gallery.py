"""Records of all 15 experiments with known answers, from :mod:`analysis.synthetic` and formulas."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from analysis.synthetic import BAND, CLIP, DELTA, described, make_run

from erc_bench.studies.records import KEYS, Results

SEVEN = ("ppo-clip", "grpo", "dapo", "gppo", "erc-dapo", "erc-gppo", "erc-directional-dapo")
PANELS = {
    "unsampled_shift": SEVEN,
    "forking_tokens": SEVEN,
    "entropy_null": SEVEN,
    "stress": SEVEN,
    "mode_swap": (
        "ppo-clip",
        "dapo",
        "erc-dapo",
        "erc-directional-dapo",
        "kl-gate-dapo",
        "tv-gate-dapo",
    ),
    "reward_shift": SEVEN,
    "rare_reward": SEVEN,
    "aggregation": ("grpo", "dr-grpo", "dapo", "gspo", "erc-dapo"),
    "arithmetic": ("dapo", "gppo", "erc-dapo", "erc-gppo", "erc-directional-dapo"),
}
#: Final reward and exact KL of each tuned arm; ``erc-dapo`` is the reference of the differences.
BASELINES = {
    "dapo:learning_rate=0.002": (0.80, 1.2e-3),
    "gppo:learning_rate=0.002": (0.78, 1.6e-3),
    "erc-dapo:band_high=0.1,band_low=0.1,learning_rate=0.002": (0.82, 0.8e-3),
    "erc-gppo:band_high=0.1,band_low=0.1,learning_rate=0.001": (0.79, 0.9e-3),
    "erc-directional-dapo:band_high=0.05,band_low=0.05,learning_rate=0.002": (0.85, 0.7e-3),
    "dapo-kl:beta=0.1,learning_rate=0.002": (0.79, 0.5e-3),
    "dapo-entropy:bonus=0.003,learning_rate=0.001": (0.76, 1.1e-3),
    "gspo:learning_rate=0.001": (0.70, 2.5e-3),
    "dppo-tv:delta=0.2,learning_rate=0.002": (0.81, 1.4e-3),
    "kl-gate-dapo:delta=0.01,learning_rate=0.002": (0.84, 0.6e-3),
}
RATES, EPOCHS, BANDS = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3), (1, 2, 4, 8), (0.02, 0.05, 0.2)
STALENESS = (1, 4, 16, 64)
WIDTHS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
BITS, JITTERS = (24, 11, 8), (0.0, 0.01, 0.03)
ERC_GAIN = {"erc-dapo": -0.05, "erc-directional-dapo": 0.1}
#: Shares outside the band without any update, by significand bits, for no jitter.
NOISE_FLOOR = {24: 0.0, 11: 0.02, 8: 0.14}


def noise(*key: object, scale: float) -> float:
    """A fixed normal number per key."""
    digest = [sum(map(ord, str(k))) for k in key]
    return scale * float(np.random.default_rng(digest).normal())


def phase_reward(recipe: str, rate: float, updates: int, band: float, seed: int) -> float:
    """Reward that falls with the step and staleness; ERC adds its gain at narrow bands and large steps."""
    strain = math.log2(rate / 2.5e-4 * updates) / 8
    base = 0.9 - 0.5 * strain**2 + noise("seed", seed, scale=0.02)
    gain = ERC_GAIN.get(recipe, 0.0) * (strain + 0.2) * (0.05 / band) ** 0.25
    return base + gain + noise(recipe, rate, updates, band, seed, scale=0.01)


def phase_kl(recipe: str, rate: float, updates: int) -> float:
    """Exact KL; halved by the directional gate, raised by half by ERC."""
    factor = {"erc-dapo": 1.5, "erc-directional-dapo": 0.5}.get(recipe, 1.0)
    return 2e-4 * updates * (rate / 1e-3) * factor


def short_run(
    experiment: str, label: str, seed: int, values: dict[str, float], hyper: dict[str, float]
) -> dict[str, pd.DataFrame]:
    """A run whose runs table holds the given values, with one update and one token behind it."""
    keys = {"experiment": experiment, "objective": label, "seed": seed}
    tables = {name: table.assign(**keys) for name, table in _template().items()}
    added = {**values, **{f"hyper/{k}": v for k, v in hyper.items()}}
    return {**tables, "runs": tables["runs"].assign(**added)}


@cache
def _template() -> dict[str, pd.DataFrame]:
    run = make_run("e", "erc-dapo", 0, 1)
    return _with_means({**run, "metrics": run["metrics"].head(1)})


def _label(recipe: str, hyper: dict[str, float]) -> str:
    settings = ",".join(f"{k}={v:g}" for k, v in sorted(hyper.items()))
    return f"{recipe}:{settings}" if settings else recipe


def _baselines(seed: int) -> list[dict[str, pd.DataFrame]]:
    found = []
    for label, (reward, kl) in BASELINES.items():
        drift = kl * math.exp(noise(label, seed, scale=0.15))
        values = {
            "reward/final": reward + noise("s", seed, scale=0.03) + noise(label, seed, scale=0.015),
            "mean/drift/kl_exact": drift,
            "mean/drift/hidden_violation_fraction": 8 * drift,
        }
        settings = label.partition(":")[2].split(",")
        hyper = {k: float(v) for k, _, v in (s.partition("=") for s in settings)}
        found.append(short_run("baselines", label, seed, values, hyper))
    return found


def _swept(
    experiment: str, recipe: str, seed: int, rate: float, updates: int, band: float, **hyper: float
) -> dict[str, pd.DataFrame]:
    kl = phase_kl(recipe, rate, updates) * math.exp(noise(recipe, rate, seed, scale=0.1))
    gated = recipe != "dapo"
    share = 0.25 * (0.05 / band) ** 0.7
    if gated:
        hyper = {**hyper, "band_low": band, "band_high": band} if "bands" in hyper else hyper
    hyper.pop("bands", None)
    values = {
        "reward/final": phase_reward(recipe, rate, updates, band, seed),
        "mean/drift/kl_exact": 0.0 if updates == 1 else kl,
        "mean/drift/out_of_band_fraction": share,
        "mean/gate/dropped_fraction": share if gated else 0.0,
    }
    return short_run(experiment, _label(recipe, hyper), seed, values, hyper)


def _sweeps(seed: int) -> list[dict[str, pd.DataFrame]]:
    arms = ("dapo", *ERC_GAIN)
    found = []
    for rate, epochs, recipe in itertools.product(RATES, EPOCHS, arms):
        found += [
            _swept(
                "phase_diagram",
                recipe,
                seed,
                rate,
                8 * epochs,
                band,
                learning_rate=rate,
                epochs=epochs,
                bands=1,
            )
            for band in ((0.05,) if recipe == "dapo" else BANDS)
        ]
    for epochs, recipe in itertools.product(STALENESS, arms):
        found.append(_swept("staleness", recipe, seed, 1e-3, epochs, 0.05, epochs=epochs))
    for recipe in arms:
        widths = (0.05,) if recipe == "dapo" else WIDTHS
        found += [_swept("beta_sweep", recipe, seed, 1e-3, 8, w, bands=1) for w in widths]
    for bits, jitter in itertools.product(BITS, JITTERS):
        share = NOISE_FLOOR[bits] + 4 * jitter * math.exp(noise(bits, jitter, seed, scale=0.1))
        values = {"mean/drift/out_of_band_fraction": share, "mean/drift/kl_exact": 1e-3 * share**2}
        hyper = {"rollout_bits": bits, "rollout_jitter": jitter}
        found.append(short_run("precision", _label("erc-dapo", hyper), seed, values, hyper))
    for jitter, recipe in itertools.product(JITTERS, ("dapo", "dapo-tis", *ERC_GAIN)):
        hyper = {"rollout_jitter": jitter}
        found.append(short_run("rollout_mismatch", _label(recipe, hyper), seed, {}, hyper))
    return found


def _with_means(run: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Add ``mean/<metric>``, the mean over the run's updates, to the runs table."""
    measured = run["metrics"].drop(columns=[*KEYS, "rollout", "update", "staleness", "diverged"])
    means = {f"mean/{name}": [column.mean()] for name, column in measured.items()}
    missing = pd.DataFrame({k: v for k, v in means.items() if k not in run["runs"]})
    return {**run, "runs": pd.concat([run["runs"], missing], axis=1)}


def make_gallery(path: Path, *, seeds: int = 4, tokens: int = 120, panels: int = 9) -> Results:
    """Records of ``panels`` experiments of figures 1 to 6, and of all with a figure of their own."""
    runs = [
        _with_means(make_run(experiment, arm, seed, tokens, (arm, seed) == ("gppo", 1)))
        for experiment, arms in itertools.islice(PANELS.items(), panels)
        for arm in arms
        for seed in range(seeds)
    ]
    for seed in range(seeds):
        runs += [*_baselines(seed), *_sweeps(seed)]
    names = list(dict.fromkeys(run["runs"]["experiment"].iloc[0] for run in runs))
    sweeps = {
        "phase_diagram": {"learning_rate": RATES, "epochs": EPOCHS, "band": BANDS},
        "staleness": {"epochs": STALENESS},
        "beta_sweep": {"band": WIDTHS},
        "precision": {"rollout_bits": BITS, "rollout_jitter": JITTERS},
        "rollout_mismatch": {"rollout_jitter": JITTERS},
    }
    config = {
        name: {
            "question": f"What does {name} ask?",
            "regime": "sweep" if name in sweeps else "stress" if name == "stress" else "paper",
            "grid": sweeps.get(name, {}),
            "train": {
                "minibatches": 1 if name == "staleness" else 8,
                "epochs": 1,
                "learning_rate": 1e-3,
            },
            "clip": {"low": CLIP[0], "high": CLIP[1]},
            "band": {"low": BAND[0], "high": BAND[1]},
            "delta": DELTA,
            "objectives": {
                label: described(label)
                for label in dict.fromkeys(
                    r["runs"]["objective"].iloc[0]
                    for r in runs
                    if r["runs"]["experiment"].iloc[0] == name
                )
            },
        }
        for name in names
    }
    results = Results.create(path, {"seed": 0, "experiments": config})
    for number, name in enumerate(names):
        here = [run for run in runs if run["runs"]["experiment"].iloc[0] == name]
        results.write_part(
            f"{number:02d}-{name}",
            {table: pd.concat([r[table] for r in here], ignore_index=True) for table in here[0]},
        )
    return results
