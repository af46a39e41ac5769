"""Policy objectives: surrogate x gate -> aggregate + regularizers.

``base`` composes; ``surrogates``, ``gates``, ``aggregates`` and ``regularizers`` hold the pieces;
``recipes`` names compositions, ``registry`` finds them.
"""

from __future__ import annotations

from erc_bench.objectives.aggregates import (
    Aggregate,
    FixedHorizon,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    TokenMean,
)
from erc_bench.objectives.base import (
    Adaptive,
    Denominators,
    Gate,
    Objective,
    Regularizer,
    Surrogate,
)
from erc_bench.objectives.gates.divergence import (
    KLTrustRegion,
    SampledKL,
    SampledTV,
    SequenceTrustRegion,
    TVTrustRegion,
)
from erc_bench.objectives.gates.entropy import DirectionalEntropyRatio, EntropyRatio
from erc_bench.objectives.gates.placebo import Placebo
from erc_bench.objectives.gates.rejection import RolloutRejection
from erc_bench.objectives.gates.selection import ClipCovariance, HighEntropy, SecondMoment
from erc_bench.objectives.recipes import RECIPES, Recipe, make, recipe
from erc_bench.objectives.registry import find
from erc_bench.objectives.regularizers import (
    AdaptiveKL,
    CovarianceKL,
    EntropyBonus,
    ExactKL,
    KLEstimate,
    PositiveNLL,
    ProbabilityShift,
    ProjectionKL,
)
from erc_bench.objectives.surrogates.projection import Projected
from erc_bench.objectives.surrogates.sequence import GMPO, GSPO, TOPR, VESPO
from erc_bench.objectives.surrogates.token import (
    CEGPPO,
    CISPO,
    GPPO,
    SAPO,
    BehaviourWeighted,
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
    "RECIPES",
    "SAPO",
    "TOPR",
    "VESPO",
    "Adaptive",
    "AdaptiveKL",
    "Aggregate",
    "BehaviourWeighted",
    "ClipCovariance",
    "CovarianceKL",
    "Denominators",
    "DirectionalEntropyRatio",
    "DualClip",
    "EntropyBonus",
    "EntropyRatio",
    "ExactKL",
    "FixedHorizon",
    "Gate",
    "HighEntropy",
    "ImportanceWeighted",
    "KLEstimate",
    "KLTrustRegion",
    "Objective",
    "PPOClip",
    "Placebo",
    "PositiveNLL",
    "ProbabilityShift",
    "Projected",
    "ProjectionKL",
    "Recipe",
    "Regularizer",
    "Reinforce",
    "RolloutRejection",
    "SampledKL",
    "SampledTV",
    "SecondMoment",
    "SequenceMeanTokenMean",
    "SequenceMeanTokenSum",
    "SequenceTrustRegion",
    "Surrogate",
    "TVTrustRegion",
    "TokenMean",
    "TruncatedImportance",
    "find",
    "make",
    "recipe",
]
