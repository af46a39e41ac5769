"""TRL: ``trainer_state.json`` of a checkpoint, or a JSONL of ``log_history``'s entries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from erc_bench.adapters.logs.runs import Entry, LoggedRun, Names, run_of
from erc_bench.adapters.logs.text import json_lines, read_text, require_step, whole_json
from erc_bench.core.errors import InputError

__all__ = ["TRL_NAMES", "read_trl", "trl_names"]

#: Column to TRL's names of it. ``num_tokens`` counts prompts too; ``clip_ratio`` is the share of
#: tokens whose loss the clip determines.
TRL_NAMES: Names = {
    "rollout": ("rollout",),
    "staleness": ("staleness",),
    "tokens": ("num_tokens",),
    "reward/mean": ("reward/mean", "reward"),
    "grad/norm": ("grad/norm", "grad_norm"),
    "drift/entropy_new": ("drift/entropy_new", "entropy"),
    "clip/ratio_bound_fraction": (
        "clip/ratio_bound_fraction", "clip_ratio/region_mean", "clip_ratio",
    ),
}  # fmt: skip


def trl_names(prefix: str) -> Names:
    """The names with ``train/`` before them, as the Trainer writes them to TensorBoard."""
    return {column: tuple(prefix + n for n in logged) for column, logged in TRL_NAMES.items()}


def read_trl(path: Path | str) -> LoggedRun:
    """A run of TRL's GRPOTrainer, stock or ours.

    A row is one entry of ``log_history``: one optimizer step with ``logging_steps=1``, a mean over
    several otherwise. The stock trainer logs neither rollout nor staleness: each entry with a reward
    then begins a rollout, and staleness is NaN.

    Args:
        path: ``trainer_state.json``, a checkpoint's folder, or a file with one entry per line.

    Raises:
        InputError: no such log; one line with path and line.
    """
    path = Path(path)
    path = path / "trainer_state.json" if path.is_dir() else path
    text = read_text(path)
    entries = _history(path, text) if text.lstrip().startswith("{") else None
    return run_of(
        _lines(path, text) if entries is None else entries,
        TRL_NAMES,
        environment="trl",
        source=str(path),
    )


def _history(path: Path, text: str) -> list[Entry] | None:
    """Entries of a trainer's state; None where the file is a JSONL of entries."""
    first, _, rest = text.lstrip().partition("\n")
    if rest.strip() and first.rstrip().endswith("}"):
        return None
    state = whole_json(path, text)
    if isinstance(state, dict) and "log_history" not in state and "step" in state:
        return None
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise InputError(f"{path}: no log_history in it; a trainer_state.json is needed")
    found = []
    for index, values in enumerate(history):
        where = f"{path}: log_history[{index}]"
        found.extend(_entry(where, values))
    return found


def _lines(path: Path, text: str) -> Iterator[Entry]:
    for where, values in json_lines(path, text):
        yield from _entry(where, values)


def _entry(where: str, values: Any) -> list[Entry]:
    """One entry of training; none for an evaluation and for the summary at the end."""
    if not isinstance(values, dict):
        raise InputError(f"{where}: {type(values).__name__}, must be an object of metrics")
    if "train_runtime" in values or any(str(name).startswith("eval_") for name in values):
        return []
    return [require_step(where, values.get("step"), values)]
