"""Arms: what a person types, such as ``erc-dapo:band=0.1``, becomes a recipe and its overrides, once.

Everything behind this file works with :class:`Arm`, and with :class:`StoredArm` once an arm has been
written into a manifest. A label is for reading only: nothing parses it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from erc_bench.core.errors import InputError
from erc_bench.objectives import RECIPES, Objective, Recipe, make, recipe
from erc_bench.training.config import PER_PART, PER_RUN, TrainConfig

__all__ = ["Arm", "StoredArm", "gated_pairs", "parse", "stored_arm", "stored_arms"]

#: Settings of the trainer that an arm can have for itself and that are whole numbers.
WHOLE = tuple(
    name for name in (*PER_RUN, *PER_PART) if isinstance(TrainConfig.settings()[name].default, int)
)


@dataclass(frozen=True)
class Arm:
    """One objective at one setting of its hyperparameters.

    Attributes:
        label: what it is called in the records.
        recipe: how the objective is used.
        overrides: parameters of the recipe, or settings in ``PER_RUN`` and ``PER_PART``, that differ
            from the defaults.
    """

    label: str
    recipe: Recipe
    overrides: Mapping[str, float]

    @property
    def objective(self) -> Objective:
        """The objective of this arm alone.

        Raises:
            InputError: an unknown parameter, or a value out of its range.
        """
        return make(self.recipe.name, **self.parameters)

    @property
    def parameters(self) -> dict[str, float]:
        """The overrides that are the recipe's."""
        return {k: v for k, v in self.overrides.items() if k not in (*PER_RUN, *PER_PART)}

    @property
    def settings(self) -> dict[str, Any]:
        """The overrides that are the trainer's."""
        return {k: v for k, v in self.overrides.items() if k in (*PER_RUN, *PER_PART)}

    @property
    def shape(self) -> dict[str, Any]:
        """The overrides that runs of one part must share."""
        return {k: v for k, v in self.overrides.items() if k in PER_PART}

    @property
    def axes(self) -> tuple[str, ...]:
        """What a grid can vary: settings of the trainer, pairs such as ``band``, parameters."""
        names = self.recipe.parameters
        pairs = [n.removesuffix("_low") for n in names if n.endswith("_low")]
        return (*PER_RUN, *PER_PART, *pairs, *names)

    def at(self, point: Mapping[str, float]) -> Arm:
        """The arm at a point of a grid; the point is written behind its label.

        >>> parse("erc-dapo").at({"band": 0.1, "epochs": 2}).label
        'erc-dapo:band=0.1,epochs=2'
        """
        if not point:
            return self
        written = ",".join(f"{k}={v:g}" if k in WHOLE else f"{k}={v!r}" for k, v in point.items())
        label = f"{self.label},{written}" if self.overrides else f"{self.recipe.name}:{written}"
        return replace(self.changed(point), label=label)

    def changed(self, settings: Mapping[str, float]) -> Arm:
        """The arm under the same label with some settings changed; ``band`` is short for a pair."""
        overrides = dict(self.overrides)
        for key, value in settings.items():
            whole = key in WHOLE and float(value).is_integer()  # any other number is refused later
            for name in self.spelled_out(key):
                overrides[name] = int(value) if whole else value
        return replace(self, overrides=overrides)

    def spelled_out(self, key: str) -> tuple[str, ...]:
        """``band`` is short for the recipe's ``band_low`` and ``band_high``; likewise ``clip``."""
        pair = (f"{key}_low", f"{key}_high")
        names = self.recipe.parameters
        return pair if pair[0] in names and key not in names else (key,)

    def with_band(self, band: float | None) -> Arm:
        """The arm with this band, where its recipe has one and the arm does not name its own."""
        names = self.spelled_out("band")
        if band is None or names == ("band",) or {*names} & {*self.overrides}:
            return self
        return self.changed({"band": band})

    def grid(self, axes: Mapping[str, Sequence[float]]) -> Iterator[Arm]:
        """The arm at every point of the grid along the axes that mean something to it."""
        own = {key: values for key, values in axes.items() if key in self.axes}
        for point in itertools.product(*own.values()):
            yield self.at(dict(zip(own, point, strict=True)))

    def described(self) -> dict[str, Any]:
        """Its entry in a manifest, without the overrides: recipe, base, gates and all that they do."""
        used, objective = self.recipe, self.objective
        return {
            "recipe": used.name,
            "base": used.base,
            "advantage": used.advantage,
            "dynamic_sampling": used.dynamic_sampling,
            "overlong_penalty": used.overlong_penalty,
            "spec": objective.spec(),
            "equation": used.equation,
            "source": used.source,
        }


def parse(text: str) -> Arm:
    """Parse ``name`` or ``name:parameter=value,...``.

    Raises:
        InputError: not of that form, an unknown name or parameter, or a value out of its range.

    >>> parse("erc-dapo:band=0.1").overrides
    {'band_low': 0.1, 'band_high': 0.1}
    """
    name, _, options = text.partition(":")
    settings: dict[str, float] = {}
    for item in filter(None, options.split(",")):
        key, equals, value = (word.strip() for word in item.partition("="))
        try:
            settings[key] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(
                f"objectives: {text!r}: {item!r} is not parameter=number (as in erc-dapo:band_low=0.1)"
            )
    arm = Arm(text, recipe(name), {}).changed(settings)
    assert arm.objective  # building it checks its parameters
    return arm


@dataclass(frozen=True)
class StoredArm:
    """An arm as records know it.

    Attributes:
        label: in the records.
        recipe: name of its recipe; the label, where the manifest tells none.
        base: name of the recipe without gates that it is built on; its own where it has no gate.
        gates: types of its gates.
        band: ``(low, high)`` of its gate on the entropy ratio; None: it has none.
        overrides: as in :class:`Arm`.
    """

    label: str
    recipe: str
    base: str | None
    gates: tuple[str, ...] = ()
    band: tuple[float, float] | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether its one gate is ERC's own: it drops every token outside the band."""
        return self.gates == ("EntropyRatio",)

    @property
    def point(self) -> dict[str, Any]:
        """The overrides that are not of its band: what it must share with its base."""
        return {k: v for k, v in self.overrides.items() if k not in ("band_low", "band_high")}


class StoredArms(dict[str, StoredArm]):
    """Arms by label; one that the manifest does not describe is what a recipe of that name would be."""

    def __missing__(self, label: str) -> StoredArm:
        return stored_arm(label)


def stored_arms(config: Mapping[str, Any], experiment: str) -> StoredArms:
    """The arms of an experiment by label, from a results folder's configuration.

    What the manifest leaves out, as those of imported logs do, is taken from the recipe of that name.
    """
    experiments = config.get("experiments")
    about = experiments.get(experiment) if isinstance(experiments, Mapping) else None
    entries = about.get("objectives") if isinstance(about, Mapping) else None
    entries = entries if isinstance(entries, Mapping) else {}
    return StoredArms({str(label): stored_arm(str(label), e) for label, e in entries.items()})


def stored_arm(label: str, entry: Any = None) -> StoredArm:
    """One arm from its entry in the manifest; without one, what a recipe of that name would be."""
    entry = entry if isinstance(entry, Mapping) else {}
    name = str(entry.get("recipe", label))
    known = RECIPES.get(name)
    spec = entry.get("spec")
    if not isinstance(spec, Mapping) or not isinstance(spec.get("gates"), list):
        spec = known.objective.spec() if known is not None else {"gates": []}
    gates = [gate for gate in spec["gates"] if isinstance(gate, Mapping)]
    overrides = entry.get("overrides")
    return StoredArm(
        label=label,
        recipe=name,
        base=entry.get("base", known.base if known is not None else None) if gates else name,
        gates=tuple(str(gate.get("type")) for gate in gates),
        band=next(filter(None, map(_band, gates)), None),
        overrides=overrides if isinstance(overrides, Mapping) else {},
    )


def _band(gate: Mapping[str, Any]) -> tuple[float, float] | None:
    """``(low, high)`` of a stored gate on the entropy ratio."""
    if gate.get("type") not in ("EntropyRatio", "DirectionalEntropyRatio"):
        return None
    return float(gate["low"]), float(gate["high"])


def gated_pairs(arms: Iterable[StoredArm]) -> list[tuple[str, str]]:
    """Labels of each (arm without a gate, arm with an entropy band on the same base), in the arms' order.

    Both have the same settings but for the band.

    >>> gated_pairs(map(stored_arm, ["erc-directional-dapo", "dapo", "grpo", "erc-gppo", "erc-dapo"]))
    [('dapo', 'erc-directional-dapo'), ('dapo', 'erc-dapo')]
    """
    present = list(arms)
    return [
        (base.label, other.label)
        for base in present
        for other in present
        if not base.gates
        and other.band is not None
        and other.base == base.recipe
        and other.point == base.point
    ]
