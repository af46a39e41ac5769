"""Plug-ins: objectives and environments of other distributions, found by their entry points.

    [project.entry-points."erc_bench.objectives"]
    my-dapo = "my_package:my_dapo"            # a Recipe, or a function that returns an Objective

    [project.entry-points."erc_bench.environments"]
    my-envs = "my_package.envs"               # a module that registers Gymnasium ids, or a function

Plug-ins are loaded when a name is not known, and for ``erc-bench list``. A plug-in that cannot be
loaded, or whose name is taken, is left out with a warning that names its distribution.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Container, Iterator
from functools import cache
from importlib import metadata

import gymnasium as gym

__all__ = [
    "ENVIRONMENTS",
    "OBJECTIVES",
    "PluginWarning",
    "discover",
    "load_environments",
    "skipped",
]

OBJECTIVES = "erc_bench.objectives"
ENVIRONMENTS = "erc_bench.environments"


class PluginWarning(RuntimeWarning):
    """A plug-in was left out. The message names its distribution and the reason."""


def skipped(entry: metadata.EntryPoint, why: str) -> None:
    """Warn that a plug-in is left out."""
    found = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
    warnings.warn(f"plug-in {entry.name!r} of {found} is left out: {why}", PluginWarning, 2)


def discover(group: str, taken: Container[str]) -> Iterator[tuple[metadata.EntryPoint, object]]:
    """Load the entry points of a group whose names are free, and warn about the others."""
    seen: set[str] = set()
    for entry in sorted(metadata.entry_points(group=group), key=lambda e: e.name):
        if entry.name in taken or entry.name in seen:
            skipped(entry, "the name is taken")
            continue
        seen.add(entry.name)
        try:
            loaded = entry.load()
        except (Exception, SystemExit) as error:
            skipped(entry, _one_line(error))
        else:
            yield entry, loaded


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@cache
def load_environments() -> tuple[str, ...]:
    """Let every environment plug-in register its Gymnasium ids, and return the new ids.

    Plug-ins are loaded once, and ids that were registered before stay as they were.
    """
    importlib.import_module("erc_envs")
    before = dict(gym.registry)
    for entry, loaded in discover(ENVIRONMENTS, ()):
        if callable(loaded):
            try:
                loaded()
            except Exception as error:
                skipped(entry, _one_line(error))
        for name, spec in before.items():
            if gym.registry.get(name) is not spec:
                gym.registry[name] = spec
                skipped(entry, f"its environment {name} has a name that is taken")
    return tuple(name for name in gym.registry if name not in before)
