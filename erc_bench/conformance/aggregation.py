"""Finds out from its on-policy gradient which aggregate a loss uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from erc_bench.conformance import probes
from erc_bench.conformance.losses import PolicyLoss
from erc_bench.conformance.probes import Fields
from erc_bench.conformance.registry import ViolationError

__all__ = ["Aggregation", "couples_tokens", "fit_aggregation", "weights"]

Divisor: TypeAlias = Literal["tokens", "rows", "nothing"]


@dataclass(frozen=True)
class Aggregation:
    """Weights ``w[i, t] = scale / (tokens, rows or 1)``; if ``per_length``, divided by ``|y_i|`` too."""

    per_length: bool
    divides_by: Divisor
    scale: float

    @property
    def name(self) -> str:
        """The aggregate in words."""
        times = "" if abs(self.scale - 1) < 1e-5 else f", times {self.scale:.6g}"
        match self.per_length, self.divides_by:
            case False, "tokens":
                return f"token-mean{times}"
            case True, "rows":
                return f"sequence-mean of token-means{times}"
            case False, "rows" if times:
                return f"fixed length: sums over {1 / self.scale:.6g} tokens, mean over responses"
            case False, "rows":
                return "sequence-mean of token-sums"
            case False, "nothing":
                return f"sum over tokens{times}"
            case _:
                return f"sum over tokens by their response's length, over {self.divides_by}{times}"

    def share(self, part: Fields, whole: Fields) -> float:
        """The weight of a micro-batch's loss in the loss of the whole batch."""
        return _count(part["mask"], self.divides_by) / _count(whole["mask"], self.divides_by)


def _count(mask: Tensor, what: Divisor) -> float:
    """What the sum over a batch is divided by."""
    match what:
        case "tokens":
            return float(mask.sum())
        case "rows":
            return float(mask.any(-1).sum())
        case "nothing":
            return 1.0


def weights(loss: PolicyLoss, fields: Fields) -> Tensor:
    """``-(dL/dlogp) / A`` of an on-policy batch, ``(B, T)``, without penalties."""
    return -loss.push_of_advantage(fields) / fields["advantage"]


def fit_aggregation(loss: PolicyLoss, fields: Fields) -> Aggregation:
    """Find the aggregate with which the loss has the policy gradient on an on-policy batch.

    Raises:
        ViolationError: no aggregate fits.
    """
    whole, close = weights(loss, fields), 100 * loss.precision.same
    half = probes.rows(fields, torch.arange(3))
    mask = fields["mask"]
    first = float(whole[0, 0])
    if not first > 0:
        raise ViolationError(
            f"-dL/dlogp / A is {first:.4g} at row 0, token 0 on-policy, not positive"
        )
    length = mask.sum(-1, keepdim=True).double()
    for per_length in (False, True):
        expected = first * length[0] / length if per_length else torch.full_like(length, first)
        if bool(((whole - expected).abs() <= close * first)[mask].all()):
            break
    else:
        place = torch.unravel_index(((whole - whole[0, 0]).abs() * mask).argmax(), mask.shape)
        row, column = int(place[0]), int(place[1])
        raise ViolationError(
            "-dL/dlogp / A on-policy is neither the same for all tokens nor by response length: "
            f"{first:.6g} at row 0, token 0 and {float(whole[row, column]):.6g} at row {row}, "
            f"token {column}"
        )
    ratio = float(weights(loss, half)[0, 0]) / first
    unit = first * (float(length[0]) if per_length else 1.0)
    for by in get_args(Divisor):
        change = _count(mask, by) / _count(half["mask"], by)
        if abs(ratio - change) < close * change:
            return Aggregation(per_length, by, unit * _count(mask, by))
    raise ViolationError(
        f"half the batch has {ratio:.4g} times the weight per token; a mean over tokens would have "
        f"{_count(mask, 'tokens') / _count(half['mask'], 'tokens'):.4g}, over responses 2, a sum 1"
    )


def couples_tokens(loss: PolicyLoss) -> bool:
    """Whether a token's gradient depends on other tokens of its response (sequence-level ratios)."""
    fields = probes.row_advantage(probes.tokens(spread=0.01))
    moved = fields["logp"].clone()
    moved[0, 0] += 1e-3
    before = loss.push(fields)
    after = loss.push(probes.changed(fields, logp=moved))
    return bool(((after - before)[0, 2:].abs() > loss.precision.same * before.abs().max()).any())
