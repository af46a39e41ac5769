"""Argument checks and probability helpers used to build the environments' tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def check_int(name: str, value: object, low: int, high: int | None = None) -> None:
    """Demand an integer with low <= value (<= high).

    Raises:
        ValueError: naming the field, the value and what is allowed.

    >>> check_int("length", 0, low=1)
    Traceback (most recent call last):
        ...
    ValueError: length must be an integer >= 1, got 0
    """
    is_int = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_int or int(value) < low or (high is not None and int(value) > high):  # type: ignore[call-overload]
        allowed = f">= {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be an integer {allowed}, got {value!r}")


def check_float(name: str, value: object, allowed: str, ok: Callable[[float], bool]) -> None:
    """Demand a finite real number for which ``ok`` holds; ``allowed`` says so in words.

    Raises:
        ValueError: naming the field, the value and what is allowed.

    >>> check_float("slip", 2.0, "in (0, 0.25]", lambda x: 0 < x <= 0.25)
    Traceback (most recent call last):
        ...
    ValueError: slip must be a number in (0, 0.25], got 2.0
    """
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    if not is_real or not math.isfinite(float(value)) or not ok(float(value)):  # type: ignore[arg-type]
        raise ValueError(f"{name} must be a number {allowed}, got {value!r}")


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
