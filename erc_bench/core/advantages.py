"""Advantage estimators: pure functions from rewards to advantages, without gradients.

Group estimators map ``(..., P, G)``, the rewards of G responses to each of P prompts, to the same
shape. Groups whose rewards are all equal get advantages of exactly zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from erc_bench.core.errors import InputError

__all__ = [
    "GROUP_ADVANTAGES",
    "Advantage",
    "gae",
    "group_centred",
    "group_zscore",
    "leave_one_out",
    "overlong_penalty",
    "whiten",
]

#: How a recipe turns rewards into advantages.
Advantage = Literal["gae", "group-zscore", "group-centred", "leave-one-out"]


def _require_group(rewards: Tensor, by: str) -> None:
    if rewards.shape[-1] < 2:
        raise InputError(f"group_size: {rewards.shape[-1]}, must be >= 2 for advantage {by}")


@torch.no_grad()
def group_centred(rewards: Tensor) -> Tensor:
    """``A = R - mean(R)`` within each group (Dr. GRPO, arXiv:2503.20783 section 3.2).

    >>> group_centred(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    tensor([[-0.5000,  0.5000],
            [ 0.0000,  0.0000]])
    """
    # The mean of equal floats need not equal them: 0.1 + 0.1 + 0.1 is not 3 * 0.1 exactly.
    equal = rewards.amax(-1, keepdim=True) == rewards.amin(-1, keepdim=True)
    return (rewards - rewards.mean(-1, keepdim=True)).masked_fill(equal, 0.0)


@torch.no_grad()
def group_zscore(rewards: Tensor, eps: float = 1e-6) -> Tensor:
    """``A = (R - mean(R)) / (std(R) + eps)`` in each group (GRPO, arXiv:2402.03300 section 4.1.2).

    The standard deviation divides by ``G - 1`` (``torch.std``), as in verl and TRL.

    Raises:
        InputError: groups of one response.

    >>> group_zscore(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    tensor([[-0.7071,  0.7071],
            [ 0.0000,  0.0000]])
    """
    _require_group(rewards, "group-zscore")
    return group_centred(rewards) / (rewards.std(-1, keepdim=True) + eps)


@torch.no_grad()
def leave_one_out(rewards: Tensor) -> Tensor:
    """``A_i = R_i - mean_{j != i} R_j = G/(G-1) (R_i - mean(R))`` (RLOO, arXiv:2402.14740 eq. 8).

    Raises:
        InputError: groups of one response.

    >>> leave_one_out(torch.tensor([0.0, 0.0, 3.0]))
    tensor([-1.5000, -1.5000,  3.0000])
    """
    group_size = rewards.shape[-1]
    _require_group(rewards, "leave-one-out")
    return group_centred(rewards) * (group_size / (group_size - 1))


#: Group estimators under the names that recipes use.
GROUP_ADVANTAGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "group-zscore": group_zscore,
    "group-centred": group_centred,
    "leave-one-out": leave_one_out,
}


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over finished episodes (arXiv:1506.02438 eq. 16).

    ``delta_t = R_t + gamma V_{t+1} - V_t`` and ``A_t = delta_t + gamma lam A_{t+1}``, where ``t +
    1`` is the next unmasked token and value and advantage are zero after the last one: padding may
    be on either side, and masked tokens in between (of a tool, say) are passed over.

    Args:
        rewards: ``(..., B, T)``; masked ones are ignored.
        values: of the states the tokens were chosen in, ``(..., B, T)``.
        mask: tokens that count, ``(..., B, T)``.
        gamma: discount per token, in [0, 1].
        lam: 0 gives one-step advantages, 1 gives discounted returns minus values.

    Returns:
        Advantages and value targets ``A + V``, both ``(..., B, T)`` and zero where masked.

    >>> rewards, values = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.5, 0.5, 9.0]])
    >>> gae(rewards, values, torch.tensor([[True, True, False]]))
    (tensor([[0.5000, 0.5000, 0.0000]]), tensor([[1., 1., 0.]]))
    """
    keep = mask != 0
    values = values.masked_fill(~keep, 0.0)
    advantages = torch.zeros_like(values)
    next_value = torch.zeros_like(values[..., 0])
    next_advantage = torch.zeros_like(next_value)
    for t in reversed(range(values.shape[-1])):
        delta = rewards[..., t] + gamma * next_value - values[..., t]
        advantage = delta + gamma * lam * next_advantage
        next_value = torch.where(keep[..., t], values[..., t], next_value)
        next_advantage = torch.where(keep[..., t], advantage, next_advantage)
        advantages[..., t] = next_advantage
    advantages.masked_fill_(~keep, 0.0)
    return advantages, advantages + values


@torch.no_grad()
def whiten(x: Tensor, mask: Tensor, eps: float = 1e-8) -> Tensor:
    """``(x - mean) / sqrt(var + eps)`` over a run's unmasked tokens; zero where masked.

    The variance divides by the number of tokens; ``(..., B, T)`` to the same shape.

    >>> whiten(torch.tensor([[1.0, 3.0, 7.0]]), torch.tensor([[True, True, False]]))
    tensor([[-1.,  1.,  0.]])
    """
    keep = mask != 0
    count = keep.sum((-2, -1), keepdim=True).clamp(min=1)
    mean = torch.where(keep, x, 0.0).sum((-2, -1), keepdim=True) / count
    centred = torch.where(keep, x - mean, 0.0)
    variance = centred.square().sum((-2, -1), keepdim=True) / count
    return centred * (variance + eps).rsqrt()


def overlong_penalty(length: Tensor, max_length: int, cache: int) -> Tensor:
    """DAPO's soft length penalty, added to a response's reward (arXiv:2503.14476 eq. 13).

    ``clip((max_length - cache - length) / cache, -1, 0)``: none up to ``max_length - cache``
    tokens, -1 from ``max_length`` on.

    Raises:
        InputError: ``cache`` outside 1..max_length.

    >>> overlong_penalty(torch.tensor([7, 8, 10, 12, 13]), max_length=12, cache=4)
    tensor([ 0.0000,  0.0000, -0.5000, -1.0000, -1.0000])
    """
    if not 1 <= cache <= max_length:
        raise InputError(f"overlong_cache: {cache}, must be from 1 to max_length = {max_length}")
    return ((max_length - cache - length) / cache).clamp(-1.0, 0.0)
