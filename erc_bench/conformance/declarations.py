"""What a loss declares of itself, read off its parameters: its gate's band and its clip's bounds."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

__all__ = ["declared_band", "declared_clip", "defaults", "numbers"]

#: Parameters ``<prefix>_low`` and ``<prefix>_high`` declare a band on the entropy ratio.
_BANDS = [(f"{p}_low", f"{p}_high") for p in ("band", "beta", "erc", "rho", "entropy")]
#: Pairs of parameters that declare a clip on the ratio; a missing second one is as the first.
_CLIPS = [
    (prefix + low, prefix + high)
    for low, high in (
        ("_low", "_high"),
        ("_lo", "_hi"),
        ("_min", "_max"),
        ("_lower", "_upper"),
        ("", "_higher"),
        ("", "_high"),
        ("", ""),
    )
    for prefix in (
        *("clip", "clip_ratio", "ratio_clip", "clip_eps", "eps_clip", "clip_epsilon", "clip_range"),
        *("cliprange", "pg_clip", "clip_param", "epsilon", "eps"),
    )
]


def defaults(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The values that parameters have where none is given."""
    return {name: p.default for name, p in parameters.items()}


def _declared(
    pairs: list[tuple[str, str]], *names: Mapping[str, Any]
) -> tuple[float, float] | None:
    """The first pair of numbers that the parameters declare; later mappings take precedence."""
    values = {name: value for mapping in names for name, value in mapping.items()}
    for low, high in pairs:
        if low in values and high in values:
            lower, upper = values[low], values[high]
            if found := numbers((lower, lower if upper is None else upper)):
                return found
    return None


def declared_band(*names: Mapping[str, Any]) -> tuple[float, float] | None:
    """The half-widths of a band on the entropy ratio; later mappings take precedence."""
    return _declared(_BANDS, *names)


def declared_clip(*names: Mapping[str, Any]) -> tuple[float, float] | None:
    """The distances of a clip's bounds from 1; numbers as small as 1e-6 keep a division from failing."""
    found = _declared(_CLIPS, *names)
    return found if found and min(found) > 1e-5 else None


def numbers(edges: tuple[object, ...]) -> tuple[float, float] | None:
    """The pair, where it is one of numbers."""
    match edges:
        case (float() | int() as low, float() | int() as high):
            return float(low), float(high)
    return None
