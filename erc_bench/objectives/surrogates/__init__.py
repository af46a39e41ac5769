"""Per-token policy losses.

``token`` sees each token's own ratio, ``sequence`` a response's; ``wrappers`` hold another surrogate.
"""

from __future__ import annotations

from erc_bench.objectives.surrogates.sequence import GMPO, GSPO
from erc_bench.objectives.surrogates.token import (
    CEGPPO,
    CISPO,
    GPPO,
    SAPO,
    ImportanceWeighted,
    PPOClip,
    Reinforce,
)
from erc_bench.objectives.surrogates.wrappers import DualClip, TruncatedImportance

__all__ = [
    "CEGPPO",
    "CISPO",
    "GMPO",
    "GPPO",
    "GSPO",
    "SAPO",
    "DualClip",
    "ImportanceWeighted",
    "PPOClip",
    "Reinforce",
    "TruncatedImportance",
]
