"""The compiled kernel: which of its variants this processor runs, and how it is called.

``kernel.c`` is compiled at installation, once for the instructions that every processor of the
architecture has and once for AVX2 with fused multiply-add. Neither needs headers or symbols of Python
or torch; the functions are called through ctypes.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Adam",
    "Kernel",
    "Limits",
    "Network",
    "Pass",
    "States",
    "Structure",
    "TapeStruct",
    "Tokens",
    "kernel",
    "padded",
    "variant",
]

#: Floats in a vector of the kernel.
LANES = 8
#: Variants, the best first, with the vector instructions as torch names them.
VARIANTS = {"avx2": ("AVX2", "AVX512"), "baseline": ()}


class Structure(ctypes.Structure):
    """A struct of ``kernel.c``; a pointer is set from a tensor, whose memory it keeps alive."""

    def set(self, **values: Tensor | float | None) -> None:
        """Assign fields: numbers, or the addresses of tensors; 0 for None."""
        kept = self.__dict__.setdefault("kept", {})
        for name, value in values.items():
            kept[name] = value
            setattr(self, name, value.data_ptr() if isinstance(value, Tensor) else value)


def _fields(integers: str = "", pointers: str = "") -> list[tuple[str, Any]]:
    return [(n, ctypes.c_int64) for n in integers.split()] + [
        (n, ctypes.c_void_p) for n in pointers.split()
    ]


class Network(Structure):
    """R networks of one kind."""

    _fields_ = _fields(
        "kind features hidden actions padded rows width",
        "sizes offset first bias last last_bias temperature",
    )


class States(Structure):
    """The distinct observations of a rollout and the old policy's distributions there."""

    _fields_ = _fields(
        "capacity slots row_bytes merge", "observed slot count log_probs probs entropy logits"
    )


class Pass(Structure):
    """What a forward pass leaves for the backward pass."""

    _fields_ = _fields("capacity", "state met local hidden log_probs probs entropy place scratch")


class Adam(Structure):
    """The optimiser's state and settings."""

    _fields_ = [
        *_fields("", "mean square"),
        *_fields("moments", "rate"),
        ("max_norm", ctypes.c_double),
        ("decay", ctypes.c_double),
        *_fields("steps", "alive loss norm"),
    ]


class Tokens(Structure):
    """A minibatch: N tokens of every run."""

    _fields_ = _fields("tokens stride", "state action mask")


class Limits(Structure):
    """Thresholds of the drift measures."""

    _fields_ = [
        *(
            (n, ctypes.c_double)
            for n in ("clip_low", "clip_high", "delta", "paper_low", "paper_high")
        ),
        *_fields("", "band_low band_high"),
    ]


class TapeStruct(Structure):
    """An objective's operations."""

    _fields_ = [
        *_fields("operations width", "code registers"),
        *_fields("outputs", "output counts"),
    ]


#: What the functions take: s a structure, i an integer, p an address.
SIGNATURES = {
    "layout": "i",
    "scratch_floats": "si",
    "rehash": "si",
    "see": "sssipipp",
    "judge": "sssippp",
    "act": "sssipippipppp",
    "forward": "sssssipp",
    "backward": "ssssippps",
    "imitate": "ssssips",
    "values": "ssssip",
    "regress": "ssssips",
    "play": "sipp",
}


class Kernel:
    """The functions of one variant of ``kernel.c``.

    Args:
        path: of the shared library.
        variant: its name in ``VARIANTS``.

    Raises:
        OSError: it cannot be loaded, or was compiled from another ``kernel.c``.
    """

    def __init__(self, path: Path, variant: str) -> None:
        self.variant = variant
        library = ctypes.CDLL(str(path))
        kinds = {"s": ctypes.c_void_p, "i": ctypes.c_int64, "p": ctypes.c_void_p}
        for name, kinds_of in SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes = [kinds[kind] for kind in kinds_of]
            function.restype = ctypes.c_int64
            setattr(self, name, function)
        for number, structure in enumerate(
            (Network, States, Pass, Adam, Tokens, Limits, TapeStruct)
        ):
            if self.layout(number) != ctypes.sizeof(structure):
                raise OSError(f"{path}: compiled from another kernel.c; install erc-bench again")

    def __getattr__(self, name: str) -> Callable[..., int]:
        raise AttributeError(f"kernel.c has no function {name!r}")


def padded(numbers: int) -> int:
    """As many numbers as fill whole vectors."""
    return -(-numbers // LANES) * LANES


def variant() -> str | None:
    """Which variant of the kernel runs here; None: none was compiled, and torch trains everything."""
    found = kernel()
    return None if found is None else found.variant


@functools.cache
def kernel() -> Kernel | None:
    """The best variant that was compiled and that this processor runs; None: there is none."""
    instructions = torch.backends.cpu.get_cpu_capability()
    for variant, runs_on in VARIANTS.items():
        if runs_on and instructions not in runs_on:
            continue
        for suffix in EXTENSION_SUFFIXES:
            path = Path(__file__).with_name(f"_{variant}{suffix}")
            if path.exists():
                return Kernel(path, variant)
    return None
