"""Rules that this project's own objectives do not claim to keep, and why; reports print the reasons."""

from __future__ import annotations

from collections.abc import Mapping

from erc_bench.objectives import ClipCovariance, CovarianceKL, EntropyBonus, HighEntropy, Objective

__all__ = ["exemptions_of"]

_BONUS = "the entropy bonus is a declared regularizer"
_SELECTION = "it compares the tokens of a batch, so a part of it selects others (over_batch)"
_TOP = "it trains only the tokens of highest entropy (arXiv:2506.01939)"
_COVARIANCE = (
    "it selects by the covariance of A and log pi, which changes with A (arXiv:2505.22617)"
)

#: Reasons by property, for objectives that have a piece of the type.
_OF_PIECES: Mapping[type, Mapping[str, str]] = {
    EntropyBonus: {"entropy_gradient": _BONUS, "gate_value": _BONUS},
    HighEntropy: {
        "gradient_exists": _TOP,
        "on_policy_gradient": _TOP,
        "gate_band": _TOP,
        "gate_direction": _TOP,
    },
    ClipCovariance: {"advantage_scale": _COVARIANCE},
    CovarianceKL: {"advantage_scale": _COVARIANCE, "advantage_sign": _COVARIANCE},
}


def exemptions_of(objective: Objective) -> dict[str, str]:
    """Reasons by property; a reason is used only if the property fails.

    >>> from erc_bench.objectives import make
    >>> exemptions_of(make("ppo-entropy"))["entropy_gradient"]
    'the entropy bonus is a declared regularizer'
    >>> exemptions_of(make("erc-dapo"))
    {}
    """
    found: dict[str, str] = {}
    for piece in (*objective.gates, *objective.regularizers):
        if getattr(piece, "over_batch", False):
            found["micro_batches"] = _SELECTION
        for kind, reasons in _OF_PIECES.items():
            if isinstance(piece, kind):
                found |= reasons
    return found
