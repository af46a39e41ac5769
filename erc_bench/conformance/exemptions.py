"""Rules that this project's own objectives do not claim to keep, and why; reports print the reasons."""

from __future__ import annotations

from collections.abc import Mapping

from erc_bench.objectives import (
    ClipCovariance,
    CovarianceKL,
    HighEntropy,
    Objective,
    Placebo,
    ProbabilityShift,
)

__all__ = ["exemptions_of"]

_SELECTION = "it compares the tokens of a batch, so a part of it selects others (over_batch)"
_TOP = "it trains only the tokens of highest entropy (arXiv:2506.01939)"
_DRAWN = (
    "it drops a few tokens of high covariance, drawn by the order of the batch (arXiv:2505.22617)"
)
_RANDOM = "it drops tokens at random, as many as another gate would (a control)"
_COVARIANCE = (
    "it selects by the covariance of A and log pi, which changes with A (arXiv:2505.22617)"
)

_LEADS_BACK = "its penalty leads back what has left the region of DPPO (arXiv:2606.09821 Table 1)"
_CURVED = "its penalty curves the loss by the sampler's own ratio (arXiv:2606.09821 eq. 8)"

#: Reasons by property, for objectives that have a piece of the type.
_OF_PIECES: Mapping[type, Mapping[str, str]] = {
    HighEntropy: {
        "gradient_exists": _TOP,
        "on_policy_gradient": _TOP,
        "gate_band": _TOP,
        "gate_direction": _TOP,
    },
    ClipCovariance: {
        "advantage_scale": _COVARIANCE,
        "gradient_exists": _DRAWN,
        "on_policy_gradient": _DRAWN,
        "permutation": _DRAWN,
    },
    Placebo: {"permutation": _RANDOM, "gate_band": _RANDOM, "gate_direction": _RANDOM},
    CovarianceKL: {"advantage_scale": _COVARIANCE, "advantage_sign": _COVARIANCE},
    ProbabilityShift: {"advantage_sign": _LEADS_BACK, "rollout_weight": _CURVED},
}


def exemptions_of(objective: Objective) -> dict[str, str]:
    """Reasons by property; a reason is used only if the property fails.

    >>> from erc_bench.objectives import make
    >>> exemptions_of(make("kl-cov"))["advantage_sign"]
    'it selects by the covariance of A and log pi, which changes with A (arXiv:2505.22617)'
    >>> exemptions_of(make("erc-dapo"))
    {}
    """
    found: dict[str, str] = {}
    for piece in (*objective.gates, *objective.regularizers):
        if getattr(piece, "over_batch", False):
            found["micro_batches"] = found["clip_denominator"] = _SELECTION
        for kind, reasons in _OF_PIECES.items():
            if isinstance(piece, kind):
                found |= reasons
    return found
