"""Tabular and MLP policies over categorical (``MultiDiscrete``) or dense (``Box``) observations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

__all__ = ["MLP", "POLICIES", "Tabular", "build_policy"]

#: A table with more logits than this is a mistake, not a policy (256 MiB of float32 per run).
MAX_TABLE = 2**26


class _RectifiedRowSum(torch.autograd.Function):
    """``y_n = relu(sum_f W[x_nf])``: one fused pass forward, one ``index_add`` per feature backward.

    An embedding followed by a sum writes and reads all F rows and is several times slower. Under
    ``vmap`` the tables of all runs become one table with shifted codes.
    """

    @staticmethod
    def forward(table: Tensor, codes: Tensor) -> Tensor:
        flat = codes.reshape(-1, codes.shape[-1])
        total = nn.functional.embedding_bag(flat, table, mode="sum").relu_()
        return total.view(*codes.shape[:-1], table.shape[-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        table, codes = inputs
        ctx.save_for_backward(codes, output)
        ctx.rows = table.shape[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        codes, output = ctx.saved_tensors
        passed = torch.ops.aten.threshold_backward(gradient, output, 0)
        flat = passed.reshape(-1, passed.shape[-1])
        table = flat.new_zeros(ctx.rows, flat.shape[-1])
        for column in codes.reshape(-1, codes.shape[-1]).unbind(-1):
            table.index_add_(0, column, flat)
        return table, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], table: Tensor, codes: Tensor
    ) -> tuple[Tensor, int]:
        runs = info.batch_size

        def leading(x: Tensor, dim: int | None) -> Tensor:
            return x.expand(runs, *x.shape) if dim is None else x.movedim(dim, 0)

        tables, codes = leading(table, in_dims[0]), leading(codes, in_dims[1])
        rows = tables.shape[1]
        shift = torch.arange(0, runs * rows, rows, device=codes.device)
        shifted = codes + shift.view(-1, *[1] * (codes.ndim - 1))
        summed: Tensor = _RectifiedRowSum.apply(tables.reshape(runs * rows, -1), shifted)  # type: ignore[no-untyped-call]
        return summed, 0


class OneHotHidden(nn.Module):
    """A rectified linear layer on one-hot codes, computed as a sum of table rows.

    ``y = relu(sum_f W[offset_f + x_f])`` for categorical features ``x``: int64 ``(..., F)`` gives
    ``(..., outputs)``. Rows start with variance ``1/F``, so that the sum starts with variance one.
    There is no bias: the codes of one feature sum to one, so its rows can hold any.
    """

    offset: Tensor

    def __init__(self, sizes: Sequence[int], outputs: int) -> None:
        super().__init__()
        offset = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self.register_buffer("offset", torch.as_tensor(offset, dtype=torch.int64))
        self.table = nn.Parameter(torch.randn(int(np.sum(sizes)), outputs) * len(sizes) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Codes ``(..., F)`` to ``(..., outputs)``."""
        hidden: Tensor = _RectifiedRowSum.apply(self.table, x + self.offset)  # type: ignore[no-untyped-call]
        return hidden


class Tabular(nn.Module):
    """One independent row of outputs for every joint value of the categorical features.

    ``logits = table[ravel(x)]``; starts uniform (zeros). No state shares anything with another, so
    an update moves only the states that were visited.

    Raises:
        ValueError: the observations are dense, or the table would be larger than ``MAX_TABLE``.
    """

    stride: Tensor

    def __init__(self, space: spaces.Space[np.ndarray], outputs: int) -> None:
        super().__init__()
        if not isinstance(space, spaces.MultiDiscrete):
            raise ValueError(
                f"policy: tabular needs MultiDiscrete observations, this environment has {space}; use mlp"
            )
        sizes = [int(n) for n in space.nvec]
        rows = int(np.prod(sizes, dtype=object))
        if rows * outputs > MAX_TABLE:
            raise ValueError(
                f"policy: a table of {rows} states x {outputs} outputs is too large; use mlp"
            )
        stride = np.cumprod([1, *sizes[::-1]])[:-1][::-1].copy()
        self.register_buffer("stride", torch.as_tensor(stride, dtype=torch.int64))
        self.table = nn.Embedding(rows, outputs)
        nn.init.zeros_(self.table.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Observations ``(..., F)`` to logits ``(..., outputs)``."""
        logits: Tensor = self.table((x * self.stride).sum(-1))
        return logits


class MLP(nn.Module):
    """A one-hidden-layer network: states share features, so an update on one moves others.

    ``logits = W2 relu(W1 x + b1) + b2`` with ``x`` one-hot (categorical; there ``b1 = 0``) or dense.
    The output layer starts at a hundredth of its usual scale, so that the policy starts close to
    uniform.
    """

    def __init__(self, space: spaces.Space[np.ndarray], outputs: int, hidden: int = 128) -> None:
        super().__init__()
        if isinstance(space, spaces.MultiDiscrete):
            self.first: nn.Module = OneHotHidden([int(n) for n in space.nvec], hidden)
        elif isinstance(space, spaces.Box) and len(space.shape) == 1:
            self.first = nn.Sequential(nn.Linear(space.shape[0], hidden), nn.ReLU())
        else:
            raise ValueError(
                f"policy: mlp needs MultiDiscrete or one-dimensional Box observations, got {space}"
            )
        self.last = nn.Linear(hidden, outputs)
        with torch.no_grad():
            self.last.weight.mul_(0.01)
            self.last.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Observations ``(..., F)`` to logits ``(..., outputs)``."""
        logits: Tensor = self.last(self.first(x))
        return logits


POLICIES: dict[str, Callable[..., nn.Module]] = {"tabular": Tabular, "mlp": MLP}


def build_policy(
    name: str, space: spaces.Space[np.ndarray], outputs: int, **options: int
) -> nn.Module:
    """Build a policy by name for an observation space and a number of actions.

    Raises:
        ValueError: unknown name, or a space that the policy cannot read.
    """
    if name not in POLICIES:
        raise ValueError(f"policy: {name!r} is unknown; allowed: {', '.join(POLICIES)}")
    return POLICIES[name](space, outputs, **options)
