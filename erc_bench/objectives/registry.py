"""The registry of recipes: what a named objective is made of and trained with.

Recipes of other distributions (entry point group ``erc_bench.objectives``) join it on demand. Names of a
gate and a recipe make a recipe, ``erc-cispo``; so does ``placebo-`` before a recipe with a gate.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import metadata
from typing import Any

from erc_bench import plugins
from erc_bench.core import naming
from erc_bench.core.advantages import Advantage
from erc_bench.core.errors import InputError
from erc_bench.core.numerics import Hyper
from erc_bench.core.validation import unknown
from erc_bench.objectives.base import Gate, Objective
from erc_bench.objectives.gates.placebo import Placebo

__all__ = [
    "GATES",
    "RECIPES",
    "Recipe",
    "composed",
    "find",
    "gate",
    "load_plugins",
    "make",
    "recipe",
    "register",
]


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
        description: what it does, in one line.
    """

    name: str
    build: Callable[..., Objective]
    advantage: Advantage
    dynamic_sampling: bool
    overlong_penalty: bool
    source: str
    equation: str
    description: str = ""

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
    def lends_gate(self) -> bool:
        """Whether it is one gate on the bare importance-weighted gradient, so that its name is the gate's."""
        return len(self.objective.gates) == 1 and self.base == "pg-is"

    @property
    def data(self) -> tuple[Advantage, bool, bool]:
        """The settings that decide which tokens and advantages the objective is given."""
        return self.advantage, self.dynamic_sampling, self.overlong_penalty


@dataclass(frozen=True)
class _Gate:
    """A gate that can stand on any recipe: what it drops, the condition under which it keeps."""

    build: Callable[..., Gate]
    source: str

    def on(self, name: str, base: Recipe) -> Recipe:
        """The recipe with this gate."""
        own = inspect.signature(self.build).parameters
        twice = sorted(own.keys() & base.parameters.keys())
        if twice:
            raise InputError(f"objective: {name}: {twice[0]} names a parameter of both its parts")

        def build(**given: Hyper) -> Objective:
            mine = {key: given.pop(key) for key in own if key in given}
            return base.build(**given).gated(self.build(**mine))

        does = _first(self.build)
        parts = (own, inspect.signature(base.build).parameters)
        return replace(
            base,
            name=name,
            build=_signed(build, *parts),
            source=self.source,
            equation=naming.gated(base.name, _last(self.build)),
            description=f"{base.name} that {does[0].lower()}{does[1:]}",
        )


def _lent(lender: Recipe) -> _Gate:
    """The gate of a recipe that is nothing else."""

    def build(**given: Hyper) -> Gate:
        return lender.build(**given).gates[0]

    build.__doc__ = (
        f"""Drops the gradients that {lender.name} drops.\n\n{lender.name} keeps the token"""
    )
    build.__signature__ = inspect.signature(lender.build)  # type: ignore[attr-defined]
    return _Gate(build, lender.source)


def _placebo(name: str, of: Recipe) -> Recipe:
    """The recipe whose gates drop as many tokens at random."""
    if not of.objective.gates or isinstance(of.objective.gates[0], Placebo):
        raise InputError(f"objective: {name}: {of.name} has no gate whose placebo this could be")

    def build(**given: Hyper) -> Objective:
        made = of.build(**given)
        return replace(made, gates=(Placebo(made.gates),))

    return replace(
        of,
        name=name,
        build=_signed(build, inspect.signature(of.build).parameters),
        source="control of this project",
        equation=naming.placebo(of.equation),
        description=f"The control of {of.name}: drops as many tokens, chosen at random.",
    )


def _signed(
    build: Callable[..., Objective], *parts: Mapping[str, inspect.Parameter]
) -> Callable[..., Objective]:
    """A builder that takes the parameters of its parts."""
    parameters = [p for part in parts for p in part.values()]
    build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return build


#: Every recipe by name, in the order they are defined; without those that are made of names on demand.
RECIPES: dict[str, Recipe] = {}
#: Gates that can be put before the name of any recipe.
GATES: dict[str, _Gate] = {}


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
        data = (advantage, dynamic_sampling, overlong_penalty)
        RECIPES[name] = Recipe(name, build, *data, source, _last(build), _first(build))
        return build

    return add


def gate(prefix: str, *, source: str) -> Callable[[Callable[..., Gate]], Callable[..., Gate]]:
    """Register a gate that can be put before any recipe.

    The first line of its docstring says what it does, as in "Drops a token's gradient where ...", the
    last paragraph under which condition it keeps a token.
    """

    def add(build: Callable[..., Gate]) -> Callable[..., Gate]:
        GATES[prefix] = _Gate(build, source)
        return build

    return add


def _first(build: Callable[..., object]) -> str:
    """The first line of a builder's docstring."""
    return (inspect.getdoc(build) or "").partition("\n")[0]


def _last(build: Callable[..., object]) -> str:
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
    said = (_last(build), _first(build))
    return Recipe(entry.name, checked, "group-zscore", False, False, source, *said)


def find(name: str) -> Recipe | None:
    """The recipe of this name, made of the names in it if it is not registered; None: there is none.

    Raises:
        InputError: its parts cannot be combined.
    """
    return RECIPES.get(name) or composed(name)


def composed(name: str) -> Recipe | None:
    """A recipe made of the names of a gate, or of ``placebo``, and a recipe; None: it is no such name.

    A recipe that is nothing but a gate on ``pg-is`` names that gate: ``dppo-tv-gppo``.

    Raises:
        InputError: its parts cannot be combined.
    """
    gates = {**GATES, **{r.name: _lent(r) for r in RECIPES.values() if r.lends_gate}}
    for prefix in sorted(gates, key=len, reverse=True):
        base = find(name.removeprefix(f"{prefix}-")) if name.startswith(f"{prefix}-") else None
        if base is not None:
            return gates[prefix].on(name, base)
    of = find(name.removeprefix(naming.PLACEBO)) if name.startswith(naming.PLACEBO) else None
    return None if of is None else _placebo(name, of)


def recipe(name: str) -> Recipe:
    """Look a recipe up; ``erc-cispo`` is the gate ``erc`` on ``cispo``, ``placebo-erc-cispo`` its placebo.

    Raises:
        InputError: unknown name, or parts that cannot be combined.

    >>> recipe("dapo").advantage
    'group-zscore'
    >>> recipe("erc-cispo").equation
    'cispo if 1 - band_low < rho < 1 + band_high, else sg(cispo)'
    """
    found = find(name)
    if found is None:
        load_plugins()
        found = find(name)
    if found is None:
        made = [f"{part}-RECIPE" for part in (*GATES, naming.PLACEBO.rstrip("-"))]
        raise unknown("objective", name, [*RECIPES, *made])
    return found


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
