"""What a parameter of a loss can be given: a field of the batch, or something made of it, in a form.

A source is written ``field`` or ``field:form``, as in ``--bind prev_logprobs=old_logp:packed``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erc_bench.conformance.probes import Fields, at_action
from erc_bench.core.batch import TokenBatch
from erc_bench.core.validation import unknown

__all__ = ["FORMS", "SOURCES", "Datum", "Source", "View"]

#: What each form makes of a tensor ``(B, T)``.
FORMS: Mapping[str, str] = {
    "rows": "one value per response, (B,)",
    "packed": "the slots of all responses one after the other, (N,), without padding",
    "list": "a list with a tensor for each response, without padding",
    "each": "the loss is called once for each response, (T,) without padding; the results are added",
    "shifted": "one slot more in front, (B, T + 1), as if a prompt token stood there",
    "last": "with an axis of one at the end, (B, T, 1)",
    "datum": "as list, with .to_torch(), as tinker's loss_fn_inputs",
    "call": "a function that returns it, whatever it is given",
    "int": "as int64",
    "float": "in the type of logp",
    "bool": "as bool",
}


@dataclass(frozen=True)
class Datum:
    """A tensor behind ``to_torch()``."""

    data: Tensor

    def to_torch(self) -> Tensor:
        """The tensor."""
        return self.data


def _logits(logp: str, log_probs: str) -> Callable[[Fields], Tensor]:
    """Logits ``(B, T, V)`` in which the sampled action has exactly ``logp``; no log-softmax of their own.

    The probabilities of the other actions keep their proportions. So dL/dlogp is what flows through
    the logits along the action's own probability.
    """

    def make(part: Fields) -> Tensor:
        whole, action = part[log_probs].detach(), part["action"]
        chosen = torch.nn.functional.one_hot(action, whole.shape[-1]).bool()
        left = (1 - part[logp].exp().clamp(max=1 - 1e-6)).log()
        rest = left - (1 - at_action(whole, action).exp()).log()
        return torch.where(chosen, part[logp][..., None], whole + rest[..., None]) + 0.5

    return make


class _Derived(NamedTuple):
    needs: tuple[str, ...]
    make: Callable[[Fields], Tensor]


_DERIVED: Mapping[str, _Derived] = {
    "log_ratio": _Derived(("logp", "old_logp"), lambda f: f["logp"] - f["old_logp"]),
    "negative_log_ratio": _Derived(("logp", "old_logp"), lambda f: f["old_logp"] - f["logp"]),
    "rollout_weight": _Derived(
        ("old_logp", "rollout_logp"), lambda f: (f["old_logp"] - f["rollout_logp"]).exp().detach()
    ),
    "logits": _Derived(("logp",), _logits("logp", "log_probs")),
    "old_logits": _Derived(("old_logp",), _logits("old_logp", "old_log_probs")),
    "ref_logits": _Derived(("ref_logp",), _logits("ref_logp", "ref_log_probs")),
    "labels": _Derived((), lambda f: f["action"]),
    "row_mask": _Derived((), lambda f: f["mask"].any(-1)),
    "row_ones": _Derived((), lambda f: torch.ones_like(f["logp"][:, 0])),
}
#: The counts by which sums are divided, where responses begin and end, and nothing.
_COUNTS = ("tokens", "rows", "lengths", "cu_seqlens", "none")

SOURCES = (*(f.name for f in fields(TokenBatch) if f.name != "order"), *_DERIVED, *_COUNTS)


class Source(NamedTuple):
    """A field or something derived, and the forms it is put in."""

    field: str
    forms: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Source:
        """From ``field`` or ``field:form``; several fields, with commas between, become a tuple.

        Raises:
            InputError: there is no such field or form.

        >>> Source.parse("mask:int")
        Source(field='mask', forms=('int',))
        """
        names, *forms = text.split(":")
        for name in names.split(","):
            if name not in SOURCES:
                raise unknown("bind: field", name, SOURCES)
        for form in forms:
            if form not in FORMS:
                raise unknown("bind: form", form, FORMS)
        return cls(names, tuple(forms))

    @property
    def is_count(self) -> bool:
        """Whether it is a count of the whole batch."""
        return self.field in ("tokens", "rows")

    @property
    def reads(self) -> frozenset[str]:
        """The fields of the batch that it depends on."""
        names = self.field.split(",")
        needs = (_DERIVED[name].needs if name in _DERIVED else (name,) for name in names)
        return frozenset(chain.from_iterable(needs))


class View:
    """A batch, from which sources are taken.

    Args:
        part: the fields.
        whole: the batch whose counts are given; None: those of ``part``.
        masked: whether packed responses keep masked slots before their last token, for a loss that
            takes a mask.
    """

    def __init__(self, part: Fields, whole: Fields | None, *, masked: bool) -> None:
        self.part, self.whole, self.masked = part, part if whole is None else whole, masked

    @cached_property
    def slots(self) -> Tensor:
        """The slots of packed responses, bool ``(B, T)``."""
        mask = self.part["mask"].bool()
        if not self.masked:
            return mask
        places = torch.arange(1, mask.shape[-1] + 1, device=mask.device)
        return places <= torch.where(mask, places, 0).amax(-1, keepdim=True)

    def take(self, source: Source, row: int | None = None) -> object:
        """The value of a source; of one response where its form is ``each``."""
        value: Any
        match source.field:
            case "none":
                return None
            case names if "," in names:
                value = tuple(self.take(Source(name), row) for name in names.split(","))
            case "tokens":
                value = self.whole["mask"].sum()
            case "rows":
                value = self.whole["mask"].any(-1).sum()
            case "lengths":
                value = self.slots.sum(-1)
            case "cu_seqlens":
                ends = self.slots.sum(-1).cumsum(0)
                value = torch.cat([ends.new_zeros(1), ends]).int()
            case name:
                value = _DERIVED[name].make(self.part) if name in _DERIVED else self.part[name]
        return self._in_form(value, source.forms, row)

    def _in_form(self, value: Any, forms: tuple[str, ...], row: int | None) -> object:
        types = {"int": torch.int64, "bool": torch.bool, "float": self.part["logp"].dtype}
        for form in forms:
            if form in types:
                value = value.to(types[form])
            elif form == "rows":
                value = _per_row(value, self.part["mask"])
            elif form == "shifted":
                value = torch.cat([torch.zeros_like(value[:, :1]), value], dim=1)
            elif form == "last":
                value = value[..., None]
            elif form == "packed":
                value = value[self.slots]
            elif form == "call":
                return lambda *_, kept=value, **__: kept
            elif form == "each":
                assert row is not None
                value = value[row][self.slots[row]] if value.ndim > 1 else value[row]
            else:
                parts = [v[kept] for v, kept in zip(value, self.slots, strict=True)]
                return [Datum(part) for part in parts] if form == "datum" else parts
        return value

    def unpacked(self, result: Tensor) -> Tensor:
        """A result ``(N,)`` for packed slots, or ``(B, T, 1)``, as ``(B, T)``; others as they are."""
        if result.ndim == 3 and result.shape[-1] == 1:
            return result.squeeze(-1)
        if result.ndim != 1 or len(result) == len(self.part["mask"]):
            return result
        if len(result) != self.slots.sum():
            return result
        return result.new_zeros(self.slots.shape).masked_scatter(self.slots, result)


def _per_row(value: Tensor, mask: Tensor) -> Tensor:
    """``(B,)``: the mean over a response's unmasked tokens, whose values are all the same."""
    mask = mask.bool()
    total = torch.where(mask, value, 0.0).sum(-1)
    return total / mask.sum(-1).clamp(min=1).to(total.dtype)
