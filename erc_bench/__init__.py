"""erc-bench: did the policy update stay in its trust region?

>>> from erc_bench import EntropyRatio, Objective, PPOClip
>>> erc_dapo = Objective(PPOClip(0.2, 0.28)).gated(EntropyRatio(0.05, 0.05))

A name is imported when it is first used: the command line's help and the objectives alone, as an LLM
trainer's workers use them, do not wait for the whole suite.
"""

from __future__ import annotations

import sys
from importlib import import_module, metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from erc_bench.core.lazy import lazily

if TYPE_CHECKING:
    from erc_bench.api import figures, report, run, summary
    from erc_bench.core.batch import TokenBatch
    from erc_bench.core.errors import InputError
    from erc_bench.objectives import (
        GPPO,
        EntropyRatio,
        Objective,
        PPOClip,
        Reinforce,
        TokenMean,
        make,
    )
    from erc_bench.studies.records import Results
    from erc_bench.training import TrainConfig

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
    "api": ("figures", "report", "run", "summary"),
    "core": ("advantages", "batch", "drift", "errors", "large_vocabulary", "metrics", "numerics"),
    "core.batch": ("TokenBatch",),
    "core.errors": ("InputError",),
    "objectives": (
        "GPPO",
        "EntropyRatio",
        "Objective",
        "PPOClip",
        "Reinforce",
        "TokenMean",
        "make",
    ),
    "studies.records": ("Results",),
    "training": ("TrainConfig",),
}
#: Modules by the names they had in 0.1, and where they are now. Code that imports them keeps working.
_MOVED = {
    "erc_bench.advantages": "erc_bench.core.advantages",
    "erc_bench.batch": "erc_bench.core.batch",
    "erc_bench.drift": "erc_bench.core.drift",
    "erc_bench.errors": "erc_bench.core.errors",
    "erc_bench.experiments": "erc_bench.studies",
    "erc_bench.large_vocabulary": "erc_bench.core.large_vocabulary",
    "erc_bench.numerics": "erc_bench.core.numerics",
    "erc_bench.policies": "erc_bench.training.policies",
    "erc_bench.records": "erc_bench.studies.records",
    "erc_bench.statistics": "erc_bench.analysis.statistics",
    "erc_bench.trainer": "erc_bench.training",
}


_find = lazily(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    return metadata.version("erc-bench") if name == "__version__" else _find(name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Moved(MetaPathFinder, Loader):
    """Finds a module under its former name; both names are one module, not two copies."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if self._now(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._now(spec.name))
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own  # the import system has just written the former name there

    def _now(self, name: str) -> str:
        for former, now in _MOVED.items():
            if name == former or name.startswith(f"{former}."):
                return now + name.removeprefix(former)
        return ""


sys.meta_path.insert(0, _Moved())
