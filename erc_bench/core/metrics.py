"""Every metric once: its name, label, unit, better direction, definition and estimator.

Records, tables, figures, captions, the documentation and the teaching page read this registry, which
stands in ``metrics.toml``. The bounds below are those that drift is measured against; they are defined
here and nowhere else.

A metric of an update is measured on the update's minibatch *before* its optimiser step, as the mean
over unmasked tokens, one number per run: at staleness 0 both policies are equal and every drift is 0.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

__all__ = ["BAND", "CLIP", "DELTA", "METRICS", "Better", "Metric", "metric"]

#: Distances from 1 of the clip range that drift is measured against: a ratio is inside from
#: ``1 - CLIP[0]`` to ``1 + CLIP[1]``, whatever an objective clips to (arXiv:1707.06347).
CLIP = (0.2, 0.2)
#: Distances from 1 of the paper's band on the entropy ratio (arXiv:2512.05591).
BAND = (0.05, 0.05)
#: Nats of exact KL above which a token has left the trust region.
DELTA = 0.01

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: in the records, such as ``drift/kl_exact``; it says what is measured, and how.
        label: in tables, axes and sentences.
        unit: of the stored number.
        definition: what exactly is measured, in a sentence or two.
        equation: the same in LaTeX, where it has one.
        estimator: how the number comes about: exact, estimated from the sampled action, counted.
        better: which direction is better; None where neither is.
        shown: unit in tables and figures, where it is not the stored one.
        scale: shown value divided by stored value.
        where: table of the records that holds it.
    """

    name: str
    label: str
    unit: str
    definition: str
    equation: str = ""
    estimator: str = ""
    better: Better | None = None
    shown: str = ""
    scale: float = 1.0
    where: str = "metrics"

    @property
    def heading(self) -> str:
        """Label and shown unit, as a column or an axis is headed.

        >>> metric("drift/tv").heading
        'total variation (%)'
        """
        return f"{self.label} ({self.shown})" if self.shown else self.label


def _read() -> Iterator[Metric]:
    text = files(__package__).joinpath("metrics.toml").read_text(encoding="utf-8")
    for where, entries in tomllib.loads(text).items():
        for name, entry in entries.items():
            yield Metric(name, where=where, **entry)


#: By name.
METRICS: dict[str, Metric] = {m.name: m for m in _read()}


def metric(name: str) -> Metric:
    """Look a metric up; a run's ``mean/<metric>`` is that metric.

    Raises:
        KeyError: no metric of that name.
    """
    return METRICS.get(name) or METRICS[name.removeprefix("mean/")]
