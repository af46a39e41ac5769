"""A population's whole state in one file, with the identity of what was asked for."""

from __future__ import annotations

from pathlib import Path

import torch

from erc_bench.core.errors import InputError
from erc_bench.training import tensorfile
from erc_bench.training.state import Setup, State

__all__ = ["load", "save_state"]


def save_state(path: Path, setup: Setup, state: State) -> None:
    """Write the state to ``path``, whole or not at all; only its own folder is made.

    Raises:
        OSError: it could not be written; the checkpoint before it is still there.
    """
    tensorfile.write(path, {"identity": setup.identity, **state.tensors(setup.slices)})


def load(path: Path, setup: Setup, start: State) -> State:
    """The saved state; the next rollout is the one that would have followed.

    Args:
        path: of the checkpoint.
        setup: what is asked for.
        start: the state that training would start from; it stays as it is.

    Raises:
        InputError: the file is damaged or belongs to another population.
    """
    try:
        tensors = tensorfile.read(path)
    except tensorfile.DamagedError as error:
        raise InputError(
            f"resume: checkpoint {path} {error}; remove it to train its part anew"
        ) from None
    for name, wanted in {"identity": setup.identity, **start.tensors(setup.slices)}.items():
        found = tensors.get(name)
        other = found is None or (found.shape, found.dtype) != (wanted.shape, wanted.dtype)
        if other or (name == "identity" and not torch.equal(tensors[name], wanted)):
            raise InputError(f"resume: checkpoint {path} belongs to another run (at {name})")
    return start.restored(tensors)
