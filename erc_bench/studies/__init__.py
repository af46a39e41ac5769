"""Studies: scientific questions, the runs that answer them, and the records of those runs.

``questions`` has one file for each question, and ``base`` says what an experiment is. ``request``,
``arms``, ``planning`` and ``sizing`` turn a request into checked work, and ``runner`` carries it out.
``records``, ``digests`` and ``verifying`` store the results and check them.
"""

from typing import TYPE_CHECKING

from erc_bench.core.lazy import lazily

if TYPE_CHECKING:
    from erc_bench.studies.base import Experiment, register
    from erc_bench.studies.planning import Plan, grid_axis, plan, resolve, setting
    from erc_bench.studies.questions import EXPERIMENTS
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
    "execute",
    "grid_axis",
    "plan",
    "register",
    "resolve",
    "setting",
    "total_rollouts",
    "verify",
]

__getattr__ = lazily(
    __name__,
    {
        "base": ("Experiment", "register"),
        "planning": ("Plan", "grid_axis", "plan", "resolve", "setting"),
        "questions": ("EXPERIMENTS",),
        "request": ("TIERS", "Options", "Request", "Tier"),
        "runner": ("Backend", "execute", "total_rollouts"),
        "verifying": ("Verification", "verify"),
    },
)
