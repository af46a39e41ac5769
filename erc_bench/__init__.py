"""erc-bench: did the policy update stay in its trust region?

>>> from erc_bench import EntropyRatio, Objective, PPOClip
>>> erc_dapo = Objective(PPOClip(0.2, 0.28)).gated(EntropyRatio(0.05, 0.05))

A name is imported when it is first used: the command line's help and the objectives alone, as an LLM
trainer's workers use them, do not wait for the whole suite.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

    __version__: str

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

#: Where each name lives.
_HOMES = {
    "erc_bench.api": ("figures", "report", "run", "summary"),
    "erc_bench.batch": ("TokenBatch",),
    "erc_bench.errors": ("InputError",),
    "erc_bench.objectives": (
        "GPPO", "EntropyRatio", "Objective", "PPOClip", "Reinforce", "TokenMean", "make",
    ),
    "erc_bench.records": ("Results",),
    "erc_bench.trainer": ("TrainConfig",),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("erc-bench")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
