"""Recipes that other distributions bring, under the entry point group ``erc_bench.objectives``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import metadata

from erc_bench import plugins
from erc_bench.core.errors import InputError
from erc_bench.objectives.base import Objective
from erc_bench.objectives.registry import RECIPES, Recipe

__all__ = ["load_plugins"]


@cache
def load_plugins() -> tuple[str, ...]:
    """Add every plug-in's recipe to ``RECIPES``, once; returns their names."""
    added = []
    for entry, loaded in plugins.discover(plugins.OBJECTIVES, RECIPES):
        if isinstance(loaded, Recipe):
            found = replace(loaded, name=entry.name)
        elif callable(loaded):
            found = _from_builder(entry, loaded)
        else:
            plugins.skipped(entry, f"{type(loaded).__name__} is neither a Recipe nor a function")
            continue
        RECIPES[entry.name] = found
        added.append(entry.name)
    return tuple(added)


def _from_builder(entry: metadata.EntryPoint, build: Callable[..., object]) -> Recipe:
    """A recipe of a bare builder: group advantages, its docstring's last paragraph the equation."""
    source = entry.dist.name if entry.dist else entry.value

    def checked(**overrides: object) -> Objective:
        made = build(**overrides)
        if not isinstance(made, Objective):
            raise InputError(
                f"objective: {entry.name} of {source} made a {type(made).__name__}, no Objective"
            )
        return made

    checked.__signature__ = inspect.signature(build)  # type: ignore[attr-defined]
    checked.__doc__ = inspect.getdoc(build)
    equation = " ".join((checked.__doc__ or "").split("\n\n")[-1].split())
    return Recipe(entry.name, checked, "group-zscore", False, False, source, equation)
