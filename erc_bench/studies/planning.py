"""Turn a request into a checked plan of work, before any work starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import gymnasium as gym
from gymnasium.error import DependencyNotInstalled

import erc_envs
from erc_bench.core.errors import InputError
from erc_bench.core.metrics import CLIP
from erc_bench.core.validation import nearest, unknown
from erc_bench.plugins import load_environments
from erc_bench.studies.arms import Arm, parse
from erc_bench.studies.base import Experiment, experiment
from erc_bench.studies.questions import EXPERIMENTS
from erc_bench.studies.request import Options, Request, Tier
from erc_bench.studies.scores import gap_closed
from erc_bench.studies.sizing import ExperimentPlan
from erc_bench.training import TrainConfig

__all__ = ["Plan", "custom", "grid_axis", "plan", "resolve", "setting", "training_environment"]


@dataclass(frozen=True)
class Plan:
    """Work whose every part was checked."""

    experiments: tuple[ExperimentPlan, ...]
    tier: Tier
    seed: int

    def config(self) -> dict[str, Any]:
        """The resolved configuration, for the manifest."""
        experiments = {
            p.experiment.name: {
                "question": p.experiment.question,
                "expectation": p.experiment.expectation,
                "score": p.experiment.score_meaning,
                "regime": p.experiment.regime,
                "grid": p.grid,
                "environment": p.experiment.environment,
                "environment_options": p.experiment.environment_options,
                "seeds": p.seeds,
                "clip": {"low": CLIP[0], "high": CLIP[1]},
                "band": {"low": p.band[0], "high": p.band[1]},
                "delta": p.config.violation_delta,
                "train": p.config.flat(),
                "objectives": {
                    arm.label: {"overrides": arm.overrides, **arm.described()} for arm in p.arms
                },
            }
            for p in self.experiments
        }
        return {"tier": self.tier, "seed": self.seed, "experiments": _for_json(experiments)}


def _for_json(value: Any) -> Any:
    """The value with words in place of infinite numbers, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _for_json(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def training_environment(name: str, options: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Make an environment the trainer can use; ``TokenForks`` is short for ``erc/TokenForks-v0``.

    Raises:
        InputError: unknown id, bad option, or an environment without batched ``dynamics``.
    """
    known = [i for i in gym.registry if i.startswith("erc/")]
    short = {i.removeprefix("erc/").rsplit("-v", 1)[0]: i for i in known}
    full = short.get(name, name)
    if full not in gym.registry:
        known += load_environments()
    if full not in gym.registry:
        raise unknown("environment", name, dict.fromkeys([*short, *known]))
    try:
        made = gym.make(full, **options)
    except (TypeError, DependencyNotInstalled) as error:
        raise InputError(f"environment: {full}: {error}") from None
    if not made.has_wrapper_attr("dynamics"):
        raise InputError(
            f"environment: {full} has no `dynamics`; the population trainer needs batched "
            "transitions (see erc_envs.base.Dynamics)"
        )
    return made


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
        raise InputError(
            f"set: {text!r} is not setting=value of a known setting{nearest(name, defaults)} "
            f"(known: {', '.join(defaults)})"
        )
    kind = type(defaults[name])
    try:
        parsed = value if kind is str else kind(float(value))
        if kind is int and parsed != float(value):
            raise ValueError
    except (ValueError, OverflowError):
        raise InputError(f"set: {name}={value!r} is not a value of type {kind.__name__}") from None
    return name, parsed


def plan(experiments: Sequence[str | Experiment], **options: Unpack[Options]) -> Plan:
    """:func:`resolve` for a :class:`Request` of these experiments and options."""
    return resolve(Request(experiments=experiments, **options))


def resolve(asked: Request) -> Plan:
    """Look every name up and check everything; no work is done and nothing is written.

    Raises:
        InputError: names the field, the value and what is allowed.
    """
    assert erc_envs, EXPERIMENTS  # importing them registers environments and experiments
    chosen = [experiment(e) if isinstance(e, str) else e for e in asked.experiments]
    if asked.environment is not None:
        chosen = [custom(asked.environment)]
    _require_different("experiments", [e.name for e in chosen])
    try:
        resolved = tuple(_resolve(number, e, asked) for number, e in enumerate(chosen))
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(str(error)) from None
    return Plan(resolved, asked.tier, asked.seed)


def _require_different(what: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise InputError(f"{what}: {', '.join(names)}: each may be named once")


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


def _resolve(number: int, entry: Experiment, asked: Request) -> ExperimentPlan:
    config = _config(entry, asked)
    typed = entry.objectives if asked.objectives is None else tuple(asked.objectives)
    if not typed:
        raise InputError("objectives: none given; name at least one")
    _require_different("objectives", typed)
    arms = [parse(text) for text in typed]
    _require_axes(asked.grid, arms)
    grid = asked.grid or _default_grid(entry, asked.tier)
    arms = [point.with_band(asked.band) for arm in arms for point in arm.grid(grid)]
    for arm in arms:
        replace(config, **arm.settings)  # raises if a setting is out of its range
        assert arm.objective  # raises if a parameter is
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
        arms=tuple(arms),
        seeds=entry.seeds[asked.tier] if asked.seeds is None else asked.seeds,
        grid={key: tuple(values) for key, values in grid.items()},
    )


def _config(entry: Experiment, asked: Request) -> TrainConfig:
    """The experiment's settings, changed by its tier and then by what was asked for."""
    for name in asked.settings:
        if name not in TrainConfig.names():
            raise unknown("settings", name, TrainConfig.names())
    return replace(entry.config, **{**entry.tiers.get(asked.tier, {}), **asked.settings})


def _require_axes(grid: Mapping[str, Sequence[float]], arms: Sequence[Arm]) -> None:
    """Refuse an axis that no arm has."""
    known = dict.fromkeys(axis for arm in arms for axis in arm.axes)
    for key in grid:
        if key not in known:
            raise InputError(
                f"grid: {key!r} is no hyperparameter of these arms{nearest(key, known)} "
                f"(allowed: {', '.join(known)})"
            )


def _default_grid(entry: Experiment, tier: Tier) -> Mapping[str, Sequence[float]]:
    """The experiment's own grid, of which the smoke tier takes the ends of each axis."""
    if tier != "smoke":
        return entry.grid
    return {key: sorted({values[0], values[-1]}) for key, values in entry.grid.items()}
