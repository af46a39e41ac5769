"""A gate on the engine that drew the tokens: how far it was from the old policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.core.numerics import (
    Hyper,
    clamp_log_ratio,
    k2,
    k3,
    over_tokens,
    require_choice,
    require_parameter,
)
from erc_bench.objectives.base import Gate

__all__ = ["RolloutRejection"]


@dataclass(frozen=True)
class RolloutRejection(Gate):
    """Keeps ``low <= statistic <= high`` of ``rho = pi_old/pi_rollout``, by token or by response.

    ``rollout_logp`` are the log-probabilities under the engine that drew the tokens. Where it disagrees
    too much with the old policy, the sample is rejected. A batch without them was drawn by the old
    policy, and nothing is rejected. These are verl's rejection masks (``rollout_rs``) and, with the
    weight of :class:`TruncatedImportance`, IcePop and masked importance sampling.

    Args:
        kind: ``ratio`` is ``rho``, ``k2`` is ``(log rho)^2 / 2`` and ``k3`` is ``rho - 1 - log rho``, two
            estimates of the divergence.
        level: ``token``, each by its own; or a response as a whole, by the ``sum`` over its tokens (of
            ratios: their product), their ``mean`` (of ratios: the geometric one) or the farthest token
            (``max``: it is kept if each of its tokens would be).
        low: the least that is kept.
        high: the most.

    Raises:
        InputError: an unknown word, negative bounds, ``high`` not positive or below ``low``.
    """

    kind: Literal["ratio", "k2", "k3"] = "ratio"
    level: Literal["token", "sum", "mean", "max"] = "token"
    low: Hyper = 0.0
    high: Hyper = torch.inf

    def __post_init__(self) -> None:
        require_choice(self, "kind", "ratio", "k2", "k3")
        require_choice(self, "level", "token", "sum", "mean", "max")
        require_parameter(self, "low", at_least=0)
        require_parameter(self, "high", above=0)
        if bool((torch.as_tensor(self.low) > torch.as_tensor(self.high)).any()):
            raise InputError(
                f"RolloutRejection.high: {self.high}, must be at least low ({self.low})"
            )

    @property
    def over_sequences(self) -> bool:
        """Whether responses are kept or dropped as a whole."""
        return self.level != "token"

    @torch.no_grad()
    def keep(self, batch: TokenBatch) -> Tensor:
        """Tokens, or all tokens of the responses, within the bounds."""
        if batch.rollout_logp is None:
            return torch.ones_like(batch.mask)
        statistic = self.statistic(batch)
        inside = (statistic >= over_tokens(self.low, statistic)) & (
            statistic <= over_tokens(self.high, statistic)
        )
        if self.level == "max":
            return (~(~inside & batch.mask).any(-1, keepdim=True)).expand_as(batch.mask)
        return inside.expand_as(batch.mask)

    @torch.no_grad()
    def statistic(self, batch: TokenBatch) -> Tensor:
        """What is compared with the bounds: of tokens ``(..., B, T)``, of responses ``(..., B, 1)``."""
        log_ratio = batch.old_logp - batch.require("rollout_logp", by="RolloutRejection")
        x = clamp_log_ratio(log_ratio.to(torch.promote_types(log_ratio.dtype, torch.float32)))
        if self.kind != "ratio":
            x = {"k2": k2, "k3": k3}[self.kind](x)
        if self.level in ("sum", "mean"):
            x = x.sum(-1, keepdim=True)
        if self.level == "mean":
            x = x / batch.mask.sum(-1, keepdim=True).clamp(min=1)
        return clamp_log_ratio(x).exp() if self.kind == "ratio" else x
