"""One face for every loss: called on fields, it returns a scalar whose gradients can be asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from erc_bench.conformance.probes import TRAINED, Fields, at_action, changed, tokens
from erc_bench.core.errors import InputError
from erc_bench.objectives import (
    Aggregate,
    Objective,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    TokenMean,
)

__all__ = ["AGGREGATES", "AggregateName", "Call", "Evaluation", "PolicyLoss", "Precision"]

AggregateName = Literal["token-mean", "sequence-mean", "sequence-sum"]
AGGREGATES: Mapping[AggregateName, Aggregate] = {
    "token-mean": TokenMean(),
    "sequence-mean": SequenceMeanTokenMean(),
    "sequence-sum": SequenceMeanTokenSum(),
}

#: Maps a micro-batch, and the whole batch where its counts are to be used, to what the loss returns.
Call = Callable[[Fields, Fields | None], object]


class Evaluation(NamedTuple):
    """A loss's value and its gradients by field, both detached."""

    loss: Tensor
    gradient: Mapping[str, Tensor]


class Precision(NamedTuple):
    """What counts as equal and as zero, by the precision in which a loss computes.

    Attributes:
        same: the relative error allowed where two computations differ in rounding only.
        none: gradients below this share of the largest one count as zero.
    """

    name: str
    same: float
    none: float


FLOAT64 = Precision("float64", 1e-9, 1e-13)
FLOAT32 = Precision("float32", 2e-5, 1e-6)
HALF = Precision("half precision", 0.05, 1e-2)


@dataclass(frozen=True)
class PolicyLoss:
    """An adapted loss.

    Attributes:
        name: as the caller wrote it.
        kind: which signature it has.
        call: the loss on raw fields.
        aggregate: how losses per token are reduced; not used where the loss is a scalar.
        takes_denominators: whether a micro-batch can be given the whole batch's counts.
        reads: the fields that the loss is given. Only a TokenBatch holds whole distributions.
        band: ``(low, high)``, the half-widths of the entropy-ratio band that the loss declares.
        clip: ``(low, high)``, the distances of its clip's bounds from 1, that the loss declares.
        exemptions: the rules that the loss does not claim to keep, with the reasons.
        objective: the objective itself, where the loss is one of this project's.
    """

    name: str
    kind: str
    call: Call
    aggregate: AggregateName = "token-mean"
    takes_denominators: bool = False
    reads: frozenset[str] = frozenset()
    band: tuple[float, float] | None = None
    clip: tuple[float, float] | None = None
    exemptions: Mapping[str, str] = field(default_factory=dict)
    objective: Objective | None = None

    def __call__(self, part: Fields, whole: Fields | None = None) -> Tensor:
        """The scalar loss; losses per token or response are averaged, over ``whole`` if it is given."""
        result = self.returned(part, whole)
        if result.ndim == 0:
            return result
        mask, aggregate = part["mask"], AGGREGATES[self.aggregate]
        if result.ndim == 1 and result.shape == mask.shape[:1]:
            count = (mask if whole is None else whole["mask"]).any(-1).sum()
            return torch.where(mask.any(-1), result, 0.0).sum() / count.clamp(min=1)
        if result.shape == mask.shape:
            divisor = None if whole is None else aggregate.denominator(whole["mask"])
            return aggregate(result, mask, divisor)
        raise InputError(
            f"loss: returned shape {tuple(result.shape)}, expected (), {tuple(mask.shape[:1])} or "
            f"{tuple(mask.shape)}"
        )

    def returned(self, part: Fields, whole: Fields | None = None) -> Tensor:
        """What the loss returns, before aggregation: alone, first of a tuple, or under ``loss``."""
        result = self.call(part, whole)
        if isinstance(result, tuple | list) and result:
            result = result[0]
        if not isinstance(result, Tensor):
            raise InputError(
                f"loss: returned {type(result).__name__}; expected a tensor, a tuple that starts with "
                "one, or a dict with 'loss'"
            )
        return result

    def evaluate(self, part: Fields, *wanted: str, whole: Fields | None = None) -> Evaluation:
        """Value and gradients with respect to the wanted fields, or else to the trained ones.

        A field that the loss does not depend on has gradient zero.
        """
        leaves = {k: v.detach().clone() for k, v in part.items()}
        names = [k for k in wanted or TRAINED if k in leaves]
        for name in {*names, *TRAINED} & leaves.keys():
            leaves[name].requires_grad_(leaves[name].is_floating_point())
        loss = self(leaves, whole)
        inputs = [leaves[name] for name in names]
        found = (
            torch.autograd.grad(loss, inputs, materialize_grads=True)
            if loss.requires_grad
            else map(torch.zeros_like, inputs)
        )
        return Evaluation(loss.detach(), dict(zip(names, found, strict=True)))

    @cached_property
    def precision(self) -> Precision:
        """The precision in which it computes, whatever the types that it takes and returns.

        A float64 computation follows a step of 1e-11 in one of its inputs by about as much. In
        float32 the step is lost, or becomes one of 6e-8.
        """
        return max(
            (self._follows(name) for name in ("logp", "old_logp", "advantage")),
            key=lambda precision: precision.same,
        )

    def _follows(self, name: str) -> Precision:
        """The precision in which it follows small steps of one field."""
        fields = tokens()

        def change(step: float) -> float:
            found = self.evaluate(changed(fields, **{name: fields[name] + step}), "logp")
            gap = (found.gradient["logp"] - first.gradient["logp"]).abs().max()
            return max(float(gap), float((found.loss - first.loss).abs())) / scale

        first = self.evaluate(fields, "logp")
        scale = max(float(first.gradient["logp"].abs().max()), float(first.loss.abs()), 1e-300)
        for step, precision in ((1e-11, FLOAT64), (1e-5, FLOAT32)):
            if 0 < change(step) < 100 * step:
                return precision
        return FLOAT64 if change(1e-2) == 0 else HALF

    def push(self, part: Fields) -> Tensor:
        """``dL/dlogp`` at the sampled actions, ``(B, T)``."""
        return _at_actions(self.evaluate(part).gradient, part)

    def push_of_advantage(self, part: Fields) -> Tensor:
        """:meth:`push` less what is there at A = 0: penalties, such as a KL estimate, are left out."""
        found = self.evaluate(part).gradient
        none = self.evaluate({**part, "advantage": torch.zeros_like(part["advantage"])}).gradient
        return _at_actions({name: found[name] - none[name] for name in found}, part)


def _at_actions(gradient: Mapping[str, Tensor], part: Fields) -> Tensor:
    """The gradient of ``logp``, or that of the whole distributions where the loss reads only those."""
    whole = gradient["log_probs"]
    if bool((gradient["logp"] != 0).any()) or not bool((whole != 0).any()):
        return gradient["logp"]
    return at_action(whole, part["action"])
