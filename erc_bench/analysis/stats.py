"""Means over seeds with Student-t intervals, as :mod:`erc_bench.analysis.statistics` has them."""

from erc_bench.analysis.statistics.intervals import (
    Interval,
    mean_interval,
    paired_difference,
    ratio_interval,
)

__all__ = ["Interval", "mean_interval", "paired_difference", "ratio_interval"]
