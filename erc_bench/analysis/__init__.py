"""From records to numbers: intervals over seeds, the scorecard, paired comparisons, tables."""

from erc_bench.analysis.scorecard import (
    MEASURES,
    NOTE,
    Contrast,
    Measure,
    out_of_band_to_bound,
    paired,
    per_seed,
    summary,
)
from erc_bench.analysis.stats import Interval, mean_interval, paired_difference, ratio_interval
from erc_bench.analysis.tables import as_markdown, as_rich, format_interval

__all__ = [
    "MEASURES",
    "NOTE",
    "Contrast",
    "Interval",
    "Measure",
    "as_markdown",
    "as_rich",
    "format_interval",
    "mean_interval",
    "out_of_band_to_bound",
    "paired",
    "paired_difference",
    "per_seed",
    "ratio_interval",
    "summary",
]
