"""erc-bench: did the policy update stay in its trust region?

>>> from erc_bench import EntropyRatio, Objective, PPOClip
>>> erc_dapo = Objective(PPOClip(0.2, 0.28)).gated(EntropyRatio(0.05, 0.05))
"""

from importlib import metadata

from erc_bench.api import figures, report, run, summary
from erc_bench.batch import TokenBatch
from erc_bench.errors import InputError
from erc_bench.objectives import (
    GPPO,
    EntropyRatio,
    Objective,
    PPOClip,
    Reinforce,
    TokenMean,
    make,
)
from erc_bench.records import Results
from erc_bench.trainer import TrainConfig

__version__ = metadata.version("erc-bench")

__all__ = [
    "GPPO",
    "EntropyRatio",
    "InputError",
    "Objective",
    "PPOClip",
    "Reinforce",
    "Results",
    "TokenBatch",
    "TokenMean",
    "TrainConfig",
    "figures",
    "make",
    "report",
    "run",
    "summary",
]
