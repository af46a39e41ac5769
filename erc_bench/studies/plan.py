"""From names and options to a checked plan of work, before any work starts."""

from __future__ import annotations

import ast
import difflib
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import gymnasium as gym

import erc_envs
from erc_bench.core.errors import InputError
from erc_bench.objectives import Objective, Recipe, make, recipe
from erc_bench.plugins import load_environments
from erc_bench.studies.base import TIERS, Experiment, Tier, experiment
from erc_bench.studies.scores import gap_closed
from erc_bench.training import TrainConfig
from erc_bench.training.config import PER_PART, PER_RUN

__all__ = ["ArmPlan", "ExperimentPlan", "Part", "Plan", "custom", "plan", "training_environment"]

#: Reference ranges of the drift measures: the narrowest clip among the arms, and the paper's band.
CLIP = (0.2, 0.2)
BAND = (0.05, 0.05)
#: Tokens in one update of a whole population, about: larger ones no longer fit the cache.
UPDATE_TOKENS = 8192
#: Rough bytes of working memory that one population may take.
MEMORY_BUDGET = 2**30


#: Runs of one experiment at most.
MOST_RUNS = 1_000_000

#: Settings that an arm can have for itself and that are whole numbers.
WHOLE = tuple(
    n for n in (*PER_RUN, *PER_PART) if isinstance(TrainConfig.settings()[n].default, int)
)


@dataclass(frozen=True)
class ArmPlan:
    """One objective at one setting of its hyperparameters.

    Attributes:
        label: in the records.
        recipe: how the objective is used.
        overrides: parameters of the recipe, or settings in ``PER_RUN`` and ``PER_PART``, that differ
            from the defaults.
    """

    label: str
    recipe: Recipe
    overrides: Mapping[str, float]

    @property
    def objective(self) -> Objective:
        """The objective of this arm alone."""
        return make(self.recipe.name, **self.parameters)

    @property
    def parameters(self) -> dict[str, float]:
        """The overrides that are the recipe's."""
        return {k: v for k, v in self.overrides.items() if k not in (*PER_RUN, *PER_PART)}

    @property
    def shape(self) -> dict[str, Any]:
        """The overrides that runs of one part must share."""
        return {k: v for k, v in self.overrides.items() if k in PER_PART}


@dataclass(frozen=True)
class Part:
    """The piece of work that is done, stored and resumed as one population.

    Attributes:
        name: of its files.
        runs: (index of the arm, index of the seed) of each run.
    """

    name: str
    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ExperimentPlan:
    """An experiment with everything resolved; ``number`` is its place in the plan."""

    number: int
    experiment: Experiment
    config: TrainConfig
    environment: gym.Env[Any, Any]
    arms: tuple[ArmPlan, ...]
    seeds: int
    band: tuple[float, float]
    grid: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        name = self.experiment.name
        if not re.fullmatch(r"\w[\w.-]*", name):  # it becomes part of file names
            raise InputError(
                f"experiments: {name!r} is not allowed; must be letters, digits, _, - and ."
            )
        runs = self.seeds * len(self.arms)
        if runs > MOST_RUNS:
            raise InputError(
                f"seeds: {self.seeds} is not allowed; with {len(self.arms)} arms must be at most "
                f"{MOST_RUNS // len(self.arms)}"
            )
        actions: int = self.environment.get_wrapper_attr("dynamics").num_actions
        # a run's parameters, their gradients and two moments; its distributions over actions
        least = max(self._bytes_per_run, 32 * self.config.hidden * actions)
        if least > _machine_bytes():
            raise InputError(
                f"settings: one run of {self.experiment.name} needs at least {least / 2**30:,.0f} GiB, "
                f"this machine has {_machine_bytes() / 2**30:,.0f}; lower prompts, group_size, hidden "
                "or evaluation_episodes"
            )

    @property
    def _bytes_per_run(self) -> int:
        dynamics = self.environment.get_wrapper_attr("dynamics")
        rounds = self.config.generation_rounds
        evaluation = self.config.evaluation_episodes * dynamics.horizon
        held = max((1 + rounds) * self.tokens_per_rollout, evaluation)
        return int(8 * dynamics.num_actions * held)

    @property
    def tokens_per_rollout(self) -> int:
        """Tokens that one run generates for a rollout, before any dynamic sampling."""
        horizon: int = self.environment.get_wrapper_attr("dynamics").horizon
        return self.config.prompts * self.config.group_size * horizon

    @property
    def parts(self) -> list[Part]:
        """Runs in chunks that suit cache and memory; depends on the configuration alone.

        More runs in a population share the overhead of an operation until its arrays leave the
        cache, which is where ``UPDATE_TOKENS`` lies; memory bounds what is left.
        """
        by_shape: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
        for seed in range(self.seeds):
            for index, arm in enumerate(self.arms):
                by_shape.setdefault(tuple(sorted(arm.shape.items())), []).append((index, seed))
        found = []
        first = 0
        for shape, runs in by_shape.items():
            update = self.tokens_per_rollout / replace(self.config, **dict(shape)).minibatches
            size = max(1, int(min(UPDATE_TOKENS / update, MEMORY_BUDGET / self._bytes_per_run)))
            chunks = math.ceil(len(runs) / size)
            bounds = [len(runs) * i // chunks for i in range(chunks + 1)]
            found += [
                Part(self._part_name(first + a, first + b), tuple(runs[a:b]))
                for a, b in pairwise(bounds)
            ]
            first += len(runs)
        return found

    def _part_name(self, first: int, last: int) -> str:
        return f"{self.number:02d}-{self.experiment.name}-{first:05d}-{last:05d}"

    def config_of(self, part: Part) -> TrainConfig:
        """The configuration that the runs of a part share."""
        return replace(self.config, **self.arms[part.runs[0][0]].shape)

    def cost(self, part: Part) -> int:
        """Rough size of a part, for scheduling the largest first."""
        passes = 1 + self.config_of(part).epochs
        return len(part.runs) * self.config.rollouts * self.tokens_per_rollout * passes


@dataclass(frozen=True)
class Plan:
    """Checked work."""

    experiments: tuple[ExperimentPlan, ...]
    tier: Tier
    seed: int

    def config(self) -> dict[str, Any]:
        """The resolved configuration, for the manifest."""
        return {
            "tier": self.tier,
            "seed": self.seed,
            "experiments": {
                p.experiment.name: {
                    "question": p.experiment.question,
                    "expectation": p.experiment.expectation,
                    "score": p.experiment.score_meaning,
                    "regime": p.experiment.regime,
                    "grid": {
                        key: [v if math.isfinite(v) else str(v) for v in values]
                        for key, values in p.grid.items()
                    },
                    "environment": p.experiment.environment,
                    "environment_options": dict(p.experiment.environment_options),
                    "seeds": p.seeds,
                    "clip": {"low": CLIP[0], "high": CLIP[1]},
                    "band": _finite({"low": p.band[0], "high": p.band[1]}),
                    "delta": p.config.violation_delta,
                    "train": _finite(p.config.flat()),
                    "objectives": {
                        arm.label: {
                            "recipe": arm.recipe.name,
                            "overrides": _finite(arm.overrides),
                            "advantage": arm.recipe.advantage,
                            "dynamic_sampling": arm.recipe.dynamic_sampling,
                            "overlong_penalty": arm.recipe.overlong_penalty,
                            "spec": arm.objective.spec(),
                            "equation": arm.recipe.equation,
                            "source": arm.recipe.source,
                        }
                        for arm in p.arms
                    },
                }
                for p in self.experiments
            },
        }


def _machine_bytes() -> float:
    """Memory of this machine; infinite where it does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def _finite(settings: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: write it as a word."""
    return {
        k: str(v) if isinstance(v, float) and not math.isfinite(v) else v
        for k, v in settings.items()
    }


def training_environment(name: str, options: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Make an environment the trainer can use; ``TokenForks`` is short for ``erc/TokenForks-v0``.

    Raises:
        InputError: unknown id, bad option, or an environment without batched ``dynamics``.
    """
    known = [i for i in gym.registry if i.startswith("erc/")]
    short = {i.removeprefix("erc/").rsplit("-v", 1)[0]: i for i in known}
    full = short.get(name, name)
    if full not in gym.registry:
        known += [i for i in load_environments() if i not in known]
    if full not in gym.registry:
        close = difflib.get_close_matches(name, [*short, *known], n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"environment: {name!r} is unknown{hint} (known: {', '.join(known)})")
    try:
        made = gym.make(full, **options)
    except TypeError as error:
        raise InputError(f"environment: {full}: {error}") from None
    if not made.has_wrapper_attr("dynamics"):
        raise InputError(
            f"environment: {full} has no `dynamics`; the population trainer needs batched "
            "transitions (see erc_envs.base.Dynamics)"
        )
    return made


def _arm(text: str, label: str | None = None) -> ArmPlan:
    """Parse ``name`` or ``name:parameter=value,...`` into an arm."""
    name, _, options = text.partition(":")
    found = recipe(name)
    overrides: dict[str, float] = {}
    for item in filter(None, options.split(",")):
        key, equals, value = (word.strip() for word in item.partition("="))
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(
                f"objectives: {text!r}: {item!r} is not parameter=number (as in erc-dapo:band_low=0.1)"
            )
        for parameter in _spelled_out(found, key):
            overrides[parameter] = number
    arm = ArmPlan(label or text, found, overrides)
    for key in WHOLE:
        if overrides.get(key, 0.5).is_integer():  # what is not stays a float, which is refused
            overrides[key] = int(overrides[key])
    assert arm.objective  # building it checks its parameters
    return arm


def _spelled_out(found: Recipe, key: str) -> tuple[str, ...]:
    """``band`` is short for the recipe's ``band_low`` and ``band_high``; likewise ``clip``."""
    pair = (f"{key}_low", f"{key}_high")
    return pair if pair[0] in found.parameters and key not in found.parameters else (key,)


def _with_band(text: str, band: float | None) -> str:
    """Write a band into the specification of an arm whose recipe has one."""
    name, _, options = text.partition(":")
    if band is None or "band_low" not in recipe(name).parameters or "band" in options:
        return text
    return f"{name}:{options + ',' if options else ''}band={band!r}"


def _grid(texts: Sequence[str], grid: Mapping[str, Sequence[float]]) -> list[str]:
    """Every arm at every point of the grid, along the axes that mean something to it."""
    if not grid:
        return list(texts)
    expanded = []
    for text in texts:
        name, _, options = text.partition(":")
        found = recipe(name)
        axes = [
            [f"{key}={value:g}" if key in WHOLE else f"{key}={value!r}" for value in values]
            for key, values in grid.items()
            if key in (*PER_RUN, *PER_PART) or _spelled_out(found, key)[0] in found.parameters
        ]
        for point in itertools.product(*axes):
            items = [*filter(None, [options]), *point]
            expanded.append(f"{name}:{','.join(items)}" if items else name)
    return expanded


def _default_grid(entry: Experiment, tier: Tier) -> Mapping[str, Sequence[float]]:
    """The experiment's own grid; of the smoke tier the ends of each axis."""
    if tier != "smoke":
        return entry.grid
    return {key: sorted({values[0], values[-1]}) for key, values in entry.grid.items()}


def grid_axis(text: str) -> tuple[str, list[float]]:
    """Parse ``name=value,value,...``, an axis of a grid.

    Raises:
        InputError: not of that form.
    """
    name, _, values = text.partition("=")
    try:
        numbers = [float(value) for value in values.split(",")]
    except ValueError:
        raise InputError(f"grid: {text!r} is not name=number,number,...") from None
    return name, numbers


def setting(text: str) -> tuple[str, Any]:
    """Parse ``name=value`` for a field of :class:`TrainConfig`.

    Raises:
        InputError: not of that form, an unknown field, or a value of another type.
    """
    name, equals, value = text.partition("=")
    defaults = TrainConfig().flat()
    if not equals or name not in defaults:
        close = difflib.get_close_matches(name, defaults, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(defaults)}"
        raise InputError(f"set: {text!r} is not setting=value of a known setting; {hint}")
    kind = type(defaults[name])
    try:
        parsed = value if kind is str else kind(ast.literal_eval(value) if kind is int else value)
        if kind is int and parsed != ast.literal_eval(value):
            raise ValueError
    except (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError):
        raise InputError(f"set: {name}={value!r} is not a value of type {kind.__name__}") from None
    return name, parsed


def plan(
    experiments: Sequence[str | Experiment],
    *,
    environment: str | None = None,
    objectives: Sequence[str] | None = None,
    seeds: int | None = None,
    tier: Tier = "quick",
    seed: int = 0,
    band: float | None = None,
    settings: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[float]] | None = None,
) -> Plan:
    """Resolve and check everything; no work is done and nothing is written.

    Args:
        experiments: registered names, or experiments of your own.
        environment: train on this environment instead of, or beside, registered experiments.
        objectives: arms, ``name`` or ``name:parameter=value,...``; None: each experiment's own.
        seeds: seeds per arm; None: the tier's.
        tier: size of the work.
        seed: root of all randomness.
        band: half-width of ERC's band for every arm that has one, in place of 0.05.
        settings: fields of :class:`TrainConfig` to change.
        grid: values of ``learning_rate``, ``temperature``, ``minibatches``, ``epochs`` or recipe
            parameters (``band``, ``clip``, ...); every arm is trained at every point of the axes that
            it has.

    Raises:
        InputError: names the field, the value and what is allowed.
    """
    assert erc_envs  # importing it registers the environments
    if tier not in TIERS:
        raise InputError(f"tier: {tier!r} is unknown; allowed: {', '.join(TIERS)}")
    if seeds is not None and seeds < 1:
        raise InputError(f"seeds: {seeds} is not allowed; must be at least 1")
    if seed < 0:
        raise InputError(f"seed: {seed} is not allowed; must be at least 0")
    if band is not None and not band > 0:
        raise InputError(f"band: {band} is not allowed; must be greater than 0")
    chosen = [experiment(e) if isinstance(e, str) else e for e in experiments]
    if environment is not None:
        if chosen:
            raise InputError("environment: give either experiments or an environment, not both")
        chosen = [custom(environment)]
    if not chosen:
        raise InputError("experiments: none given; name some, or an environment")
    names = [e.name for e in chosen]
    if len(set(names)) < len(names):
        raise InputError(f"experiments: {', '.join(names)}: each may be named once")
    try:
        resolved = tuple(
            _resolve(number, e, objectives, seeds, tier, band, settings or {}, grid or {})
            for number, e in enumerate(chosen)
        )
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(str(error)) from None
    return Plan(resolved, tier, seed)


def custom(environment: str) -> Experiment:
    """The experiment of an environment that was named on its own."""
    made = training_environment(environment, {})
    spec = made.spec
    assert spec is not None
    return Experiment(
        name="custom",
        question=f"How do the objectives fare on {spec.id}?",
        environment=spec.id,
        expectation="none stated",
        score=gap_closed,
        score_meaning="share of the gap between the first policy's return and the optimum",
    )


def _resolve(
    number: int,
    entry: Experiment,
    objectives: Sequence[str] | None,
    seeds: int | None,
    tier: Tier,
    band: float | None,
    settings: Mapping[str, Any],
    grid: Mapping[str, Sequence[float]],
) -> ExperimentPlan:
    for name in settings:
        if name not in TrainConfig.names():
            raise InputError(
                f"settings: {name!r} is unknown; known: {', '.join(TrainConfig.names())}"
            )
    config = replace(entry.config, **{**entry.tiers.get(tier, {}), **settings})
    texts = list(entry.objectives if objectives is None else objectives)
    if not texts:
        raise InputError("objectives: none given; name at least one")
    if len(set(texts)) < len(texts):
        raise InputError(f"objectives: {', '.join(texts)}: each may be named once")
    wanted, grid = grid, grid or _default_grid(entry, tier)
    for key in wanted:
        names = {name for text in texts for name in recipe(text.partition(":")[0]).parameters}
        short = {n.removesuffix("_low") for n in names if n.endswith("_low")}
        if key not in {*names, *short, *PER_RUN, *PER_PART}:
            allowed = ", ".join([*PER_RUN, *PER_PART, *sorted(short), *sorted(names)])
            raise InputError(
                f"grid: {key!r} is no hyperparameter of these arms; allowed: {allowed}"
            )
    # Without a grid the label is what was asked for, whatever band it was given for all.
    built = [_arm(_with_band(text, band), label=text) for text in _grid(texts, grid)]
    for arm in built:
        own: dict[str, Any] = {k: v for k, v in arm.overrides.items() if k not in arm.parameters}
        replace(config, **own)  # checks them
        if arm.recipe.advantage != "gae" and config.group_size < 2:
            raise InputError(
                f"group_size: {config.group_size} is not allowed; must be at least 2 for the "
                f"{arm.recipe.advantage} advantage of {arm.label}"
            )
    return ExperimentPlan(
        number=number,
        experiment=entry,
        config=config,
        environment=training_environment(entry.environment, entry.environment_options),
        arms=tuple(built),
        seeds=entry.seeds[tier] if seeds is None else seeds,
        band=BAND if band is None else (band, band),
        grid={key: tuple(values) for key, values in grid.items()},
    )
