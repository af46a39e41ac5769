"""Random numbers as a pure function of (seed, run's seed index, purpose, rollout).

Nothing has a state that could be lost or shared: a run draws the same numbers alone, in any
population, on any worker and after a resume, and arms with the same seed index draw the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Purpose", "normals", "orders", "stream", "uniforms"]


class Purpose(IntEnum):
    """What a stream is for; each purpose has its own."""

    WEIGHTS = 0
    CORPUS = 1
    ROLLOUT = 2
    EVALUATION = 3
    TOKEN_SAMPLE = 4
    CRITIC = 5
    JITTER = 6
    ORDER = 7
    MINIBATCH = 8
    VERIFIER = 9


def stream(seed: int, index: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """The generator of one seed index for one purpose at one position."""
    key = (index, int(purpose), *position)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def uniforms(
    seed: int, indices: Sequence[int], purpose: Purpose, *position: int, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Uniforms in [0, 1) for every seed index, ``(len(indices), *shape)``; equal indices, equal rows."""

    def draw(generator: np.random.Generator, out: NDArray[np.float32]) -> None:
        generator.random(out=out, dtype=np.float32)

    return _per_index(draw, seed, indices, purpose, *position, shape=shape)


def normals(
    seed: int, indices: Sequence[int], purpose: Purpose, *position: int, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Standard normals in the same manner."""

    def draw(generator: np.random.Generator, out: NDArray[np.float32]) -> None:
        generator.standard_normal(out=out, dtype=np.float32)

    return _per_index(draw, seed, indices, purpose, *position, shape=shape)


def orders(
    seed: int, indices: Sequence[int], purpose: Purpose, *position: int, mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """A random numbering from 0 of the unmasked places along the last axis, ``(len(indices), ..., n)``.

    Masked places have the numbers after them. Equal random numbers keep the order of their places.
    """
    drawn = uniforms(seed, indices, purpose, *position, shape=mask.shape[1:])
    # Bits of numbers that are not negative sort as they do. With the place behind them all keys differ,
    # and sorting them is several times as fast as an argsort.
    bits = np.where(mask, drawn.view(np.int32), np.iinfo(np.int32).max).astype(np.int64)
    keys = np.sort(bits << 32 | np.arange(mask.shape[-1]), axis=-1)
    numbers = np.empty(mask.shape, dtype=np.float32)
    ascending = np.arange(mask.shape[-1], dtype=np.float32)
    np.put_along_axis(numbers, keys & 0xFFFFFFFF, np.broadcast_to(ascending, mask.shape), axis=-1)
    return numbers


def _per_index(
    draw: Callable[[np.random.Generator, NDArray[np.float32]], None],
    seed: int,
    indices: Sequence[int],
    purpose: Purpose,
    *position: int,
    shape: tuple[int, ...],
) -> NDArray[np.float32]:
    unique, inverse = np.unique(np.asarray(indices), return_inverse=True)
    drawn = np.empty((len(unique), *shape), dtype=np.float32)
    for row, index in zip(drawn, unique, strict=True):
        draw(stream(seed, int(index), purpose, *position), row)
    return (
        drawn
        if len(unique) == len(inverse) and (inverse[1:] > inverse[:-1]).all()
        else drawn[inverse]
    )
