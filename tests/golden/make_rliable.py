"""Writes rliable.json: what rliable 1.2.0 says of fixed score matrices (Apache-2.0; numbers only).

    pip install rliable==1.2.0 "pandas<3" && python tests/golden/make_rliable.py

rliable ignores its random state, so its intervals are those of ``REPLICATES`` draws of one process:
they agree with another implementation up to Monte-Carlo error only. Point estimates agree exactly.
"""

import json
from pathlib import Path

REPLICATES = 5_000
TAUS = [0.0, 0.1, 0.25, 0.3, 0.5, 0.75, 0.9, 1.0]


def matrices(np):
    """Scores of two algorithms, runs x tasks: smooth, with ties and zeros, and of odd sizes."""
    rng = np.random.default_rng(2021)
    smooth = rng.beta([2, 5, 8], [5, 5, 2], size=(20, 3))
    ties = rng.integers(0, 5, size=(10, 4)) / 4
    zeros = np.where(rng.random((7, 5)) < 0.3, 0.0, rng.beta(4, 2, size=(7, 5)))
    return {
        "smooth": (smooth, np.clip(smooth + rng.normal(0.03, 0.1, smooth.shape), 0, 1)),
        "ties": (ties, rng.integers(1, 5, size=ties.shape) / 4),
        "zeros": (zeros, rng.beta(4, 2, size=zeros.shape)),
    }


def main() -> None:
    """Run rliable and store inputs beside outputs."""
    import numpy as np  # noqa: PLC0415
    from rliable import library, metrics  # noqa: PLC0415

    aggregates = {
        "interquartile_mean": metrics.aggregate_iqm,
        "mean_score": metrics.aggregate_mean,
    }
    cases = {}
    for name, (x, y) in matrices(np).items():
        points, ends = library.get_interval_estimates(
            {"x": x},
            lambda scores: np.array([f(scores) for f in aggregates.values()]),
            reps=REPLICATES,
        )
        profiles, bands = library.create_performance_profile({"x": x}, TAUS, reps=REPLICATES)
        improvement, improvement_ends = library.get_interval_estimates(
            {"x,y": (x, y)}, metrics.probability_of_improvement, reps=REPLICATES
        )
        cases[name] = {
            "x": x.tolist(),
            "y": y.tolist(),
            "aggregates": dict(zip(aggregates, points["x"].tolist(), strict=True)),
            "aggregate_ends": dict(zip(aggregates, ends["x"].T.tolist(), strict=True)),
            "profile": profiles["x"].tolist(),
            "profile_ends": bands["x"].tolist(),
            "improvement": float(improvement["x,y"]),
            "improvement_ends": np.ravel(improvement_ends["x,y"]).tolist(),
        }
    content = {"rliable": "1.2.0", "replicates": REPLICATES, "taus": TAUS, "cases": cases}
    path = Path(__file__).with_name("rliable.json")
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
