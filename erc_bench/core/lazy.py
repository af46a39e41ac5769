"""Packages whose names are imported when they are first used.

The command line's help, lists, and the workers of a language-model trainer must not wait for torch,
tables and plots that they do not use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

__all__ = ["lazily"]


def lazily(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package (PEP 562).

    Args:
        package: its name.
        homes: module, relative to the package, to the names that live in it; a name may be a module.
    """

    def found(name: str) -> Any:
        for module, names in homes.items():
            if name in names:
                home = import_module(f"{package}.{module}")
                return getattr(home, name, None) or import_module(f"{package}.{module}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return found
