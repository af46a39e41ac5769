"""The registry of recipes: what a named objective is made of and trained with.

Recipes of other distributions (entry point group ``erc_bench.objectives``) join it on demand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import metadata
from typing import Any

from erc_bench import plugins
from erc_bench.core.advantages import Advantage
from erc_bench.core.errors import InputError
from erc_bench.core.numerics import Hyper
from erc_bench.core.validation import unknown
from erc_bench.objectives.base import Objective

__all__ = ["RECIPES", "Recipe", "load_plugins", "make", "recipe", "register"]


@dataclass(frozen=True)
class Recipe:
    """An objective, and the data on which its paper trains it.

    Attributes:
        name: what the registry and the records call it.
        build: makes the objective; its keyword arguments are the recipe's parameters.
        advantage: the estimator of advantages.
        dynamic_sampling: whether only groups with different rewards are trained on (DAPO, eq. 11).
        overlong_penalty: whether DAPO's soft length penalty is added to rewards (eq. 13).
        source: the paper.
        equation: what is maximised, in one line.
    """

    name: str
    build: Callable[..., Objective]
    advantage: Advantage
    dynamic_sampling: bool
    overlong_penalty: bool
    source: str
    equation: str

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Names and defaults of the parameters."""
        return {k: p.default for k, p in inspect.signature(self.build).parameters.items()}

    @cached_property
    def objective(self) -> Objective:
        """Built with its defaults."""
        return self.build()

    @cached_property
    def base(self) -> str | None:
        """The name of the recipe that is this one without its gates, trained on the same data.

        A recipe without gates is its own base. None: no recipe is the base.

        >>> recipe("erc-dapo").base, recipe("dapo").base, recipe("clip-cov").base
        ('dapo', 'dapo', None)
        """
        if not self.objective.gates:
            return self.name
        return next(
            (
                r.name
                for r in RECIPES.values()
                if r.data == self.data and r.objective == self.objective.base
            ),
            None,
        )

    @property
    def data(self) -> tuple[Advantage, bool, bool]:
        """The settings that decide which tokens and advantages the objective is given."""
        return self.advantage, self.dynamic_sampling, self.overlong_penalty

    @property
    def description(self) -> str:
        """The first line of the builder's docstring."""
        return (inspect.getdoc(self.build) or "").partition("\n")[0]


#: Every recipe by name, in the order they are defined.
RECIPES: dict[str, Recipe] = {}


def register(
    name: str,
    *,
    source: str,
    advantage: Advantage = "group-zscore",
    dynamic_sampling: bool = False,
    overlong_penalty: bool = False,
) -> Callable[[Callable[..., Objective]], Callable[..., Objective]]:
    """Register a builder; the last paragraph of its docstring is the equation."""

    def add(build: Callable[..., Objective]) -> Callable[..., Objective]:
        RECIPES[name] = Recipe(
            name, build, advantage, dynamic_sampling, overlong_penalty, source, _equation(build)
        )
        return build

    return add


def _equation(build: Callable[..., object]) -> str:
    """The last paragraph of a builder's docstring, as one line."""
    return " ".join((inspect.getdoc(build) or "").split("\n\n")[-1].split())


@cache
def load_plugins() -> tuple[str, ...]:
    """Add the recipes of all plug-ins to ``RECIPES``, once; returns their names."""
    added = []
    for entry, loaded in plugins.discover(plugins.OBJECTIVES, RECIPES):
        if isinstance(loaded, Recipe):
            RECIPES[entry.name] = replace(loaded, name=entry.name)
        elif callable(loaded):
            RECIPES[entry.name] = _of_plugin(entry, loaded)
        else:
            plugins.skipped(entry, f"{type(loaded).__name__} is neither a Recipe nor a function")
            continue
        added.append(entry.name)
    return tuple(added)


def _of_plugin(entry: metadata.EntryPoint, build: Callable[..., object]) -> Recipe:
    """The recipe of a plug-in that is a bare builder; its advantages are relative to the group."""
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
    return Recipe(entry.name, checked, "group-zscore", False, False, source, _equation(build))


def recipe(name: str) -> Recipe:
    """Look a recipe up.

    Raises:
        InputError: unknown name.

    >>> recipe("dapo").advantage
    'group-zscore'
    """
    if name not in RECIPES:
        load_plugins()
    if name not in RECIPES:
        raise unknown("objective", name, RECIPES)
    return RECIPES[name]


def make(name: str, **overrides: Hyper) -> Objective:
    """Build a recipe's objective, with some of its parameters changed.

    Raises:
        InputError: unknown recipe or parameter, or a value out of its range.

    >>> make("erc-dapo", band_low=0.1).gates
    (EntropyRatio(low=0.1, high=0.05, eps=1e-08),)
    """
    found = recipe(name)
    for key in overrides:
        if key not in found.parameters:
            allowed = ", ".join(found.parameters) or "none"
            raise InputError(f"objective: {name} has no parameter {key!r} (allowed: {allowed})")
    return found.build(**overrides)
