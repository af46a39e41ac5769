"""Warm-started networks on disk, for policies whose supervised start takes long."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from erc_bench.core.storage import atomic_write
from erc_bench.training.population import Params

__all__ = ["WarmCache", "digest"]

#: Changes with anything that changes the result and is not in the key.
FORMAT = 2


def digest(params: Params, of: str = "") -> str:
    """SHA-256 of names, shapes, types and every bit, after the text ``of``."""
    found = hashlib.sha256(of.encode())
    for name, p in sorted(params.items()):
        found.update(repr((name, tuple(p.shape), p.dtype)).encode())
        found.update(p.contiguous().numpy().tobytes())
    return found.hexdigest()


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
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                told = (file.metadata() or {}).get("sha256")
        except (OSError, SafetensorError):
            return None
        return found if told == digest(found, path.name) else None

    def store(self, params: Params, *network: object) -> None:
        """Keep a network, under its name only when it is whole."""
        path = self._path(*network)
        whole = {name: p.contiguous() for name, p in params.items()}
        content = save(whole, metadata={"sha256": digest(whole, path.name)})
        with contextlib.suppress(OSError):
            atomic_write(path, lambda stream: stream.write(content))
