"""Checks that stored records still follow from their stored configuration, by the digest of each run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erc_bench.core.errors import InputError
from erc_bench.objectives import recipe
from erc_bench.studies.arms import Arm
from erc_bench.studies.base import experiment
from erc_bench.studies.digests import Key
from erc_bench.studies.planning import Plan, custom, training_environment
from erc_bench.studies.records import DamageError, Results, first_difference, provenance
from erc_bench.studies.request import TIERS
from erc_bench.studies.runner import Backend, execute
from erc_bench.studies.sizing import ExperimentPlan
from erc_bench.training import TrainConfig

__all__ = ["Verification", "stored_plan", "verify"]


@dataclass(frozen=True)
class Verification:
    """The outcome of a comparison.

    Attributes:
        runs: number of runs that were compared.
        damaged: runs or files that are not what was written there, each with the reason.
        differing: runs that have another digest when they are computed again.
        undigested: number of runs without a stored digest, whose rows were compared instead.
        causes: how this computation differs from the stored one, the likeliest cause first.
    """

    runs: int
    damaged: tuple[str, ...]
    differing: tuple[str, ...]
    undigested: int
    causes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is damaged and nothing differs."""
        return not self.damaged and not self.differing


def stored_plan(results: Results) -> Plan:
    """The plan that a results folder was made from.

    Raises:
        InputError: its configuration is not that of a run, or names what this erc-bench does not have.
    """
    stored = results.config
    if "tier" not in stored:
        raise InputError(
            f"verify: {results.path} holds records that were imported; nothing can be run again"
        )
    try:
        if stored["tier"] not in TIERS:
            raise ValueError(f"tier {stored['tier']!r}")
        found = tuple(
            _experiment(number, name, about)
            for number, (name, about) in enumerate(stored["experiments"].items())
        )
        return Plan(found, stored["tier"], int(stored["seed"]))
    except InputError as error:
        raise InputError(f"verify: {results.path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"verify: {results.path}/manifest.json has no configuration of a run "
            f"({type(error).__name__}: {error})"
        ) from None


def _experiment(number: int, name: str, about: Mapping[str, Any]) -> ExperimentPlan:
    options = dict(about["environment_options"])
    entry = custom(about["environment"]) if name == "custom" else experiment(name)
    entry = replace(entry, environment=about["environment"], environment_options=options)
    defaults, settings = TrainConfig().flat(), {}
    for key, value in about["train"].items():
        if key not in defaults:
            raise InputError(f"setting {key!r} is unknown to this erc-bench")
        settings[key] = float(value) if isinstance(defaults[key], float) else value
    arms = tuple(
        Arm(label, recipe(arm["recipe"]), {k: _number(v) for k, v in arm["overrides"].items()})
        for label, arm in about["objectives"].items()
    )
    if not arms or about["seeds"] < 1:
        raise ValueError("no arms or seeds")
    for arm in arms:
        assert arm.objective  # building it checks its parameters
    return ExperimentPlan(
        number=number,
        experiment=entry,
        config=TrainConfig(**settings),
        environment=training_environment(entry.environment, options),
        arms=arms,
        seeds=int(about["seeds"]),
        grid={key: tuple(map(float, values)) for key, values in about["grid"].items()},
    )


def _number(value: Any) -> float:
    """An override as it was: whole numbers stay whole, and the word for infinity becomes a number."""
    return value if isinstance(value, int) else float(value)


def verify(
    folder: Path | str,
    *,
    workers: int = 1,
    backend: Backend = "loky",
    on_progress: Callable[[str, int], None] = lambda *_: None,
    on_plan: Callable[[Plan], None] = lambda _: None,
) -> Verification:
    """Run what a folder holds once more, elsewhere, and compare every run's digest with the stored one.

    Args:
        folder: finished records of a run, which are only read.
        workers: number of processes.
        backend: see :func:`erc_bench.studies.execute`.
        on_progress: see there.
        on_plan: called with the work before it begins.

    Raises:
        InputError: the folder holds no whole and finished records of a run.
    """
    results = Results.open(folder)
    if results.content is not None:
        raise InputError(f"verify: {folder} holds {results.content}, not whole records")
    plan = stored_plan(results)
    parts = [part.name for p in plan.experiments for part in p.parts]
    missing = [name for name in parts if not results.done(name)]
    if missing:
        raise InputError(
            f"verify: {folder} is not finished ({len(missing)} of {len(parts)} parts are missing); "
            "finish it with --resume"
        )
    on_plan(plan)
    with tempfile.TemporaryDirectory(prefix="erc-bench-verify-") as place:
        again = execute(
            plan, Path(place) / "again", workers=workers, backend=backend, on_progress=on_progress
        )
        return _compared(results, again, plan, parts)


def _compared(results: Results, again: Results, plan: Plan, parts: list[str]) -> Verification:
    damaged, differing = [], []
    runs = undigested = 0
    for part in parts:
        made = again.digests(part)
        runs += len(made)
        try:
            stored = results.digests(part)
        except DamageError as error:
            damaged.append(str(error).removeprefix("results: "))
            continue
        damaged += [
            f"{_named(key)}: is in {part}, but not in the configuration"
            for key in sorted(stored.keys() - made.keys(), key=repr)
        ]
        for key, (_, new) in made.items():
            told, held = stored.get(key, (None, None))
            undigested += told is None and held is not None
            if held is None:
                damaged.append(f"{_named(key)}: is missing from {part}")
            elif told is not None and told != held:
                damaged.append(f"{_named(key)}: its rows in {part} are not those that were written")
            elif held != new:
                differing.append(f"{_named(key)}: {new[:12]} now, {held[:12]} stored")
    causes = _causes(results, plan) if differing else ()
    return Verification(runs, tuple(damaged), tuple(differing), undigested, causes)


def _named(key: Key) -> str:
    name, _, objective, seed = key
    return f"{name}, {objective}, seed {seed}"


def _causes(results: Results, plan: Plan) -> tuple[str, ...]:
    """What changed since: packages, interpreter, machine, configuration and code."""
    then, now = results.provenance, provenance()
    packages, machine = then.get("packages") or {}, then.get("machine") or {}
    told = ("system", "architecture", "processor", "instructions", "native_engine")
    compared = [
        *((k, packages.get(k), v) for k, v in now["packages"].items() if k != "erc-bench"),
        ("Python", then.get("python"), now["python"]),
        *((k, machine[k], now["machine"][k]) for k in told if machine.get(k) is not None),
    ]
    found = [f"{name} was {old}, now {new}" for name, old, new in compared if old != new]
    described = first_difference(results.config, plan.config())
    if described:
        found.append(f"configuration as this erc-bench has it: {described}")
    if then.get("git_revision") != now["git_revision"]:
        found.append(f"revision was {then.get('git_revision')}, now {now['git_revision']}")
    return tuple(found)
