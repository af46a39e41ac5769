"""DAPO's dynamic sampling: train on groups whose rewards differ."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from erc_bench.training.rollout import Rollout, concatenate

__all__ = ["fill_with_informative_groups"]


def _informative(rollout: Rollout, group_size: int) -> Tensor:
    """Groups in which not all returns are equal, ``(R, P)``."""
    returns = rollout.returns.view(len(rollout.action), -1, group_size)
    return returns.amax(-1) > returns.amin(-1)


def fill_with_informative_groups(
    rollout: Rollout,
    dynamic: Tensor,
    group_size: int,
    rounds: int,
    generate: Callable[[int, Tensor], Rollout],
) -> Rollout:
    """Replace groups with equal returns, which have no gradient, by informative ones.

    A run that samples dynamically generates up to ``rounds`` rollouts until it has P informative
    groups, and trains on its first P of them in the order they were generated; what is missing then
    is filled with uninformative groups, so that shapes and the loss's denominator stay
    (arXiv:2503.14476 section 3.2).

    Args:
        rollout: the first round, R runs of P groups.
        dynamic: ``(R,)`` bool, which runs sample dynamically.
        group_size: G.
        rounds: the most rollouts that are made, the first included.
        generate: takes ``(round, runs)`` and makes a further rollout of these runs.
    """
    if not bool(dynamic.any()):
        return rollout
    prompts = rollout.action.shape[1] // group_size
    for round_ in range(1, rounds):
        informative = _informative(rollout, group_size)
        runs = torch.nonzero(dynamic & (informative.sum(-1) < prompts)).squeeze(-1)
        if not len(runs):
            break
        further = generate(round_, runs)
        both = concatenate([rollout.map(lambda x, runs=runs: x[runs]), further])  # type: ignore[misc]
        order = torch.argsort(_informative(both, group_size), dim=-1, descending=True, stable=True)
        kept = order[:, :prompts, None] * group_size + torch.arange(group_size)
        index = kept.flatten(1)

        def pick(x: Tensor, index: Tensor = index) -> Tensor:
            return x.take_along_dim(index.view(*index.shape, *[1] * (x.ndim - 2)), dim=1)

        chosen = both.map(pick)
        if len(runs) == len(dynamic):
            rollout = chosen
            continue
        for name, whole in rollout.tensors.items():
            whole[runs] = chosen.tensors[name]
    return rollout
