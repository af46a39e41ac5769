"""An arm's losses, metrics and gradients: by torch's autograd, or repeated by the kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.objectives.base import Objective
from erc_bench.training.native.library import Kernel
from erc_bench.training.native.tape import Tape, UnrecordableError, record

__all__ = ["Arm", "Found", "MergedBatch"]

Make = Callable[[str], Tensor | None]
"""Makes the field ``log_probs``, ``old_log_probs`` or ``ref_log_probs`` of a batch."""

#: Tokens whose gradients may differ when a repeated objective is checked, as a share: a value that lies
#: within rounding of a clip or a band falls on either side.
TOLERATED = 0.01


class MergedBatch(TokenBatch):
    """A batch whose whole distributions are made when they are first read.

    Attributes:
        leaf: the trained policy's, if it was read; gradients flow to it.
    """

    make: Make
    leaf: Tensor | None = None

    @classmethod
    def made(cls, make: Make, **fields: Tensor) -> MergedBatch:
        """The batch of trusted fields and of distributions still to be made."""
        new = cls.trusted(**fields)
        for name in cls._WHOLE:
            del new.__dict__[name]
        new.__dict__["make"] = make
        return new

    @cached_property
    def log_probs(self) -> Tensor | None:
        """Whole distributions of the trained policy."""
        whole = self.make("log_probs")
        if whole is not None and not whole.requires_grad:
            self.__dict__["leaf"] = whole.requires_grad_()
        return whole

    @cached_property
    def old_log_probs(self) -> Tensor | None:
        """Whole distributions of the old policy."""
        return self.make("old_log_probs")

    @cached_property
    def ref_log_probs(self) -> Tensor | None:
        """Whole distributions of the reference policy; None without one."""
        return self.make("ref_log_probs")

    def _map(self, function: Any) -> MergedBatch:
        def make(name: str) -> Tensor | None:
            whole = getattr(self, name)
            return None if whole is None else function(whole)

        given = {n: function(x) for n, x in self._given().items() if n not in self._WHOLE}
        return self.made(make, **given)


@dataclass(frozen=True)
class Found:
    """What an objective says of a minibatch: losses and metrics ``(R,)``.

    Its gradients by log-probabilities and entropies have been written where they belong; the one by
    whole distributions, ``(R, B, T, V)``, is None unless it reads them.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    by_whole: Tensor | None = None


class Arm:
    """One arm's objective, which is recorded when it is first met and then repeated.

    What is repeated is checked against torch on every update whose number is a power of two; an
    objective that fails, because it has a memory or counts its calls, goes by torch from then on.

    Args:
        kernel: which repeats.
        repeat: whether anything is repeated.
    """

    def __init__(self, kernel: Kernel, *, repeat: bool = True) -> None:
        self._kernel, self._repeat = kernel, repeat
        self._objective: Objective | None = None
        self._tape: Tape | None = None
        self._calls = 0

    def __call__(
        self,
        objective: Objective,
        fields: Mapping[str, Tensor],
        make: Make,
        by_logp: Tensor,
        by_entropy: Tensor,
    ) -> Found:
        """Losses and metrics; gradients go into ``by_logp`` and ``by_entropy``, ``(R, B, T)``.

        Args:
            objective: of the arm, as it is now.
            fields: of the arm's batch.
            make: its whole distributions.
            by_logp: zeros.
            by_entropy: zeros.
        """
        if objective is not self._objective:
            self._objective, self._tape = objective, self._recorded(objective, fields)
        if self._tape is None:
            return self._by_torch(objective, fields, make, by_logp, by_entropy)
        found = self._by_tape(self._tape, by_logp, by_entropy, fields)
        self._calls += 1
        if self._calls & (self._calls - 1) == 0:
            gradients = torch.zeros_like(by_logp), torch.zeros_like(by_entropy)
            checked = self._by_torch(objective, fields, make, *gradients)
            if not _agree(found, checked, (by_logp, by_entropy), gradients):
                self._tape = None
                by_logp.copy_(gradients[0])
                by_entropy.copy_(gradients[1])
                return checked
        return found

    def _recorded(self, objective: Objective, fields: Mapping[str, Tensor]) -> Tape | None:
        # an adaptive objective is another one after every rollout
        if not self._repeat or getattr(objective, "adaptive", True):
            return None

        def no_distributions(name: str) -> Tensor:
            raise UnrecordableError(name)

        def build(held: dict[str, Tensor]) -> MergedBatch:
            return MergedBatch.made(no_distributions, **held)

        try:
            return record(self._kernel, objective, build, fields)
        except Exception:  # whatever it is, torch will say so, or can do it
            return None

    @staticmethod
    def _by_torch(
        objective: Objective,
        fields: Mapping[str, Tensor],
        make: Make,
        by_logp: Tensor,
        by_entropy: Tensor,
    ) -> Found:
        leaves = [fields[name].detach().requires_grad_() for name in ("logp", "entropy")]
        given = {**fields, "logp": leaves[0], "entropy": leaves[1]}
        batch = MergedBatch.made(make, **given)
        loss, metrics = objective(batch)
        if batch.leaf is not None:
            leaves.append(batch.leaf)
        gradients = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
        for to, gradient in zip((by_logp, by_entropy), gradients, strict=False):
            if gradient is not None:
                to.copy_(gradient)
        return Found(loss.detach(), metrics, gradients[2] if len(gradients) > 2 else None)

    @staticmethod
    def _by_tape(
        tape: Tape, by_logp: Tensor, by_entropy: Tensor, fields: Mapping[str, Tensor]
    ) -> Found:
        names = [name for name in tape.writes if not name.startswith("by_")]
        numbers = dict(zip(names, torch.empty(len(names), len(by_logp)).unbind(), strict=True))
        tape(fields, {**numbers, "by_logp": by_logp, "by_entropy": by_entropy})
        return Found(numbers.pop("loss"), numbers)


def _agree(found: Found, checked: Found, ours: Any, theirs: Any) -> bool:
    """Whether losses, metrics and gradients are the same but for tokens at a threshold."""

    def close(x: Tensor, y: Tensor, atol: float = 1e-6) -> Tensor:
        return torch.isclose(x, y, rtol=1e-3, atol=atol, equal_nan=True)

    if found.metrics.keys() != checked.metrics.keys():
        return False
    shares = ((x, checked.metrics[name]) for name, x in found.metrics.items())
    if not all(bool(close(x, y, TOLERATED).all()) for x, y in shares):
        return False
    tokens = all(
        (~close(x, y)).float().mean() <= TOLERATED for x, y in zip(ours, theirs, strict=True)
    )
    return tokens and bool(close(found.loss, checked.loss).all())
