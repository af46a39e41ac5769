"""A function of jax arrays as one of torch tensors, differentiated by jax in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor

__all__ = ["of_jax"]


#: Computes in float64; older versions of jax have it among the experimental things.
_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


def _to_jax(value: Tensor) -> jax.Array:
    if value.device.type == "meta":
        raise NotImplementedError("jax computes on devices of its own")
    half = value.dtype is torch.bfloat16  # which NumPy does not have
    array = jax.numpy.asarray((value.float() if half else value).detach().numpy())
    return array.astype("bfloat16") if half else array


def _to_torch(array: jax.Array) -> Tensor:
    half = array.dtype == "bfloat16"
    value = torch.from_numpy(np.array(array.astype("float32") if half else array))
    return value.bfloat16() if half else value


class _Through(torch.autograd.Function):
    """The value by jax; the gradient of every floating-point tensor by its reverse mode."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Any], names: list[str], *tensors: Tensor
    ) -> Tensor:
        floats = [t.is_floating_point() for t in tensors]
        arrays = [_to_jax(t) for t in tensors]

        def of_floats(*changing: Any) -> Any:
            left = iter(changing)
            given = [next(left) if live else a for a, live in zip(arrays, floats, strict=True)]
            found = function(**dict(zip(names, given, strict=True)))
            return found[0] if isinstance(found, tuple) else found

        value, ctx.pull = jax.vjp(
            of_floats, *(a for a, live in zip(arrays, floats, strict=True) if live)
        )
        ctx.floats = floats
        return _to_torch(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        with _x64(True):
            found = iter(ctx.pull(_to_jax(gradients[0])))
        return (
            None,
            None,
            *(_to_torch(next(found)) if live else None for live in ctx.floats),
        )


def of_jax(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the same parameters that takes and returns tensors."""

    @functools.wraps(function)
    def call(**arguments: Any) -> Tensor:
        tensors = {k: v for k, v in arguments.items() if isinstance(v, Tensor)}
        fixed = {k: v for k, v in arguments.items() if k not in tensors}
        with _x64(True):
            found: Tensor = _Through.apply(  # type: ignore[no-untyped-call]
                functools.partial(function, **fixed), list(tensors), *tensors.values()
            )
        return found

    return call
