"""TRL: ``trainer_state.json`` of a checkpoint, or a JSONL of ``log_history``'s entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erc_bench.adapters.logs.runs import LoggedRun, Names, run_of
from erc_bench.adapters.logs.text import Logged, json_values, read_text, require_step
from erc_bench.core.errors import InputError

__all__ = ["TRL_NAMES", "read_trl", "trl_names"]

#: Our columns to TRL's names for them. ``num_tokens`` counts prompts too; ``clip_ratio`` is the share
#: of tokens whose loss the clip determines.
TRL_NAMES: Names = {
    "rollout": ("rollout",),
    "staleness": ("staleness",),
    "tokens": ("num_tokens",),
    "reward/mean": ("reward/mean", "reward"),
    "grad/norm": ("grad/norm", "grad_norm"),
    "drift/entropy_new": ("drift/entropy_new", "entropy"),
    "clip/ratio_bound_fraction": (
        "clip/ratio_bound_fraction",
        "clip_ratio/region_mean",
        "clip_ratio",
    ),
}


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
    logged = json_values(path, read_text(path))
    state = logged[0].value
    if len(logged) == 1 and not (isinstance(state, dict) and "step" in state):
        history = state.get("log_history") if isinstance(state, dict) else None
        if not isinstance(history, list):
            raise InputError(f"{path}: no log_history in it; a trainer_state.json is needed")
        logged = [Logged(f"{path}: log_history[{i}]", entry) for i, entry in enumerate(history)]
    entries = [
        require_step(one.where, one.object.get("step"), one.object)
        for one in logged
        if not _is_summary(one.object)
    ]
    return run_of(entries, TRL_NAMES, environment="trl", source=str(path))


def _is_summary(values: dict[str, Any]) -> bool:
    """Whether an entry is of an evaluation, or the summary at the end of training."""
    return "train_runtime" in values or any(str(name).startswith("eval_") for name in values)
