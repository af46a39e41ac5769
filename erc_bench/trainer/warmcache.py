"""Warm-started networks on disk, for policies whose supervised start takes long."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from erc_bench.trainer.population import Params

__all__ = ["WarmCache", "cache_folder"]

#: Changes with anything that changes the result and is not in the key.
FORMAT = 1


def cache_folder() -> Path:
    """``ERC_BENCH_CACHE`` if it is set, else the platform's folder for caches of a user."""
    named = os.environ.get("ERC_BENCH_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("erc-bench")


@dataclass(frozen=True)
class WarmCache:
    """One file per network; its name is a digest of everything that determines its parameters.

    A file that is missing, damaged or of another shape counts as absent, and a folder that cannot be
    written to is no error: the network is then trained again.

    Attributes:
        folder: where the files are.
        asked: what determines all networks of a population, apart from the seed's index.
    """

    folder: Path
    asked: tuple[object, ...]

    def _path(self, index: int) -> Path:
        key = repr((FORMAT, torch.__version__, *self.asked, index))
        return self.folder / f"warm-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"

    def load(self, index: int, like: Params) -> dict[str, Tensor] | None:
        """Parameters of a seed's network, if they are there and have these shapes."""
        try:
            found = load_file(self._path(index))
        except (OSError, SafetensorError):
            return None
        fits = {k: (v.shape, v.dtype) for k, v in found.items()} == {
            k: (v.shape[1:], v.dtype) for k, v in like.items()
        }
        return dict(found) if fits else None

    def store(self, index: int, params: dict[str, Tensor]) -> None:
        """Keep a network, under its name only when it is whole."""
        path = self._path(index)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as stream:
                stream.write(save({name: p.contiguous() for name, p in params.items()}))
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
