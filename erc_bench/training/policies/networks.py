"""Tabular and MLP policies over categorical (``MultiDiscrete``) or dense (``Box``) observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from erc_bench.core.validation import unknown
from erc_bench.training.policies.transformer import CausalTransformer

__all__ = ["MLP", "POLICIES", "Tabular", "build_policy"]

#: A table with more logits than this is a mistake, not a policy (256 MiB of float32 per run).
MAX_TABLE = 2**26


class _RectifiedRowSum(torch.autograd.Function):
    """``y_rn = relu(sum_f W_r[x_rnf])``: one fused pass forward, one ``index_add`` per feature backward.

    Tables ``(R, rows, H)`` and codes ``(R, N, F)`` give ``(R, N, H)``. The tables of all runs are
    read as one, with shifted codes. An embedding followed by a sum writes and reads all F rows and is
    several times slower.
    """

    @staticmethod
    def forward(ctx: Any, tables: Tensor, codes: Tensor) -> Tensor:
        runs, rows, outputs = tables.shape
        shift = torch.arange(0, runs * rows, rows, device=codes.device)
        flat = (codes + shift.view(-1, 1, 1)).flatten(0, 1)
        total = nn.functional.embedding_bag(flat, tables.flatten(0, 1), mode="sum").relu_()
        ctx.save_for_backward(flat, total)
        ctx.shape = tables.shape
        return total.view(runs, -1, outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        codes, output = ctx.saved_tensors
        passed = torch.ops.aten.threshold_backward(gradients[0].reshape(output.shape), output, 0)
        tables = passed.new_zeros(ctx.shape)
        flat = tables.flatten(0, 1)
        for column in codes.unbind(-1):
            flat.index_add_(0, column, passed)
        return tables, None


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
        return self.forward_runs(self.table.unsqueeze(0), x.unsqueeze(0)).squeeze(0)

    def forward_runs(self, tables: Tensor, x: Tensor) -> Tensor:
        """Tables ``(R, rows, outputs)`` and codes ``(R, ..., F)`` to ``(R, ..., outputs)``."""
        codes = (x + self.offset).reshape(len(x), -1, x.shape[-1])
        hidden: Tensor = _RectifiedRowSum.apply(tables, codes)  # type: ignore[no-untyped-call]
        return hidden.view(*x.shape[:-1], -1)


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

    def forward_runs(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Parameters with a leading run axis and ``(R, ..., F)`` to ``(R, ..., outputs)``."""
        tables = params["table.weight"]
        runs, rows, _ = tables.shape
        shift = torch.arange(0, runs * rows, rows, device=x.device)
        state = (x * self.stride).sum(-1) + shift.view(-1, *[1] * (x.ndim - 2))
        return nn.functional.embedding(state, tables.flatten(0, 1))


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

    def forward_runs(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Parameters with a leading run axis and ``(R, ..., F)`` to ``(R, ..., outputs)``."""
        if isinstance(self.first, OneHotHidden):
            hidden = self.first.forward_runs(params["first.table"], x)
        else:
            hidden = _linear_runs(x, params["first.0.weight"], params["first.0.bias"]).relu()
        return _linear_runs(hidden, params["last.weight"], params["last.bias"])


def _linear_runs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``y_r = x_r W_r^T + b_r``: ``(R, ..., I)``, ``(R, O, I)``, ``(R, O)`` to ``(R, ..., O)``."""
    rows = x.reshape(len(x), -1, x.shape[-1])
    y = torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)
    return y.view(*x.shape[:-1], -1)


POLICIES: dict[str, Callable[..., nn.Module]] = {
    "tabular": Tabular,
    "mlp": MLP,
    "transformer": CausalTransformer,
}


def build_policy(
    name: str, space: spaces.Space[np.ndarray], outputs: int, **options: int
) -> nn.Module:
    """Build a policy by name for an observation space and a number of actions.

    Raises:
        InputError: unknown name.
        ValueError: a space that the policy cannot read.
    """
    if name not in POLICIES:
        raise unknown("policy", name, POLICIES)
    return POLICIES[name](space, outputs, **options)
