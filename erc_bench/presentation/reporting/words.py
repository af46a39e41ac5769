"""Pieces of sentences that several captions share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd

from erc_bench.analysis.numbers import ends, number, with_ends
from erc_bench.analysis.statistics import Interval, median_interval, paired_difference
from erc_bench.presentation.plots import Frames


class Words(NamedTuple):
    """What to look for in a figure, and what is drawn."""

    notice: str
    caption: str


#: The words of each figure by its topic: a function of the frames and of the table that is drawn.
WORDS: dict[str, Callable[[Frames, pd.DataFrame], Words]] = {}


def words(function: Callable[[Frames, pd.DataFrame], Words]) -> Callable[..., Words]:
    """Register a function for the figure whose topic is its name."""
    WORDS[function.__name__] = function
    return function


def median_of(values: pd.Series, scale: float = 1.0, unit: str = "") -> str:
    """Median over seeds with its interval, from one value per seed."""
    return with_ends(median_interval(values), scale, unit)


def interval_of(row: pd.Series) -> Interval:
    """The interval in a row of a figure's table."""
    return Interval(row["estimate"], row["low"], row["high"], row["n"])


def shown(row: pd.Series, scale: float = 1.0, unit: str = "") -> str:
    """Estimate and interval of a row of a figure's table."""
    return with_ends(interval_of(row), scale, unit)


def difference(row: pd.Series) -> str:
    """A difference in a row of a figure's table, with its sign and the ends of its interval."""
    text = number(row["estimate"], signed=True)
    if not math.isfinite(row["low"]):
        return text
    return f"{text} ({ends(row['low'], row['high'], signed=True)})"


def sign_of(low: float, high: float) -> int:
    """1 or -1 where an interval lies above or below 0, else 0."""
    return int(low > 0) - int(high < 0)


def clear_sign(base: pd.Series, other: pd.Series) -> int:
    """1 or -1 where ``other - base`` over shared seeds differs from 0 (95 % interval), else 0.

    >>> clear_sign(pd.Series([1.0, 1.2, 1.1] * 2), pd.Series([2.0, 2.1, 2.2] * 2))
    1
    """
    found = paired_difference(base, other)
    return sign_of(found.low, found.high)


def tally(signs: Sequence[int], what: str) -> str:
    """How often a paired difference was clear, in words.

    >>> tally([1, 0, 0], "pairs")
    'higher in 1, lower in 0 and unclear in 2 of 3 pairs'
    """
    high, low = sum(s > 0 for s in signs), sum(s < 0 for s in signs)
    unclear = len(signs) - high - low
    return f"higher in {high}, lower in {low} and unclear in {unclear} of {len(signs)} {what}"


def sentence_list(items: Sequence[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def counted(number: int, word: str) -> str:
    """A number with its noun: 1 seed, 3 seeds."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
