"""The bounds that an experiment's drift was measured against, read back from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from erc_bench.core.metrics import BAND, CLIP, DELTA

__all__ = ["Bounds"]


@dataclass(frozen=True)
class Bounds:
    """Clip range and band as (low, high) distances from 1, and delta in nats."""

    clip: tuple[float, float] = CLIP
    band: tuple[float, float] = BAND
    delta: float = DELTA

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """Those of an experiment's entry in a manifest; what it does not say is the default."""
        default = cls()

        def pair(key: str, otherwise: tuple[float, float]) -> tuple[float, float]:
            value = entry.get(key)
            if not isinstance(value, Mapping):
                return otherwise
            return float(value.get("low", otherwise[0])), float(value.get("high", otherwise[1]))

        delta = entry.get("delta")
        return cls(
            pair("clip", default.clip),
            pair("band", default.band),
            float(delta) if isinstance(delta, int | float) else default.delta,
        )
