"""Named tensors in one safetensors file that is whole or absent, and says so itself by a digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from erc_bench.core.storage import atomic_write

__all__ = ["DamagedError", "digest", "read", "write"]


class DamagedError(Exception):
    """The file cannot be read, or does not hold what was written; the message says which."""


def digest(tensors: Mapping[str, Tensor], of: str = "") -> str:
    """SHA-256 of names, shapes, types and every bit, after the text ``of``."""
    found = hashlib.sha256(of.encode())
    for name, x in sorted(tensors.items()):
        found.update(repr((name, tuple(x.shape), x.dtype)).encode())
        found.update(x.contiguous().numpy().tobytes())
    return found.hexdigest()


def write(path: Path, tensors: Mapping[str, Tensor], of: str = "") -> None:
    """Write the file, whole or not at all; only its own folder is made.

    Args:
        path: of the file.
        tensors: its content.
        of: what the content belongs to; :func:`read` must be told the same.

    Raises:
        OSError: it could not be written; what ``path`` held is still there.
    """
    path.parent.mkdir(exist_ok=True)
    whole = {name: x.contiguous() for name, x in tensors.items()}
    content = save(whole, metadata={"sha256": digest(whole, of)})
    atomic_write(path, lambda stream: stream.write(content), make_folders=False)


def read(path: Path, of: str = "") -> dict[str, Tensor]:
    """What :func:`write` was given.

    Raises:
        DamagedError: the file is missing or unreadable, or was written with other content or another ``of``.
    """
    try:
        with safe_open(path, framework="pt") as file:
            # Copies start at multiples of 64 bytes, on which the last bit of a product can depend.
            found = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            told = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise DamagedError(f"cannot be read ({line})") from None
    if told != digest(found, of):
        raise DamagedError("is damaged")
    return found
