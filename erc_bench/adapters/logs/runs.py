"""A logged run under our column names, whoever logged it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from erc_bench.core.errors import InputError

__all__ = ["COLUMNS", "OUR_PREFIXES", "Entry", "LoggedRun", "Names", "run_of"]

#: Columns that every logged run has; what was not logged is NaN.
COLUMNS = (
    "rollout",
    "update",
    "staleness",
    "tokens",
    "reward/mean",
    "grad/norm",
    "drift/entropy_old",
    "drift/entropy_new",
    "drift/kl_k3",
    "drift/out_of_band_fraction",
    "clip/ratio_bound_fraction",
    "clip/ratio_outside_fraction",
    "gate/dropped_fraction",
    "diverged",
)

#: Metrics whose names begin so are ours already.
OUR_PREFIXES = ("clip/ratio_", "drift/", "gate/", "loss/")

#: Columns of counts. They are whole numbers, and never missing once they are logged.
_COUNTS = ("rollout", "staleness", "tokens")
_SHARES = ("_fraction",)
#: If this is not finite, the run has diverged.
_FINITE = "grad/norm"

#: Our columns to the names they are logged under; the first name that is present counts.
Names = Mapping[str, tuple[str, ...]]


class Entry(NamedTuple):
    """One logged step: where it stands (``path:line``), its number, and what was logged."""

    where: str
    step: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class LoggedRun:
    """A run of another trainer.

    Attributes:
        environment: which trainer logged it.
        metrics: one row per logged step, with ``COLUMNS`` and further metrics of ours.
        source: file or folder it was read from.
        names: for each column with values, the name it was logged under.
    """

    environment: str
    metrics: pd.DataFrame
    source: str
    names: Mapping[str, str] = field(default_factory=dict)


def run_of(entries: Iterable[Entry], names: Names, *, environment: str, source: str) -> LoggedRun:
    """Entries as a run, in the order of their steps, which count from 1.

    A resumed run logs some steps twice; the last entry of a step counts. From the first gradient norm
    that is not finite, the run counts as diverged. Where no rollout was logged, each entry with a
    reward begins one.

    Args:
        entries: of one run.
        names: of the columns.
        environment: see :class:`LoggedRun`.
        source: see :class:`LoggedRun`.

    Raises:
        InputError: no entry has a known metric, or a value is no number; with path and line.
    """
    rows: dict[int, dict[str, float]] = {}
    used: dict[str, str] = {}
    for entry in entries:
        row = _row(entry, names, used)
        if row:
            rows[entry.step] = row
    if not rows:
        known = ", ".join(name for logged in names.values() for name in logged[:1])
        raise InputError(f"{source}: no known metric in it (looked for {known})")
    frame = pd.DataFrame([rows[step] for step in sorted(rows)])
    used = {column: name for column, name in used.items() if column in frame}
    frame.insert(0, "update", [step - 1 for step in sorted(rows)])
    if min(rows) < 1:
        raise InputError(f"{source}: step {min(rows)}, must be 1 or more")
    frame = _with_rollouts(frame)
    broken = ~frame[_FINITE].map(math.isfinite) if _FINITE in used else False
    frame["diverged"] = pd.Series(broken, index=frame.index).cummax().astype(bool)
    further = [name for name in frame if name not in COLUMNS]
    frame = frame.reindex(columns=[*COLUMNS, *sorted(further)])
    counted = frame.astype({"rollout": "int64", "update": "int64"})
    floats = [c for c in counted if c not in ("rollout", "update", "diverged")]
    return LoggedRun(environment, counted.astype(dict.fromkeys(floats, float)), source, used)


def _with_rollouts(frame: pd.DataFrame) -> pd.DataFrame:
    """The rollout of each row, and its reward and tokens on every row of it.

    A rollout begins where it was logged that it does, or else with each entry that has a reward: TRL
    logs none while it goes on with the same completions.
    """
    if "rollout" not in frame or frame["rollout"].isna().any():
        reward = frame.get("reward/mean")
        begins = pd.Series(True, index=frame.index) if reward is None else reward.notna()
        frame["rollout"] = (begins.cumsum() - 1).clip(lower=0) if begins.any() else frame["update"]
    for name in ("reward/mean", "tokens"):
        if name in frame:
            frame[name] = frame.groupby("rollout")[name].ffill()
    return frame


def _row(entry: Entry, names: Names, used: dict[str, str]) -> dict[str, float]:
    """The known metrics of an entry; notes in ``used`` where they came from."""
    found: dict[str, float] = {}
    for column, logged in names.items():
        name = next((n for n in logged if n in entry.values), None)
        if name is not None:
            found[column] = _number(entry, name, column)
            used[column] = name
    prefixes = {prefix for logged in names.values() for prefix in [_prefix(logged)] if prefix}
    for name in entry.values:
        for prefix in ("", *prefixes):
            ours = name.removeprefix(prefix)
            if name.startswith(prefix) and ours.startswith(OUR_PREFIXES):
                found[ours] = _number(entry, name, ours)
                used[ours] = name
    return found


def _prefix(logged: tuple[str, ...]) -> str:
    """The prefix that a trainer puts before our names, such as ``actor/`` in ``actor/grad_norm``."""
    head, slash, _ = logged[0].partition("/")
    return head + slash if head in ("actor", "train") else ""


def _number(entry: Entry, name: str, column: str) -> float:
    value = entry.values[name]
    if value is None:  # how JSON writers without NaN write it
        value = math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{entry.where}: {name} is {_shown(value)}, must be a number")
    try:
        value = float(value)
    except OverflowError:
        raise InputError(f"{entry.where}: {name} is too large") from None
    if column in _COUNTS and not (math.isfinite(value) and 0 <= value < 2**53):
        raise InputError(f"{entry.where}: {name} is {value!r}, must be a finite count")
    if column.endswith(_SHARES) and (value < -1e-6 or value > 1 + 1e-6):
        raise InputError(f"{entry.where}: {name} is {value!r}, must lie in [0, 1]")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
