"""Experiments: one file per scientific question.

``base`` says what an experiment is, ``plan`` resolves and checks what was asked for, ``runner``
carries it out and stores the records; every other file is a question.
"""

from erc_bench.studies.base import EXPERIMENTS, Experiment, register
from erc_bench.studies.plan import Plan, grid_axis, plan, resolve, setting
from erc_bench.studies.questions import (
    aggregation,
    arithmetic,
    baselines,
    beta_sweep,
    entropy_null,
    forking_tokens,
    mode_swap,
    phase_diagram,
    precision,
    rare_reward,
    reward_shift,
    rollout_mismatch,
    staleness,
    stress,
    unsampled_shift,
)
from erc_bench.studies.request import TIERS, Options, Request, Tier
from erc_bench.studies.runner import Backend, execute, total_rollouts
from erc_bench.studies.verifying import Verification, verify

__all__ = [
    "EXPERIMENTS",
    "TIERS",
    "Backend",
    "Experiment",
    "Options",
    "Plan",
    "Request",
    "Tier",
    "Verification",
    "aggregation",
    "arithmetic",
    "baselines",
    "beta_sweep",
    "entropy_null",
    "execute",
    "forking_tokens",
    "grid_axis",
    "mode_swap",
    "phase_diagram",
    "plan",
    "precision",
    "rare_reward",
    "register",
    "resolve",
    "reward_shift",
    "rollout_mismatch",
    "setting",
    "staleness",
    "stress",
    "total_rollouts",
    "unsampled_shift",
    "verify",
]
