"""Probability helpers with which the environments build their tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def softmax(logits: FloatArray) -> FloatArray:
    """exp(z) / sum(exp(z)) over the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def entropy(probs: FloatArray) -> FloatArray:
    """-sum(p log p) in nats over the last axis; p must be positive.

    >>> float(entropy(np.array([0.5, 0.5])).round(4))
    0.6931
    """
    return np.asarray(-(probs * np.log(probs)).sum(axis=-1))


def solve_decreasing(
    function: Callable[[FloatArray], FloatArray], target: FloatArray, low: float, high: float
) -> FloatArray:
    """Elementwise x in [low, high] with function(x) = target, for decreasing functions.

    >>> float(solve_decreasing(lambda x: 1 / x, np.array(0.25), 1.0, 8.0).round(6))
    4.0
    """
    lower, upper = np.full_like(target, low), np.full_like(target, high)
    for _ in range(60):  # the bracket shrinks below float64 resolution
        middle = (lower + upper) / 2
        too_small = function(middle) > target
        lower = np.where(too_small, middle, lower)
        upper = np.where(too_small, upper, middle)
    return np.asarray((lower + upper) / 2)
