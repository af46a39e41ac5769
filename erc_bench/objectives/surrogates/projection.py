"""A loss whose ratio is that of a projected policy: a constraint in the place of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import Hyper, clamp_log_ratio, require_parameter
from erc_bench.core.projection import kl_projection
from erc_bench.objectives.base import Surrogate

__all__ = ["Projected"]


@dataclass(frozen=True)
class Projected(Surrogate):
    """``-(projected/pi_old) A``: TROLL's surrogate, over the full vocabulary (arXiv:2510.03817).

    ``projected = argmin_q KL(q || pi)`` with ``KL(q || pi_old) <= delta``: ``pi`` itself inside the region,
    and outside of it ``pi_old^(eta/(eta+1)) pi^(1/(eta+1))``, normalised. The gradient goes through the
    projection: it never leads further out, and it stays where a gate would drop it. The paper projects
    the 64 likeliest actions; here no action is left out.

    Args:
        delta: nats; inf projects nothing.

    Raises:
        InputError: not positive.
    """

    delta: Hyper = 0.05

    def __post_init__(self) -> None:
        require_parameter(self, "delta", above=0)

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token."""
        masked = ~batch.mask.unsqueeze(-1)
        new = batch.require("log_probs", by="Projected").masked_fill(masked, 0.0)
        old = batch.require("old_log_probs", by="Projected").masked_fill(masked, 0.0)
        action = batch.require("action", by="Projected").long().unsqueeze(-1)
        projected, outside = kl_projection(new, old, self.delta)
        log_ratio = clamp_log_ratio(projected.gather(-1, action).squeeze(-1) - batch.old_logp)
        return -batch.advantage * torch.where(outside, log_ratio, batch.log_ratio).exp()
