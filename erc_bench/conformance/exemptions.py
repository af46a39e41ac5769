"""What our own objectives do not claim to satisfy, and why; printed wherever it applies."""

from __future__ import annotations

from erc_bench.objectives import EntropyBonus, Objective

__all__ = ["exemptions_of"]

_BONUS = "the entropy bonus is a declared regularizer"


def exemptions_of(objective: Objective, name: str) -> dict[str, str]:
    """Reasons by property; a reason only matters where the property fails."""
    found: dict[str, str] = {}
    if any(isinstance(piece, EntropyBonus) for piece in objective.regularizers):
        found |= {"entropy_gradient": _BONUS, "gate_value": _BONUS}
    return found
