"""One file for each scientific question: its ``EXPERIMENT`` is registered here."""

from importlib import import_module
from pkgutil import iter_modules

from erc_bench.studies.base import EXPERIMENTS, register

__all__ = ["EXPERIMENTS"]

for _module in sorted(iter_modules(__path__)):
    register(import_module(f"{__name__}.{_module.name}").EXPERIMENT)
