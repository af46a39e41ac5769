"""Random batches for the tests of objectives."""

from __future__ import annotations

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.objectives import RECIPES, Objective, make

#: a micro-batch of theirs is not gated as the whole batch is
OVER_BATCH = [name for name in RECIPES if make(name).over_batch]

R, B, T, V = 3, 6, 5, 7


def leaves(
    shape: tuple[int, ...] = (B, T), *, drift: float = 0.6, seed: int = 0
) -> dict[str, Tensor]:
    """Arguments of ``TokenBatch.from_logits`` in float64, right-padded; ``logits`` is a leaf.

    Some tokens have hardly moved, some far, and in some responses all of them hardly: every gate keeps
    some and drops some.
    """
    g = torch.Generator().manual_seed(seed)
    old, noise, ref = torch.randn(3, *shape, V, generator=g, dtype=torch.float64)
    length = torch.randint(1, shape[-1] + 1, shape[:-1], generator=g)
    reward = torch.randint(0, 2, shape[:-1], generator=g).double()
    action = torch.randint(V, shape, generator=g)
    ref_log_probs = ref.log_softmax(-1)
    old_logp = old.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
    noise *= torch.where(torch.rand(*shape, 1, generator=g) < 0.3, 0.1, 1.2)
    jitter = torch.randn(shape, generator=g, dtype=torch.float64)
    calm = torch.where(torch.rand(*shape[:-1], 1, generator=g) < 0.3, 0.05, 1.0)
    noise, jitter = noise * calm.unsqueeze(-1), jitter * calm
    return {
        "logits": (old + drift * noise).requires_grad_(),
        "old_logits": old,
        "action": action,
        "advantage": torch.randn(shape, generator=g, dtype=torch.float64),
        "mask": torch.arange(shape[-1]) < length.unsqueeze(-1),
        "reward": reward,
        "ref_log_probs": ref_log_probs,
        "ref_logp": ref_log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1),
        "rollout_logp": old_logp + drift * jitter,
    }


def built(name, aggregate=None, *further) -> Objective:
    """A recipe with another aggregate, and with those further regularizers that it has not."""
    base = make(name)
    have = {r.name for r in base.regularizers}
    more = [r for r in further if r.name not in have]
    return Objective(
        base.surrogate, base.gates, aggregate or base.aggregate, (*base.regularizers, *more)
    )


def gradient(objective, given, **kwargs) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, gradient with respect to the logits, metrics."""
    loss, metrics = objective(TokenBatch.from_logits(**given), **kwargs)
    (grad,) = torch.autograd.grad(loss.sum(), given["logits"])
    return loss.detach(), grad, metrics
