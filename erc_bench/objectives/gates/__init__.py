"""Gates: which tokens keep their gradient.

``entropy`` looks at the entropy's ratio, ``divergence`` at distances between the whole
distributions, ``selection`` compares the tokens of a batch with each other.
"""

from __future__ import annotations

from erc_bench.objectives.gates.divergence import KLTrustRegion, SampledTV, TVTrustRegion
from erc_bench.objectives.gates.entropy import DirectionalEntropyRatio, EntropyRatio
from erc_bench.objectives.gates.selection import ClipCovariance, HighEntropy

__all__ = [
    "ClipCovariance",
    "DirectionalEntropyRatio",
    "EntropyRatio",
    "HighEntropy",
    "KLTrustRegion",
    "SampledTV",
    "TVTrustRegion",
]
