"""Where the tensors come from that a loss computes with.

What is computed from a batch's tensors lives on their device. Only a tensor from elsewhere, or a call
that moves one, can bring in a second device; a loss without either need not be tried on one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["computes_from"]

#: What a call may be given beside tensors; devices are none of it, nor text and types, which can name one.
_PLAIN = (bool, int, float, slice, EllipsisType, torch.dtype, type(None))
#: Calls that return no tensor and still read no value: they ask for a shape or a type.
_ABOUT = {"__get__", "__len__", "dim", "is_floating_point", "numel", "size"}


def computes_from(fields: Iterable[Tensor], call: Callable[[], object]) -> bool:
    """Whether the tensors of ``call``, which gets ``fields`` on the CPU, are all computed from those.

    False also where that cannot be told: it reads values, moves a tensor, or raises.

    >>> x = torch.ones(3)
    >>> computes_from([x], lambda: (2 * x).sum())
    True
    >>> computes_from([x], lambda: (2 * x * torch.ones(3)).sum())
    False
    """
    origins = _Origins(fields)
    try:
        with origins, torch.device("cpu"):  # so that every call that makes a tensor names a device
            return origins.own(call()) and origins.kept
    except Exception:  # the loss may be anyone's code
        return False


class _Origins(TorchFunctionMode):
    """Watches calls: ``kept`` until one uses a tensor that is not computed from the given ones."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self._known = {id(tensor): tensor for tensor in given}  # by id, and held, so none is reused
        self.kept = True

    def own(self, value: object) -> bool:
        """Whether there are tensors in ``value``, all known, and else only plain arguments."""
        leaves = [*_leaves(value)]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        return bool(tensors) and all(
            id(leaf) in self._known or isinstance(leaf, _PLAIN) for leaf in leaves
        )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = (args, *(kwargs or {}).values())
        found = func(*args, **kwargs or {})
        if any(isinstance(leaf, Tensor) for leaf in _leaves(given)):
            name = getattr(func, "__name__", "")
            made = [*_leaves(found)]
            tensors = [leaf for leaf in made if isinstance(leaf, Tensor)]
            told = len(tensors) == len(made) or name in _ABOUT or found is None
            stays = name != "cpu" and all(tensor.device.type == "cpu" for tensor in tensors)
            self.kept &= self.own(given) and told and stays
            self._known |= {id(tensor): tensor for tensor in tensors}
        return found


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value
