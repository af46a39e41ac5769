"""Scores in [0, 1], one per run; a diverged run scores 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["entropy_kept", "gap_closed", "inside_band"]


def _failures_are_zero(score: pd.Series, runs: pd.DataFrame) -> pd.Series:
    return score.clip(0.0, 1.0).where(~runs["diverged"].astype(bool), 0.0)


def gap_closed(runs: pd.DataFrame) -> pd.Series:
    """Share of the way from the first policy's return to the optimum's.

    ``(final - initial) / (optimal - initial)``, clipped to [0, 1]: 0 if nothing was learnt or the
    policy got worse, 1 if it is optimal.
    """
    gap = runs["reward/optimal"] - runs["reward/initial"]
    return _failures_are_zero((runs["reward/final"] - runs["reward/initial"]) / gap, runs)


def entropy_kept(runs: pd.DataFrame) -> pd.Series:
    """How little the token entropy moved, in either direction.

    ``1 - |H_final - H_initial| / H_initial``, clipped to [0, 1]: 1 if it did not move at all, 0 if it
    vanished or doubled.
    """
    change = (runs["entropy/final"] - runs["entropy/initial"]).abs()
    return _failures_are_zero(1.0 - change / runs["entropy/initial"], runs)


def inside_band(runs: pd.DataFrame) -> pd.Series:
    """Share of the tokens of all updates whose entropy ratio lies inside the band."""
    return _failures_are_zero(1.0 - runs["mean/drift/out_of_band_fraction"], runs)
