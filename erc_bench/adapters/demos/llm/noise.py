"""The gate's noise floor on a real model: entropy ratios of one policy with itself, without any update.

An inference engine and a trainer compute the same distribution in different precisions and batches.
Whatever the band drops between the two, it drops because of rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from erc_bench.adapters.demos.llm.loaded import Loaded
from erc_bench.adapters.demos.llm.task import Addition
from erc_bench.core.numerics import entropy as entropy_of
from erc_bench.core.numerics import entropy_ratio

__all__ = ["COMPARISONS", "measure", "tabulate"]


@dataclass(frozen=True)
class Pass:
    """How a forward pass is computed: precision of the weights, autocast, responses at once."""

    weights: torch.dtype
    autocast: bool
    rows: int


FLOAT32 = Pass(torch.float32, False, 16)
#: What is compared, old with new.
COMPARISONS: dict[str, tuple[Pass, Pass]] = {
    "float32, other batch": (FLOAT32, Pass(torch.float32, False, 1)),
    "float32, bf16 autocast": (FLOAT32, Pass(torch.float32, True, 16)),
    "float32, bf16 weights": (FLOAT32, Pass(torch.bfloat16, False, 16)),
    "bf16 weights, other batch": (Pass(torch.bfloat16, False, 16), Pass(torch.bfloat16, False, 1)),
}
#: Bins of the old entropy, nats.
BINS = (0.0, 1e-3, 1e-2, 1e-1, 1.0, np.inf)


@contextmanager
def _cast(model: torch.nn.Module, kind: torch.dtype) -> Iterator[None]:
    """The model in another precision for a while; its float32 weights come back exactly."""
    kept = [p.data for p in model.parameters()]
    model.to(kind)
    try:
        yield
    finally:
        model.to(torch.float32)
        for parameter, data in zip(model.parameters(), kept, strict=True):
            parameter.data = data


@torch.no_grad()
def measure(
    loaded: Loaded, task: Addition, *, length: int, prompts: int, seed: int
) -> pd.DataFrame:
    """Sample a response to each held-out prompt, and score its tokens in every pass.

    Returns:
        A row per token and comparison: ``entropy`` (old, nats), ``log_entropy_ratio``, ``log_ratio``.
    """
    model, tokenizer = loaded.model.eval(), loaded.tokenizer
    torch.manual_seed(seed)
    pairs = task.pairs(held_out=True)[:prompts]
    made, attention = found = loaded.sample([task.messages(pair) for pair in pairs], length)
    start, answer = attention.shape[1], found.responses
    ended = (answer == tokenizer.eos_token_id).cumsum(-1)
    mask = (ended - (answer == tokenizer.eos_token_id).long()) == 0  # up to the end token, included
    whole = torch.cat([attention, mask.long()], dim=1)
    passes = {p for pair in COMPARISONS.values() for p in pair}
    scored = {p: _score(model, made, whole, start, p) for p in passes}
    frames = []
    for name, (old, new) in COMPARISONS.items():
        (h_old, logp_old), (h_new, logp_new) = scored[old], scored[new]
        frames.append(
            pd.DataFrame(
                {
                    "comparison": name,
                    "entropy": h_old[mask].numpy(),
                    "log_entropy_ratio": entropy_ratio(h_new, h_old)[mask].log().numpy(),
                    "log_ratio": (logp_new - logp_old)[mask].numpy(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _score(
    model: torch.nn.Module, ids: Tensor, attention: Tensor, start: int, how: Pass
) -> tuple[Tensor, Tensor]:
    """Entropy and log-probability of each response token, ``(B, T)``, from logits in float32."""
    entropies, logps = [], []
    with _cast(model, how.weights), torch.autocast("cpu", torch.bfloat16, enabled=how.autocast):
        for first in range(0, len(ids), how.rows):
            part = slice(first, first + how.rows)
            row_ids, row_mask = ids[part], attention[part]
            if how.rows == 1:  # alone there is no padding before the prompt
                pad = int((row_mask[0] == 0).long().cumprod(0).sum())
                row_ids, row_mask = row_ids[:, pad:], row_mask[:, pad:]
            position = (row_mask.cumsum(-1) - 1).clamp(min=0)
            logits = model(input_ids=row_ids, attention_mask=row_mask, position_ids=position).logits
            length = ids.shape[1] - start
            log_probs = logits[:, -length - 1 : -1].float().log_softmax(-1)
            entropies.append(entropy_of(log_probs))
            logps.append(log_probs.gather(-1, ids[part, start:, None])[..., 0])
    return torch.cat(entropies), torch.cat(logps)


def tabulate(tokens: pd.DataFrame, band: tuple[float, float] = (0.05, 0.05)) -> pd.DataFrame:
    """Per comparison and bin of old entropy: tokens, the share outside band and clip range (0.8, 1.28)."""
    rho, ratio = np.exp(tokens["log_entropy_ratio"]), np.exp(tokens["log_ratio"])
    tokens = tokens.assign(
        out_of_band=(rho <= 1 - band[0]) | (rho >= 1 + band[1]),
        out_of_clip=(ratio < 0.8) | (ratio > 1.28),
        size=tokens["log_entropy_ratio"].abs(),
        bin=pd.cut(tokens["entropy"], BINS, include_lowest=True).astype(str),
    )
    edges = pd.cut(list(BINS[1:-1]), BINS, include_lowest=True).categories.astype(str)
    parts = [("all", tokens), *((edge, tokens[tokens["bin"] == edge]) for edge in edges)]
    tables = [
        part.groupby("comparison", sort=False)
        .agg(
            tokens=("size", "size"),
            out_of_band=("out_of_band", "mean"),
            out_of_clip=("out_of_clip", "mean"),
            median_abs_log_rho=("size", "median"),
        )
        .reset_index()
        .assign(entropy=edge)
        for edge, part in parts
    ]
    return pd.concat(tables, ignore_index=True)
