"""Estimates, intervals and tests from few runs: pure functions of arrays.

Scores come as *strata*, one array of runs per task, where a task is an experiment here. Runs are
resampled within their task, because tasks are fixed and seeds are not. The definitions are those of
Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", 2021,
arXiv:2108.13264 (rliable).
"""

from erc_bench.analysis.statistics.aggregates import interquartile_mean, mean_score
from erc_bench.analysis.statistics.bootstrap import (
    REPLICATES,
    Estimate,
    Seed,
    Strata,
    stratified_bootstrap,
)
from erc_bench.analysis.statistics.comparisons import (
    Profile,
    performance_profile,
    probability_of_improvement,
)
from erc_bench.analysis.statistics.intervals import (
    Interval,
    exact_share,
    mean_interval,
    mean_intervals,
    paired_difference,
    pooled_share,
    ratio_interval,
)
from erc_bench.analysis.statistics.pass_at_k import pass_at_k, pass_at_k_estimate
from erc_bench.analysis.statistics.significance import holm, sign_flip_test

__all__ = [
    "REPLICATES",
    "Estimate",
    "Interval",
    "Profile",
    "Seed",
    "Strata",
    "exact_share",
    "holm",
    "interquartile_mean",
    "mean_interval",
    "mean_intervals",
    "mean_score",
    "paired_difference",
    "pass_at_k",
    "pass_at_k_estimate",
    "performance_profile",
    "pooled_share",
    "probability_of_improvement",
    "ratio_interval",
    "sign_flip_test",
    "stratified_bootstrap",
]
