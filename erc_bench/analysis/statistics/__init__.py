"""Estimates, intervals and tests from few runs: pure functions of arrays.

Every interval here has a measured coverage (``tests/analysis/test_statistics_coverage.py``), also on
runs of which one in ten collapses. Several tasks come as *strata*, one vector of runs per task, where a
task is an experiment here: tasks are fixed, and seeds are not.
"""

from erc_bench.analysis.statistics.aggregates import (
    Profile,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)
from erc_bench.analysis.statistics.bootstrap import (
    REPLICATES,
    Estimate,
    Seed,
    Strata,
    stratified_mean,
)
from erc_bench.analysis.statistics.intervals import (
    LEAST,
    MEDIAN,
    Estimator,
    Interval,
    mean_estimator,
    mean_interval,
    median_interval,
    median_intervals,
    paired_difference,
    pooled_share,
    ratio_interval,
)
from erc_bench.analysis.statistics.pass_at_k import pass_at_k
from erc_bench.analysis.statistics.significance import holm, sign_flip_test

__all__ = [
    "LEAST",
    "MEDIAN",
    "REPLICATES",
    "Estimate",
    "Estimator",
    "Interval",
    "Profile",
    "Seed",
    "Strata",
    "holm",
    "interquartile_mean",
    "mean_estimator",
    "mean_interval",
    "median_interval",
    "median_intervals",
    "paired_difference",
    "pass_at_k",
    "performance_profile",
    "pooled_share",
    "probability_of_improvement",
    "ratio_interval",
    "sign_flip_test",
    "stratified_mean",
]
