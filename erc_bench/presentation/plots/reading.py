"""Of all records, what the figures show: some columns, some experiments, few digits.

Figures are always drawn from this selection, also where whole records are at hand. Selecting twice
changes nothing, so a figure made from the stored selection equals the one made from the records.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from erc_bench.presentation.plots.exhibits import Needs, Whole
from erc_bench.presentation.plots.frames import Frames
from erc_bench.studies.records import KEYS, Results

#: Columns of every update that is kept.
METRICS = ("rollout", "update", "staleness", "tokens", "diverged")
#: Columns of every token that is kept; claims C2 and C5 are tested on them.
TOKENS = ("staleness", "log_ratio", "log_entropy_ratio", "kl_exact", "gate_dropped")
#: Binary digits kept of a column, 24 (float32) where it is not named: a relative error below 2e-5.
SIGNIFICANT_BITS = dict.fromkeys(
    ("grad/norm", "drift/entropy_new", "log_ratio", "log_entropy_ratio", "kl_exact", "entropy/old"),
    15,
)


def rounded(values: np.ndarray, bits: int = 24) -> np.ndarray:
    """Float32 values, held as float64, with at most ``bits`` significant binary digits.

    Rounds half to even; idempotent; NaN, infinities and zeros stay.

    >>> rounded(np.array([1 / 3]), 4).item(), rounded(np.array([1 / 3])).item()
    (0.34375, 0.3333333432674408)
    """
    mantissa, exponent = np.frexp(np.asarray(values, dtype=np.float32).astype(np.float64))
    found: np.ndarray = np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits)
    return found


def dropping(tokens: pd.DataFrame) -> pd.Series:
    """Tokens of the arms of which a gate dropped any token, experiment by experiment."""
    by_arm = tokens.groupby(["experiment", "objective"])["gate_dropped"]
    return by_arm.transform("any").astype(bool)


def read_frames(results: Results, needs: Iterable[Needs]) -> Frames:
    """Read what figures with these needs show of a results folder, in its order of rows."""
    needs = list(needs)
    runs = results.read("runs")
    panels = Frames(runs, pd.DataFrame(), pd.DataFrame(), results.config).panels
    here = [("experiment", "in", panels)]
    columns = dict.fromkeys((*KEYS, *METRICS, *(c for n in needs for c in n.metrics)))
    metrics = results.read("metrics", [*columns], where=here)
    columns = dict.fromkeys((*KEYS, *TOKENS, *(c for n in needs for c in n.tokens)))
    tokens = results.read("tokens", [*columns], where=here)
    tokens = tokens[tokens["staleness"] > 0]
    frames = Frames(runs, _few_digits(metrics), tokens, results.config)
    tokens = tokens[_of_needed_arms(frames, needs)].reset_index(drop=True)
    frames = replace(frames, tokens=_few_digits(tokens))
    frames = replace(frames, tokens=_only_needed_values(frames, needs))
    for whole in (n.whole for n in needs if n.whole is not None):
        frames = replace(frames, tokens=_with_whole_token(frames, results, whole))
    return frames


def _of_needed_arms(frames: Frames, needs: list[Needs]) -> pd.Series:
    used = dropping(frames.tokens)
    for select in (n.arms for n in needs if n.arms is not None):
        for experiment in frames.panels:
            here = frames.tokens["experiment"] == experiment
            used |= here & frames.tokens["objective"].isin(select(frames, experiment))
    return used


def _few_digits(table: pd.DataFrame) -> pd.DataFrame:
    fewer = {
        name: rounded(table[name].to_numpy(), SIGNIFICANT_BITS.get(name, 24))
        for name in table.columns
        if name not in KEYS and table[name].dtype.kind == "f"
    }
    return table.assign(**fewer)


def _only_needed_values(frames: Frames, needs: list[Needs]) -> pd.DataFrame:
    """The tokens with every value absent that no figure shows."""
    keep: dict[str, pd.Series] = {}
    for need in (n for n in needs if n.rows is not None):
        assert need.rows is not None
        rows = need.rows(frames)
        for name in need.tokens:
            keep[name] = keep[name] | rows if name in keep else rows
    tokens = frames.tokens
    return tokens.assign(**{n: tokens[n].where(rows) for n, rows in keep.items() if n in tokens})


def _with_whole_token(frames: Frames, results: Results, whole: Whole) -> pd.DataFrame:
    """The tokens with one token's large columns, which are read one experiment at a time."""
    for experiment in whole.experiments(frames):
        here = frames.tokens[frames.tokens["experiment"] == experiment]
        columns = ["objective", "staleness", *whole.columns]
        stored = results.read("tokens", columns, where=[("experiment", "==", experiment)])
        stored = stored[stored["staleness"] > 0]
        stored = stored[stored["objective"].isin(here["objective"].unique())]
        if not {*whole.columns} <= set(stored):
            continue
        here = here.assign(**{name: stored[name].to_numpy() for name in whole.columns})
        row = whole.row(replace(frames, tokens=here))
        if row is not None:
            tokens = frames.tokens.copy()
            for name in whole.columns:
                tokens[name] = pd.Series(None, index=tokens.index, dtype=object)
                tokens.at[row, name] = rounded(here.at[row, name])
            return tokens
    return frames.tokens
