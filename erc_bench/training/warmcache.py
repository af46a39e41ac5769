"""Warm-started networks on disk, for policies whose supervised start takes long."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from erc_bench.training import tensorfile
from erc_bench.training.population import Params

__all__ = ["WarmCache"]

#: Changes with anything that changes the result and is not in the key.
FORMAT = 2


@dataclass(frozen=True)
class WarmCache:
    """One file per network; its name is a digest of everything that determines its parameters.

    A file holds a digest of its name and content. One that is missing, damaged or another network's
    counts as absent, and a folder that cannot be written to is no error: the network is then trained
    again.

    Attributes:
        folder: where the files are.
        asked: what determines all networks of a population, apart from the seed's index.
    """

    folder: Path
    asked: tuple[object, ...]

    def _path(self, *network: object) -> Path:
        key = repr((FORMAT, torch.__version__, *self.asked, *network))
        return self.folder / f"warm-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"

    def load(self, *network: object) -> Params | None:
        """Parameters of the network of a seed's index and other things that tell it, if it is there."""
        path = self._path(*network)
        with contextlib.suppress(tensorfile.DamagedError):
            return tensorfile.read(path, path.name)
        return None

    def store(self, params: Params, *network: object) -> None:
        """Keep a network, under its name only when it is whole."""
        path = self._path(*network)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            tensorfile.write(path, params, path.name)
