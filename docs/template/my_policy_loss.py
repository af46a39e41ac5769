"""A policy loss in verl's signature. Replace the lines between the rulers with your own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from erc_bench import Objective

__all__ = ["my_loss", "my_objective"]


def my_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """``-min(r A, clip(r, 1 - low, 1 + high) A)``, averaged over the whole batch's tokens."""
    mask = response_mask.bool()
    # What stands in masked slots may be NaN, and 0 * NaN is NaN: replace it before any arithmetic.
    new = log_prob.masked_fill(~mask, 0.0)
    old = old_log_prob.detach().masked_fill(~mask, 0.0)
    advantage = advantages.detach().masked_fill(~mask, 0.0)
    # exp(20) is infinite in float16.
    limit = min(20.0, math.floor(math.log(torch.finfo(new.dtype).max)))
    ratio = (new - old).clamp(-limit, limit).exp()
    # ------------------------------------------------------------------------------------------
    clipped = ratio.clamp(1 - config.clip_ratio_low, 1 + config.clip_ratio_high)
    losses = -torch.minimum(ratio * advantage, clipped * advantage)
    # ------------------------------------------------------------------------------------------
    if rollout_is_weights is not None:
        losses = losses * rollout_is_weights
    # The whole batch's count, where this is one of its micro-batches.
    count = config.global_batch_info.get("batch_num_tokens")
    count = mask.sum() if count is None else torch.as_tensor(count, device=losses.device)
    return torch.where(mask, losses, 0.0).sum() / count.clamp(min=1), {}


def my_objective(clip_low: float = 0.2, clip_high: float = 0.28) -> Objective:
    """The same loss made of erc-bench's pieces, to train with ``erc-bench run``.

    min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
    """
    from erc_bench import Objective, PPOClip  # noqa: PLC0415  # only where erc-bench is there

    return Objective(PPOClip(clip_low, clip_high))
