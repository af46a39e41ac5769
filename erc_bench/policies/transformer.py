"""A small causal transformer over token contexts, for R runs at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

__all__ = ["CausalTransformer"]

LAYERS, HEADS = 2, 4


class CausalTransformer(nn.Module):
    """A decoder-only transformer: pre-norm, learned positions, rectified feed-forward layers.

        x   = E[token] + P[column]
        x  += O_l softmax(q_l k_l^T / sqrt(d) + causal mask) v_l     with (q, k, v)_l = A_l norm(x)
        x  += D_l relu(U_l norm(x))                                  for every layer l
        z   = W norm(x),          norm(x) = g x / sqrt(mean(x^2) + 1e-6)

    An observation is a context: its columns are the tokens of the prompt and of the response so far,
    as token + 1, and 0 where nothing is written yet. All prompts have the same number of tokens. The
    logits are those at the last written column.

    Parameters have a leading run axis where they are passed in: ``forward_runs(params, x)`` takes
    ``(R, N, F)`` contexts to ``(R, N, V)``, and ``(R, B, T, F)``, the T successive contexts of a
    response, to ``(R, B, T, V)`` in one pass over the last of them.

    Raises:
        ValueError: the observations are no token contexts, or ``hidden`` is no multiple of 4 heads.
    """

    def __init__(self, space: spaces.Space[np.ndarray], outputs: int, hidden: int = 64) -> None:
        super().__init__()
        if not isinstance(space, spaces.MultiDiscrete) or len({int(n) for n in space.nvec}) != 1:
            raise ValueError(
                "policy: transformer needs observations that are token contexts, MultiDiscrete with "
                f"equal columns; this environment has {space}"
            )
        if hidden % HEADS:
            raise ValueError(f"hidden: {hidden} is not allowed; must be a multiple of {HEADS}")
        columns, symbols = len(space.nvec), int(space.nvec[0])

        def weights(rows: int, inputs: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, inputs) * (scale / math.sqrt(inputs)))

        residual = 1 / math.sqrt(2 * LAYERS)
        self.token = nn.Parameter(torch.randn(symbols, hidden))
        self.position = nn.Parameter(torch.randn(columns, hidden))
        self.blocks = nn.ModuleList()
        for _ in range(LAYERS):
            block = nn.Module()
            block.norm = nn.Parameter(torch.ones(2, hidden))
            block.attend = weights(3 * hidden, hidden)
            block.out = weights(hidden, hidden, residual)
            block.up = weights(4 * hidden, hidden)
            block.down = weights(hidden, 4 * hidden, residual)
            self.blocks.append(block)
        self.norm = nn.Parameter(torch.ones(hidden))
        self.head = weights(outputs, hidden, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Contexts ``(..., F)`` to logits ``(..., outputs)``."""
        params = {name: p.unsqueeze(0) for name, p in self.named_parameters()}
        rows = x.reshape(1, -1, x.shape[-1])
        return self._each(params, rows).view(*x.shape[:-1], -1)

    def forward_runs(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Contexts ``(R, N, F)``, or the successive ones of responses ``(R, B, T, F)``."""
        return self._each(params, x) if x.dim() == 3 else self._responses(params, x)

    def decoder(self, params: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """``(R, N, F)`` to ``(R, N, V)`` for contexts that grow by one token from call to call.

        Keys and values of earlier columns are kept; what it returns equals :meth:`forward_runs`.
        """
        cache: list[tuple[Tensor, Tensor]] = []
        done = 0

        def step(x: Tensor) -> Tensor:
            nonlocal done
            end = done + 1 if done else _written(x)
            hidden = self._hidden(params, x[..., done:end], done, cache)
            done = end
            return self._logits(params, hidden[:, :, -1])

        return step

    def _responses(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        steps, prompt = x.shape[2], _written(x[:, :, 0])
        hidden = self._hidden(params, x[:, :, -1, : prompt + steps - 1], 0, None)
        return self._logits(params, hidden[:, :, prompt - 1 :])

    def _each(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        last = ((x > 0).sum(-1) - 1).clamp(min=0)
        hidden = self._hidden(params, x, 0, None)
        index = last[..., None, None].expand(*last.shape, 1, hidden.shape[-1])
        return self._logits(params, hidden.gather(2, index).squeeze(2))

    def _logits(self, params: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        return _linear(_norm(hidden, params["norm"]), params["head"])

    def _hidden(
        self,
        params: Mapping[str, Tensor],
        tokens: Tensor,
        first: int,
        cache: list[tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        """Residual stream ``(R, N, S, D)`` of the S columns from ``first`` on; fills the cache."""
        runs, responses, columns = tokens.shape
        table = params["token"]
        shift = torch.arange(0, runs * table.shape[1], table.shape[1]).view(-1, 1, 1)
        x = nn.functional.embedding(tokens + shift, table.flatten(0, 1))
        x = x + params["position"][:, None, first : first + columns]
        kept = list(cache) if cache else []
        if cache is not None:
            cache.clear()
        for number in range(LAYERS):
            name = f"blocks.{number}."
            gain = params[name + "norm"]
            mixed = _linear(_norm(x, gain[:, 0]), params[name + "attend"])
            # (R, N, S, 3 D) to three of (R N, heads, S, d)
            split = mixed.view(runs * responses, columns, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            query, key, value = split.unbind(0)
            if kept:
                key = torch.cat([kept[number][0], key], dim=2)
                value = torch.cat([kept[number][1], value], dim=2)
            if cache is not None:
                cache.append((key, value))
            seen = _attention(query, key, value)
            seen = seen.transpose(1, 2).reshape(runs, responses, columns, -1)
            x = x + _linear(seen, params[name + "out"])
            wide = _linear(_norm(x, gain[:, 1]), params[name + "up"]).relu()
            x = x + _linear(wide, params[name + "down"])
        return x


def _written(x: Tensor) -> int:
    """Columns written in the contexts of one moment; the same for all that have not ended."""
    return int((x[0, 0] > 0).sum())


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    """Root-mean-square norm of ``(R, ..., D)`` with a gain ``(R, D)`` of each run."""
    scale = x.square().mean(-1, keepdim=True).add(1e-6).rsqrt()
    return x * scale * gain.view(len(gain), *[1] * (x.dim() - 2), -1)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """``(R, ..., I)`` times ``(R, O, I)``, transposed, to ``(R, ..., O)``."""
    y = torch.bmm(x.reshape(len(x), -1, x.shape[-1]), weight.mT)
    return y.view(*x.shape[:-1], -1)


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention; the S queries are the last S of the K columns. ``(M, heads, S or K, d)``."""
    queries, keys = query.shape[2], key.shape[2]
    scores = (query @ key.mT) / math.sqrt(query.shape[-1])
    if queries > 1:
        future = torch.ones(queries, keys, dtype=torch.bool).triu(1 + keys - queries)
        scores = scores.masked_fill(future, -torch.inf)
    return scores.softmax(-1) @ value
