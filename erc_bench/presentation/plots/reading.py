"""Of all records, what the figures show: some columns, some experiments, few digits.

Figures are always drawn from this selection, also where whole records are at hand. Selecting twice
changes nothing, so a figure made from the stored selection equals the one made from the records.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas as pd

from erc_bench.presentation.plots.frames import Frames, NothingToDraw
from erc_bench.presentation.plots.one_update import (
    ARMS,
    choose_token,
    experiments_in_order,
    hidden_violations,
)
from erc_bench.presentation.plots.tokens import BASES
from erc_bench.studies.records import KEYS, Results

__all__ = ["DISTRIBUTIONS", "METRICS", "SIGNIFICANT_BITS", "TOKENS", "read_frames", "rounded"]

#: Columns of the metrics that figures 2 to 4 draw.
METRICS = (
    "rollout", "update", "staleness", "tokens", "diverged", "reward/mean", "grad/norm",
    "drift/entropy_new", "clip/ratio_bound_fraction", "drift/out_of_band_fraction",
    "gate/dropped_fraction",
)  # fmt: skip
#: Columns of the tokens that figures 1, 5 and 6 draw, and C2 and C5 are tested on.
TOKENS = ("staleness", "log_ratio", "log_entropy_ratio", "kl_exact", "gate_dropped")
#: Of these only what a gated arm's tokens need, of these only what the token of figure 1 needs.
GATED, SHOWN = ("prob/old", "entropy/old"), ("action", "tv", "tv_unsampled")
DISTRIBUTIONS = ("probs/old", "probs/new")
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


def read_frames(results: Results) -> Frames:
    """Read what the figures need of a results folder, in its order of rows."""
    runs = results.read("runs")
    panels = Frames(runs, pd.DataFrame(), pd.DataFrame(), results.config).panels
    here = [("experiment", "in", panels)]
    metrics = results.read("metrics", [*KEYS, *METRICS], where=here)
    columns = [*KEYS, *TOKENS, *GATED, *SHOWN]
    tokens = results.read("tokens", columns, where=here)
    tokens = tokens[
        (tokens["staleness"] > 0) & _used(tokens, Frames(runs, metrics, tokens, results.config))
    ]
    tokens = _few_digits(tokens.reset_index(drop=True))
    frames = Frames(runs, _few_digits(metrics), tokens, results.config)
    return replace(frames, tokens=_blanked(frames, *_shown(frames, results)))


def _used(tokens: pd.DataFrame, frames: Frames) -> pd.Series:
    """Tokens of the arms that a figure or a claim looks at: gated ones, and the first base of figure 6.

    In the experiment in which figure 1 looks first, also its arms.
    """
    used = tokens.groupby(["experiment", "objective"])["gate_dropped"].transform("any").astype(bool)
    for experiment in frames.panels:
        here = tokens["experiment"] == experiment
        present = set(tokens.loc[here, "objective"])
        wanted = {next(arm for arm in BASES if arm in present)} if present & {*BASES} else present
        if experiment == experiments_in_order(frames)[0]:
            wanted = wanted | {*ARMS}
        used |= here & tokens["objective"].isin(wanted)
    return used


def _few_digits(table: pd.DataFrame) -> pd.DataFrame:
    fewer = {
        name: rounded(table[name].to_numpy(), SIGNIFICANT_BITS.get(name, 24))
        for name in table.columns
        if name not in KEYS and table[name].dtype.kind == "f"
    }
    return table.assign(**fewer)


def _shown(frames: Frames, results: Results) -> tuple[pd.Series | None, pd.DataFrame | None]:
    """Figure 1's token with its distributions and all tokens of its arm; None where there is none.

    Distributions are large: they are read experiment by experiment, until the token is found.
    """
    for experiment in experiments_in_order(frames):
        here = frames.tokens[frames.tokens["experiment"] == experiment]
        columns = ["objective", "staleness", *DISTRIBUTIONS]
        stored = results.read("tokens", columns, where=[("experiment", "==", experiment)])
        stored = stored[stored["staleness"] > 0]
        stored = stored[stored["objective"].isin(here["objective"].unique())]
        if not {*DISTRIBUTIONS} <= set(stored):
            continue
        whole = here.assign(**{name: stored[name].to_numpy() for name in DISTRIBUTIONS})
        with suppress(NothingToDraw):
            _, _, token, arm = choose_token(replace(frames, tokens=whole))
            return token, arm
    return None, None


def _blanked(frames: Frames, token: pd.Series | None, arm: pd.DataFrame | None) -> pd.DataFrame:
    """The tokens with every value absent that no figure shows."""
    tokens = frames.tokens.copy()
    dropping = tokens.groupby(["experiment", "objective"])["gate_dropped"].transform("any")
    keep = {name: dropping.astype(bool) for name in GATED}
    keep |= {name: pd.Series(False, index=tokens.index) for name in SHOWN}
    if token is not None and arm is not None:
        violating = arm.index[hidden_violations(arm, frames.settings(str(token["experiment"])))]
        keep["tv_unsampled"][violating] = True
        for mask in keep.values():
            mask[token.name] = True
        for name in DISTRIBUTIONS:
            tokens[name] = pd.Series(None, index=tokens.index, dtype=object)
            tokens.at[token.name, name] = rounded(token[name])
    for name, mask in keep.items():
        tokens[name] = tokens[name].where(mask)
    return tokens
