"""The configurations in ``configs/`` as Hydra overrides and as fields of TRL's configuration."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import field
from importlib import resources
from typing import Any

from erc_bench.core.errors import InputError
from erc_bench.core.validation import NonNegative, checked_dataclass, unknown
from erc_bench.objectives import Objective, PositiveNLL, make

__all__ = [
    "MODELS",
    "OBJECTIVES",
    "SingleGPU",
    "as_overrides",
    "compose",
    "override",
    "trl_settings",
]

MODELS = ("1.5b", "7b")
OBJECTIVES = ("dapo", "erc-dapo", "gppo", "erc-gppo")


@checked_dataclass
class SingleGPU:
    """What the single-GPU run trains: the section ``[run]`` of ``configs/trl.toml``."""

    model: str
    objective: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    positive_nll: NonNegative = 0.0

    @property
    def built(self) -> Objective:
        """The objective, with the release's extra term where it has a weight."""
        made = make(self.objective, **self.parameters)
        return made.regularized(PositiveNLL(self.positive_nll)) if self.positive_nll else made


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("paper_repro") / "configs" / name).read_text("utf-8"))


def compose(
    model: str = "1.5b", objective: str = "erc-dapo", *, positive_nll: bool = True
) -> dict[str, Any]:
    """The overrides of one of the paper's runs: common, then the model's, then the objective's.

    Raises:
        InputError: an unknown model or objective.

    >>> found = compose("7b", "gppo", positive_nll=False)
    >>> found["+trainer.v1.erc_bench.objective"], found["+trainer.v1.erc_bench.positive_nll"]
    ('gppo', 0.0)
    """
    for name, value, allowed in (("model", model, MODELS), ("objective", objective, OBJECTIVES)):
        if value not in allowed:
            raise unknown(name, value, allowed)
    layers = _read("verl.toml")
    found = layers["common"] | layers["model"][model] | layers["objective"][objective]
    if not positive_nll:
        found["+trainer.v1.erc_bench.positive_nll"] = 0.0
    name = f"{model}-{objective}" + ("" if positive_nll else "-without-nll")
    return {**found, "trainer.experiment_name": name}


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Hydra's ``key=value``, each one argument of a command line.

    >>> as_overrides({"a.b": True, "c": ["x", "y"], "d": 1e-6})
    ['a.b=true', 'c=["x","y"]', 'd=1e-06']
    """
    compact = json.JSONEncoder(separators=(",", ":")).encode
    return [
        f"{key}={value if isinstance(value, str) else compact(value)}"
        for key, value in values.items()
    ]


def trl_settings() -> tuple[dict[str, Any], dict[str, Any]]:
    """The single-GPU run: the fields of :class:`SingleGPU`, and those of ``trl.GRPOConfig``."""
    found = _read("trl.toml")
    return found["run"], found["grpo"]


def override(text: str) -> tuple[str, Any]:
    """Parse ``key=value``; the value is JSON, or else a word.

    Raises:
        InputError: not of this form.

    >>> override("trainer.nnodes=4"), override("trainer.logger=console")
    (('trainer.nnodes', 4), ('trainer.logger', 'console'))
    """
    key, equals, value = text.partition("=")
    if not key.strip() or not equals:
        raise InputError(f"set: {text!r} must be key=value")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
