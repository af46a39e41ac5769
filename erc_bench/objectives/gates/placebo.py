"""The control of every gate: one that drops as many tokens at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.objectives.base import Gate
from erc_bench.objectives.gates.selection import ranks, shuffled

__all__ = ["Placebo"]


@dataclass(frozen=True)
class Placebo(Gate):
    """Drops exactly as many unmasked tokens of each run as other gates would, chosen at random.

    ``keep[t] = order[t] >= n`` with ``n = sum_t mask[t] (1 - keep'[t])``, where ``keep'`` are the tokens
    that all those gates keep of this batch and ``order`` numbers the run's unmasked tokens from 0 in
    random order. What such an objective does and one with the gates themselves does not do, or the
    reverse, is due to which tokens are dropped and not to how many.

    The order is the batch's field ``order``, which the trainer draws from the run's own stream, or
    where that is not given the one that :class:`ClipCovariance` uses, by the run's data alone. Gates
    over whole responses (``over_sequences``) have a placebo over whole responses, of which the last one
    is dropped in part so that the number of tokens is met.

    Args:
        gates: whose placebo it is.
    """

    over_batch: ClassVar[bool] = True
    draws_order: ClassVar[bool] = True

    gates: tuple[Gate, ...]

    @torch.no_grad()
    def keep(self, batch: TokenBatch) -> Tensor:
        """All tokens but the first ``n`` in the random order."""
        dropped = torch.zeros_like(batch.mask)
        for gate in self.gates:
            dropped |= ~gate.keep(batch)
        wide = torch.promote_types(batch.logp.dtype, torch.float32)
        number = (dropped & batch.mask).to(wide).sum((-2, -1), keepdim=True)
        order = ranks(shuffled(batch), batch.mask) if batch.order is None else batch.order
        if self.gates and all(getattr(gate, "over_sequences", False) for gate in self.gates):
            order = _response_by_response(order, batch.mask)
        return order.to(wide) >= number


def _response_by_response(order: Tensor, mask: Tensor) -> Tensor:
    """The same numbers given to whole responses after each other, in the order of their first tokens."""
    place = mask.to(order.dtype).cumsum(-1) - 1
    first = torch.where(mask & (place == 0), order, 0.0).sum(-1)
    earlier = first.unsqueeze(-2) < first.unsqueeze(-1)
    start = (earlier * mask.sum(-1).to(order.dtype).unsqueeze(-2)).sum(-1)
    return start.unsqueeze(-1) + place
