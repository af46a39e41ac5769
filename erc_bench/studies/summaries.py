"""One number per run for every metric, so that figures and claims need not read every update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLLAPSED_BELOW", "COUNTERS", "LAST", "STEADINESS", "summaries"]

#: Columns of the metrics that count something, of which no mean is taken.
COUNTERS = ("rollout", "staleness", "tokens", "diverged")
#: Metrics whose steadiness within a run is measured.
STEADINESS = ("grad/norm", "drift/entropy_new")
#: The rollouts at a run's end whose returns are held against its best, as a share of all.
LAST = 0.1
#: Their mean, as a share of the best mean of as many rollouts, below which a run has collapsed.
COLLAPSED_BELOW = 0.7


def summaries(metrics: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """The mean of every metric over a run's updates, the steadiness of some, and whether it collapsed.

    With ``x_k`` the finite values of a metric over a run's n updates,

        mean/<metric>    sum_k x_k / n
        std/<metric>     sqrt(sum_k (x_k - mean)^2 / (n - 1)), which includes any trend
        jitter/<metric>  sqrt(mean_k (x_{k+1} - x_k)^2 / 2), which ignores a slow trend
                         (von Neumann et al., Ann. Math. Statist. 12 (1941)) and equals std for
                         independent values

    ``std/rollout/<metric>`` and ``jitter/rollout/<metric>`` are the same of the means over each
    rollout's updates, which is what trainers log. Within a rollout a gate is inert at first and acts
    later, and that saw-tooth is in the numbers per update alone. ``reward/best`` is the largest mean
    return of :data:`LAST` of the rollouts in a row; a run has collapsed, ``reward/collapsed`` = 1, if
    the mean of its last ones is below :data:`COLLAPSED_BELOW` of that, or if it diverged. Where the best
    is not positive a share of it means nothing, and the flag is NaN.

    Args:
        metrics: arrays ``(updates, R)`` by name; what is measured per rollout needs the column
            ``rollout``, which counts every rollout's updates alike.

    Returns:
        Arrays ``(R,)`` by name; NaN if a run has too few values.

    >>> found = summaries({"grad/norm": np.array([[1.0], [3.0], [1.0]])})
    >>> {name: float(value[0].round(3)) for name, value in found.items()}
    {'mean/grad/norm': 1.667, 'std/grad/norm': 1.155, 'jitter/grad/norm': 1.414}
    """
    found: dict[str, NDArray[np.float64]] = {}
    for name, rows in metrics.items():
        if name in COUNTERS:
            continue
        x = np.where(np.isfinite(rows), rows, np.nan).astype(np.float64)
        found[f"mean/{name}"] = _mean(x, 0)
        if name in STEADINESS:
            found |= {f"{kind}/{name}": value for kind, value in _steadiness(x).items()}
            if "rollout" in metrics:
                per_rollout = _steadiness(_by_rollout(x, metrics))
                found |= {f"{kind}/rollout/{name}": v for kind, v in per_rollout.items()}
    if {"rollout", "reward/mean", "diverged"} <= metrics.keys():
        found |= _collapse(_by_rollout(metrics["reward/mean"], metrics), metrics["diverged"][-1])
    return found


def _by_rollout(x: NDArray[Any], metrics: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """The mean over each rollout's updates, ``(rollouts, R)``; NaN where a rollout has no value."""
    rollouts = int(metrics["rollout"].max()) + 1
    return _mean(x.reshape(rollouts, -1, x.shape[-1]).astype(np.float64), 1)


def _steadiness(x: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    squares, steps = (x - _mean(x, 0)) ** 2, np.diff(x, axis=0) ** 2
    n, pairs = np.isfinite(x).sum(0), np.isfinite(steps).sum(0)
    return {
        "std": np.sqrt(_ratio(np.nansum(squares, 0), n - 1)),
        "jitter": np.sqrt(_ratio(np.nansum(steps, 0), 2 * pairs)),
    }


def _collapse(returns: NDArray[np.float64], diverged: NDArray[Any]) -> dict[str, NDArray[Any]]:
    width = max(1, round(LAST * len(returns)))
    windows = np.lib.stride_tricks.sliding_window_view(returns, width, axis=0).mean(-1)
    best = np.fmax.reduce(windows, axis=0)  # a diverged run's best before it diverged
    fallen = np.where(best > 0, windows[-1] < COLLAPSED_BELOW * best, np.nan)
    return {"reward/best": best, "reward/collapsed": np.where(diverged, 1.0, fallen)}


def _mean(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return _ratio(np.nansum(x, axis), np.isfinite(x).sum(axis))


def _ratio(total: NDArray[np.float64], count: NDArray[Any]) -> NDArray[np.float64]:
    quotient = np.full(total.shape, np.nan)
    np.divide(total, count, out=quotient, where=count > 0)
    return quotient
