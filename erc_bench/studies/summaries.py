"""One number per run for every metric, so that figures and claims need not read every update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["COUNTERS", "STEADINESS", "summaries"]

#: Columns of the metrics that count something, of which no mean is taken.
COUNTERS = ("rollout", "staleness", "tokens", "diverged")
#: Metrics whose steadiness within a run is measured.
STEADINESS = ("grad/norm", "drift/entropy_new")


def summaries(metrics: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """The mean of every metric over a run's updates, and the steadiness of some metrics.

    With ``x_k`` the finite values of a metric over a run's n updates,

        mean/<metric>    sum_k x_k / n
        std/<metric>     sqrt(sum_k (x_k - mean)^2 / (n - 1)), which includes any trend
        jitter/<metric>  sqrt(mean_k (x_{k+1} - x_k)^2 / 2), which ignores a slow trend
                         (von Neumann et al., Ann. Math. Statist. 12 (1941)) and equals std for
                         independent values

    Args:
        metrics: arrays ``(updates, R)`` by name.

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
        n = np.isfinite(x).sum(0)
        mean = _ratio(np.nansum(x, 0), n)
        found[f"mean/{name}"] = mean
        if name in STEADINESS:
            steps = np.diff(x, axis=0) ** 2
            pairs = np.isfinite(steps).sum(0)
            found[f"std/{name}"] = np.sqrt(_ratio(np.nansum((x - mean) ** 2, 0), n - 1))
            found[f"jitter/{name}"] = np.sqrt(_ratio(np.nansum(steps, 0), 2 * pairs))
    return found


def _ratio(total: NDArray[np.float64], count: NDArray[Any]) -> NDArray[np.float64]:
    quotient = np.full(total.shape, np.nan)
    np.divide(total, count, out=quotient, where=count > 0)
    return quotient
