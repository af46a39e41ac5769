"""Policy objectives: surrogate x gate -> aggregate + regularizers.

``base`` composes; ``surrogates``, ``gates``, ``aggregates`` and ``regularizers`` hold the pieces;
``recipes`` names compositions.
"""

from __future__ import annotations

from erc_bench.objectives.aggregates import (
    Aggregate,
    FixedHorizon,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    TokenMean,
)
from erc_bench.objectives.base import Denominators, Gate, Objective, Regularizer, Surrogate
from erc_bench.objectives.gates import EntropyRatio
from erc_bench.objectives.recipes import RECIPES, Recipe, make, recipe
from erc_bench.objectives.regularizers import EntropyBonus, ExactKL, KLEstimate, PositiveNLL
from erc_bench.objectives.surrogates import GPPO, DualClip, ImportanceWeighted, PPOClip, Reinforce

__all__ = [
    "GPPO",
    "RECIPES",
    "Aggregate",
    "Denominators",
    "DualClip",
    "EntropyBonus",
    "EntropyRatio",
    "ExactKL",
    "FixedHorizon",
    "Gate",
    "ImportanceWeighted",
    "KLEstimate",
    "Objective",
    "PPOClip",
    "PositiveNLL",
    "Recipe",
    "Regularizer",
    "Reinforce",
    "SequenceMeanTokenMean",
    "SequenceMeanTokenSum",
    "Surrogate",
    "TokenMean",
    "make",
    "recipe",
]
