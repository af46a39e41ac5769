"""The memory that the kernel works in: the states of a rollout, and what a forward pass leaves behind."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from erc_bench.training.native.library import Kernel, Network, Pass, States

__all__ = ["Buffers", "Table", "rows"]


class Table:
    """The distinct observations of R runs, with the old policy's distributions; it grows as needed.

    Args:
        runs: R.
        row_bytes: bytes of one observation.
        padded: W, actions rounded up to whole vectors.
        merge: whether tokens with equal observations share a state.
        logits: whether the logits are kept too.
    """

    def __init__(
        self, runs: int, row_bytes: int, padded: int, *, merge: bool = True, logits: bool = False
    ) -> None:
        self.row_bytes, self.merge, self.capacity = row_bytes, merge, 0
        self.arrays = {
            "observed": torch.zeros((runs, 0, row_bytes), dtype=torch.uint8),
            "log_probs": torch.zeros((runs, 0, padded)),
            "probs": torch.zeros((runs, 0, padded)),
            "entropy": torch.zeros((runs, 0)),
        }
        if logits:
            self.arrays["logits"] = torch.zeros((runs, 0, padded))
        self.count = torch.zeros(runs, dtype=torch.int32)
        self.slot = torch.zeros((runs, 0), dtype=torch.int32)
        self._bound = 0
        self._structs: dict[Any, States] = {}

    def most(self) -> int:
        """States of the run that has most of them."""
        self._bound = int(self.count.max())
        return self._bound

    def clear(self) -> None:
        """Forget all states."""
        self.count.zero_()
        self.slot.fill_(-1)
        self._bound = 0

    def reserve(self, kernel: Kernel, more: int) -> None:
        """Make room for this many further states of every run."""
        if self._bound + more > self.capacity and self.most() + more > self.capacity:
            self.capacity = max(self._bound + more, 2 * self.capacity)
            for name, x in self.arrays.items():
                grown = x.new_zeros((len(x), self.capacity, *x.shape[2:]))
                grown[:, : x.shape[1]] = x
                self.arrays[name] = grown
            slots = 1 << (2 * self.capacity - 1).bit_length()
            self.slot = torch.zeros((len(self.slot), slots), dtype=torch.int32)
            self._structs.clear()
            kernel.rehash(self.struct(), len(self.count))
        self._bound += more

    def struct(self, start: int = 0, *, distributions: bool = True) -> Any:
        """What the kernel reads, from run ``start`` on."""
        key = (start, distributions)
        if key not in self._structs:
            states = States(self.capacity, self.slot.shape[1], self.row_bytes, int(self.merge))
            wanted = self.arrays if distributions else ("observed",)
            states.set(**{name: self.arrays[name][start:] for name in wanted})
            states.set(slot=self.slot[start:], count=self.count[start:])
            self._structs[key] = states
        return ctypes.byref(self._structs[key])


def rows(array: Tensor, index: Tensor) -> Tensor:
    """``out[r, ...] = array[r, index[r, ...]]`` for an array ``(R, S, ...)`` and ``(r, ...)``, r <= R."""
    first = torch.arange(len(index)).view(-1, *[1] * (index.ndim - 1)) * array.shape[1]
    return array.flatten(0, 1)[index.long() + first]


class Buffers:
    """Scratch of the forward and the backward pass of R networks of one kind, which grows as needed."""

    def __init__(self, runs: int) -> None:
        self.runs, self.states, self.tokens = runs, 0, 0
        self.arrays: dict[str, Tensor] = {}
        self.place = torch.zeros(0, dtype=torch.int32)
        self._struct = Pass()

    def reserve(
        self, kernel: Kernel, network: Network, states: int, tokens: int, table: Table
    ) -> Any:
        """What the kernel works in, with room for so many states and tokens of every run of a table."""
        if states > self.states or tokens > self.tokens or table.capacity > len(self.place):
            self.states, self.tokens = max(states, self.states), max(tokens, self.tokens)
            shape = (self.runs, self.states)
            floats = kernel.scratch_floats(ctypes.byref(network), self.states)
            self.arrays = {
                "state": torch.zeros(shape, dtype=torch.int32),
                "met": torch.zeros(self.runs, dtype=torch.int32),
                "local": torch.zeros((self.runs, self.tokens), dtype=torch.int32),
                "hidden": torch.zeros((*shape, network.hidden)),
                "log_probs": torch.zeros((*shape, network.padded)),
                "probs": torch.zeros((*shape, network.padded)),
                "entropy": torch.zeros(shape),
                "scratch": torch.zeros(floats),
            }
            self.place = torch.full((table.capacity,), -1, dtype=torch.int32)
            self._struct = Pass(self.states)
            self._struct.set(place=self.place, **self.arrays)
        return ctypes.byref(self._struct)
