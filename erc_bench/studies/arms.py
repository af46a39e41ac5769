"""Arms: what a person types, such as ``erc-dapo:band=0.1``, is parsed here once, into a recipe and overrides.

All other code works with :class:`Arm`, and with :class:`StoredArm` once an arm has been written into a
manifest. Labels are for people to read, and nothing parses them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from erc_bench.core.errors import InputError
from erc_bench.core.naming import PLACEBO
from erc_bench.objectives import Objective, Recipe, find, make, recipe
from erc_bench.training.config import PER_PART, PER_RUN, TrainConfig

__all__ = ["Arm", "StoredArm", "gated_pairs", "parse", "stored_arm", "stored_arms", "table"]

#: Settings of the trainer that an arm can have for itself.
OWN = (*PER_RUN, *PER_PART)
#: Those of them that are whole numbers.
WHOLE = tuple(name for name in OWN if isinstance(TrainConfig.settings()[name].default, int))


@dataclass(frozen=True)
class Arm:
    """One objective at one setting of its hyperparameters.

    Attributes:
        label: its name in the records.
        recipe: the objective and how it is used.
        overrides: parameters of the recipe, or settings of the trainer named in ``PER_RUN`` and
            ``PER_PART``, that differ from the defaults.
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
        """The overrides of the recipe's parameters."""
        return {k: v for k, v in self.overrides.items() if k not in OWN}

    @property
    def settings(self) -> dict[str, Any]:
        """The overrides of the trainer's settings."""
        return {k: v for k, v in self.overrides.items() if k in OWN}

    @property
    def shape(self) -> dict[str, Any]:
        """The overrides that all runs of one part must share."""
        return {k: v for k, v in self.overrides.items() if k in PER_PART}

    @property
    def axes(self) -> tuple[str, ...]:
        """What a grid can vary: settings of the trainer, pairs such as ``band``, and parameters."""
        names = self.recipe.parameters
        return (*OWN, *(n.removesuffix("_low") for n in names if n.endswith("_low")), *names)

    def at(self, point: Mapping[str, float]) -> Arm:
        """The arm at a point of a grid, which is appended to its label.

        >>> parse("erc-dapo").at({"band": 0.1, "epochs": 2}).label
        'erc-dapo:band=0.1,epochs=2'
        """
        if not point:
            return self
        written = ",".join(f"{k}={v:g}" if k in WHOLE else f"{k}={v!r}" for k, v in point.items())
        label = f"{self.label},{written}" if self.overrides else f"{self.recipe.name}:{written}"
        return replace(self.changed(point), label=label)

    def changed(self, settings: Mapping[str, float]) -> Arm:
        """The arm under the same label with some settings changed; ``band`` stands for a pair."""
        overrides = dict(self.overrides)
        for key, value in settings.items():
            whole = key in WHOLE and float(value).is_integer()  # the plan refuses other numbers
            for name in self.spelled_out(key):
                overrides[name] = int(value) if whole else value
        return replace(self, overrides=overrides)

    def spelled_out(self, key: str) -> tuple[str, ...]:
        """The recipe's parameters that a key names: ``band`` means ``band_low`` and ``band_high``."""
        pair = (f"{key}_low", f"{key}_high")
        names = self.recipe.parameters
        return pair if pair[0] in names and key not in names else (key,)

    def with_band(self, band: float | None) -> Arm:
        """The arm with this band, unless its recipe has no band or the arm names its own."""
        names = self.spelled_out("band")
        if band is None or names == ("band",) or {*names} & {*self.overrides}:
            return self
        return self.changed({"band": band})

    def grid(self, axes: Mapping[str, Sequence[float]]) -> Iterator[Arm]:
        """The arm at every point of the grid; axes that it does not have are left out."""
        own = {key: values for key, values in axes.items() if key in self.axes}
        for point in itertools.product(*own.values()):
            yield self.at(dict(zip(own, point, strict=True)))

    def described(self) -> dict[str, Any]:
        """Its entry in a manifest without the overrides: the recipe, its base and its composition."""
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
    """An arm as a manifest describes it.

    Attributes:
        label: its name in the records.
        recipe: name of its recipe; the label, if the manifest names none.
        base: name of the gateless recipe that it is built on; its own name if it has no gate.
        gates: types of its gates; of a placebo, ``Placebo``.
        band: ``(low, high)`` of its gate on the entropy ratio, or None without such a gate.
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
        """Whether its only gate is ERC's, which drops every token outside the band."""
        return self.gates == ("EntropyRatio",)

    @property
    def control_of(self) -> str | None:
        """The recipe whose placebo it is; None: it is none.

        >>> stored_arm("placebo-erc-dapo").control_of
        'erc-dapo'
        """
        is_control = self.recipe.startswith(PLACEBO)
        return self.recipe.removeprefix(PLACEBO) if is_control else None

    @property
    def point(self) -> dict[str, Any]:
        """The overrides other than the band, which an arm shares with the base it is compared with."""
        return {k: v for k, v in self.overrides.items() if k not in ("band_low", "band_high")}


class StoredArms(dict[str, StoredArm]):
    """Arms by label; a label that the manifest does not describe is taken for the name of a recipe."""

    def __missing__(self, label: str) -> StoredArm:
        return stored_arm(label)


def stored_arms(config: Mapping[str, Any], experiment: str) -> StoredArms:
    """The arms of an experiment by label, from a results folder's configuration.

    What a manifest leaves out, as that of imported logs does, is taken from the recipe of that name.
    """
    entries = table(table(table(config, "experiments"), experiment), "objectives")
    return StoredArms({str(label): stored_arm(str(label), e) for label, e in entries.items()})


def stored_arm(label: str, entry: Any = None) -> StoredArm:
    """One arm from its entry in the manifest; without an entry, the label is taken for a recipe's name."""
    entry = entry if isinstance(entry, Mapping) else {}
    name = str(entry.get("recipe", label))
    try:
        known = find(name)
    except InputError:  # a stranger's label may look like names that cannot be combined
        known = None
    spec = entry.get("spec")
    if not isinstance(spec, Mapping) or not isinstance(spec.get("gates"), list):
        spec = known.objective.spec() if known is not None else {"gates": []}
    gates = [gate for gate in spec["gates"] if isinstance(gate, Mapping)]
    return StoredArm(
        label=label,
        recipe=name,
        base=entry.get("base", known.base if known is not None else None) if gates else name,
        gates=tuple(str(gate.get("type")) for gate in gates),
        band=next(filter(None, map(_band, gates)), None),
        overrides=table(entry, "overrides"),
    )


def table(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The table under a key of a manifest; empty if something else stands there."""
    found = content.get(key)
    return found if isinstance(found, Mapping) else {}


def _band(gate: Mapping[str, Any]) -> tuple[float, float] | None:
    """``(low, high)`` of a stored gate on the entropy ratio; None for other gates."""
    if gate.get("type") not in ("EntropyRatio", "DirectionalEntropyRatio"):
        return None
    return float(gate["low"]), float(gate["high"])


def gated_pairs(arms: Iterable[StoredArm]) -> list[tuple[str, str]]:
    """Labels of each pair of an arm without a gate and an arm with an entropy band on the same base.

    The two have the same settings apart from the band. Pairs keep the order of the arms.

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
