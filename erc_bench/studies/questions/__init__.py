"""One file for each scientific question; every file here registers its experiment."""

from importlib import import_module
from pkgutil import iter_modules

from erc_bench.studies.base import EXPERIMENTS

__all__ = ["EXPERIMENTS"]

for _module in sorted(iter_modules(__path__)):
    import_module(f"{__name__}.{_module.name}")
