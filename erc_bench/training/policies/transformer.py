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

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, each ``(R N heads, columns, d)``."""


class CausalTransformer(nn.Module):
    """A decoder-only transformer: pre-norm, learned positions, rectified feed-forward layers.

        x   = E[token] + P[column]
        x  += O_l softmax(q_l k_l^T / sqrt(d) + causal mask) v_l     with (q, k, v)_l = A_l norm(x)
        x  += D_l relu(U_l norm(x))                                  for every layer l
        z   = W norm(x),          norm(x) = g x / sqrt(mean(x^2) + 1e-6)

    An observation is a context: its columns are the tokens of the prompt and of the response so far,
    as token + 1, and 0 where nothing is written yet. The logits are those at the last written column.

    Parameters have a leading run axis where they are passed in: ``forward_runs(params, x)`` takes
    ``(R, N, F)`` contexts to ``(R, N, V)``, and the T successive contexts ``(R, B, T, F)`` of a
    response to ``(R, B, T, V)`` in one pass over the prompt and one over the answer. A prompt that
    several neighbouring rows share, as those of a group do, is read once.

    Raises:
        ValueError: the observations are not token contexts, or ``hidden`` is not a multiple of 4 heads.
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
        """Contexts ``(R, ..., F)`` to ``(R, ..., V)``; the steps of responses ``(R, B, T, F)`` at once.

        After the end of a response, where its context repeats, logits are finite but mean nothing.
        """
        prompt = _prompt_of_responses(x)
        if prompt == 0:
            return self._each(params, x.flatten(1, -2)).view(*x.shape[:-1], -1)
        cache: Cache = []
        start = self._read_prompts(params, x[:, :, -1, :prompt], cache)
        answer = x[:, :, -1, prompt : prompt + x.shape[2] - 1]
        if answer.shape[2] == 0:
            return self._logits(params, start)
        rest = self._hidden(params, answer, prompt, cache)
        return self._logits(params, torch.cat([start, rest], dim=2))

    def decoder(self, params: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """``(R, N, F)`` to ``(R, N, V)`` for contexts that grow by one token from call to call.

        Keys and values of earlier columns are kept; the logits equal those of :meth:`forward_runs`.
        """
        cache: Cache = []
        done = 0

        def step(x: Tensor) -> Tensor:
            nonlocal done
            if done:
                hidden = self._hidden(params, x[..., done : done + 1], done, cache)
                done += 1
                return self._logits(params, hidden.squeeze(2))
            done = _common_length(x)
            if done == 0:
                return self._each(params, x)
            return self._logits(params, self._read_prompts(params, x[..., :done], cache).squeeze(2))

        return step

    def _each(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Contexts ``(R, N, F)`` of any lengths, each by itself; an empty one is read as one blank."""
        last = (_lengths(x) - 1).clamp(min=0)
        hidden = self._hidden(params, x, 0, [])
        index = last[..., None, None].expand(*last.shape, 1, hidden.shape[-1])
        return self._logits(params, hidden.gather(2, index).squeeze(2))

    def _read_prompts(self, params: Mapping[str, Tensor], prompts: Tensor, cache: Cache) -> Tensor:
        """Stream at the end of prompts ``(R, B, P)``, ``(R, B, 1, D)``; fills the cache, row by row."""
        group = _group_size(prompts)
        hidden = self._hidden(params, prompts[:, ::group], 0, cache, read=1)
        if group == 1:
            return hidden
        cache[:] = [(_repeat(key, group), _repeat(value, group)) for key, value in cache]
        return hidden.repeat_interleave(group, 1)

    def _logits(self, params: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        return _linear(_norm(hidden, params["norm"]), params["head"])

    def _hidden(
        self,
        params: Mapping[str, Tensor],
        tokens: Tensor,
        first: int,
        cache: Cache,
        read: int | None = None,
    ) -> Tensor:
        """Residual stream of tokens ``(R, N, S)``, which are the columns from ``first`` on.

        Appends their keys and values to the cache, which holds those of earlier columns. Only the last
        ``read`` columns of the last layer are computed, ``(R, N, read, D)``; None: all S of them.
        """
        runs, _, columns = tokens.shape
        table = params["token"]
        width = table.shape[-1]
        shift = torch.arange(0, runs * table.shape[1], table.shape[1]).view(-1, 1, 1)
        x = nn.functional.embedding(tokens + shift, table.flatten(0, 1))
        x = x + params["position"][:, None, first : first + columns]
        for number in range(LAYERS):
            name = f"blocks.{number}."
            gain, attend = params[name + "norm"], params[name + "attend"]
            normed = _norm(x, gain[:, 0])
            key, value = _heads(_linear(normed, attend[:, width:]), 2)
            if first:
                key = torch.cat([cache[number][0], key], dim=1)
                value = torch.cat([cache[number][1], value], dim=1)
            cache[number:] = [(key, value), *cache[number + 1 :]]
            if number == LAYERS - 1 and read is not None:
                x, normed = x[:, :, -read:], normed[:, :, -read:]
            (query,) = _heads(_linear(normed, attend[:, :width]), 1)
            x = x + _linear(_attention(query, key, value, runs), params[name + "out"])
            wide = _linear(_norm(x, gain[:, 1]), params[name + "up"]).relu()
            x = x + _linear(wide, params[name + "down"])
        return x


def _lengths(x: Tensor) -> Tensor:
    """Written columns of contexts ``(..., F)``, ``(...)``."""
    written = x > 0
    if bool((written[..., 1:] > written[..., :-1]).any()):
        raise ValueError(
            "policy: transformer needs observations that are token contexts, written from the left; "
            "one has a token after a column where nothing is written; use mlp"
        )
    return written.sum(-1)


def _common_length(x: Tensor) -> int:
    """Written columns of all contexts; 0 if they differ."""
    shortest, longest = _lengths(x).aminmax()
    return int(longest) if shortest == longest else 0


def _prompt_of_responses(x: Tensor) -> int:
    """Length of the prompts, if x ``(R, B, T, F)`` holds the successive contexts of responses; else 0."""
    prompt = _common_length(x[:, :, 0]) if x.dim() == 4 else 0
    ends = prompt + torch.arange(x.shape[-2]).unsqueeze(-1)
    written = torch.arange(x.shape[-1]) < ends
    grown = prompt > 0 and torch.equal(x, torch.where(written, x[:, :, -1:], 0))
    return prompt if grown else 0


def _group_size(prompts: Tensor) -> int:
    """Largest g such that rows ``[i g, (i + 1) g)`` of ``(R, B, P)`` are equal in every run."""
    differs = (prompts[:, 1:] != prompts[:, :-1]).flatten(2).any(-1).any(0)
    return math.gcd(prompts.shape[1], *(differs.nonzero().flatten() + 1).tolist())


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    """Root-mean-square norm of ``(R, ..., D)`` with a gain ``(R, D)`` of each run."""
    scale = x.square().mean(-1, keepdim=True).add(1e-6).rsqrt()
    return x * scale * gain.view(len(gain), *[1] * (x.dim() - 2), -1)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """``(R, ..., I)`` times ``(R, O, I)``, transposed, to ``(R, ..., O)``."""
    y = torch.bmm(x.reshape(len(x), -1, x.shape[-1]), weight.mT)
    return y.view(*x.shape[:-1], -1)


def _repeat(x: Tensor, group: int) -> Tensor:
    """Repeat every row's heads ``group`` times: ``(M heads, K, d)`` to ``(M group heads, K, d)``."""
    rows = x.view(-1, 1, HEADS, *x.shape[1:])
    return rows.expand(-1, group, *rows.shape[2:]).reshape(-1, *x.shape[1:])


def _heads(x: Tensor, parts: int) -> tuple[Tensor, ...]:
    """Split ``(R, N, S, parts D)`` into ``parts`` tensors ``(R N heads, S, d)``."""
    runs, rows, columns, _ = x.shape
    split = x.view(runs * rows, columns, parts, HEADS, -1).permute(2, 0, 3, 1, 4)
    return split.reshape(parts, runs * rows * HEADS, columns, -1).unbind(0)


def _attention(query: Tensor, key: Tensor, value: Tensor, runs: int) -> Tensor:
    """Causal attention; the S queries are the last S of the K columns.

    ``(R N heads, S or K, d)`` to ``(R, N, S, D)``.
    """
    queries, keys, depth = query.shape[1], key.shape[1], query.shape[2]
    future = query.new_full((queries, keys), -torch.inf).triu(1 + keys - queries)
    scores = torch.baddbmm(future, query, key.mT, alpha=1 / math.sqrt(depth))
    seen = torch.bmm(scores.softmax(-1), value).view(runs, -1, HEADS, queries, depth)
    return seen.transpose(2, 3).reshape(runs, -1, queries, HEADS * depth)
