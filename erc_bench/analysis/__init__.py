"""Turns records into numbers: intervals over seeds, the scorecard, paired comparisons and tables."""

from erc_bench.analysis.numbers import estimate_text, interval_text
from erc_bench.analysis.scorecard import (
    MEASURES,
    NOTE,
    Contrast,
    Measure,
    collapses,
    out_of_band_to_bound,
    paired,
    per_seed,
    scores,
    summary,
)
from erc_bench.analysis.scores import Scores, improvements
from erc_bench.analysis.statistics import (
    Interval,
    mean_interval,
    median_interval,
    paired_difference,
    ratio_interval,
)
from erc_bench.analysis.tables import (
    as_markdown,
    as_rich,
    scores_as_markdown,
    scores_as_rich,
)

__all__ = [
    "MEASURES",
    "NOTE",
    "Contrast",
    "Interval",
    "Measure",
    "Scores",
    "as_markdown",
    "as_rich",
    "collapses",
    "estimate_text",
    "improvements",
    "interval_text",
    "mean_interval",
    "median_interval",
    "out_of_band_to_bound",
    "paired",
    "paired_difference",
    "per_seed",
    "ratio_interval",
    "scores",
    "scores_as_markdown",
    "scores_as_rich",
    "summary",
]
