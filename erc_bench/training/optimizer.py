"""Adam and gradient clipping for a population: every run has its own step size, norm and fate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from erc_bench.training.population import Params

__all__ = ["Adam", "Learner"]

#: Rows of moments are multiples of this many numbers: whole vectors and cache lines of any machine.
PAD = 64

#: torch's kernel as it is used here: changes come out for a step size of one.
_fused = partial(
    torch._fused_adam_,
    lr=1.0,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    weight_decay=0.0,
    amsgrad=False,
    maximize=False,
)


@dataclass(frozen=True)
class Learner:
    """Networks and the state of their optimiser.

    Moments are one row per run, padded to a multiple of ``PAD`` numbers, so that the kernel treats
    every run alike: it rounds differently where numbers do not fill a vector.

    Attributes:
        params: parameters by name, each ``(R, *shape)``.
        mean: Adam's first moment, ``(R, width)``.
        square: its second moment, ``(R, width)``.
        alive: ``(R,)``; False for good once a run's loss or gradient was not finite.
        steps: updates so far, a scalar.
    """

    params: Params
    mean: Tensor
    square: Tensor
    alive: Tensor
    steps: Tensor

    @classmethod
    def start(cls, params: Params) -> Learner:
        """Before the first update."""
        any_one = next(iter(params.values()))
        numbers = sum(p[0].numel() for p in params.values())
        mean, square = any_one.new_zeros(2, len(any_one), -(-numbers // PAD) * PAD)
        alive = torch.ones(len(any_one), dtype=torch.bool)
        return cls(params, mean, square, alive, torch.tensor(0))

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, for a checkpoint."""
        moments = {name: x for name, x in vars(self).items() if name != "params"}
        return {f"param.{name}": p for name, p in self.params.items()} | moments

    def restored(self, tensors: dict[str, Tensor]) -> Learner:
        """The learner whose :meth:`tensors` these were."""
        params = {name: tensors[f"param.{name}"] for name in self.params}
        return Learner(params, *(tensors[n] for n in ("mean", "square", "alive", "steps")))


@dataclass(frozen=True)
class Adam:
    """AdamW with a leading run axis (arXiv:1412.6980 alg. 1, 1711.05101 alg. 2).

    ``m = b1 m + (1-b1) g``, ``v = b2 v + (1-b2) g^2``,
    ``w -= lr (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + eps) + decay w)`` with ``b1 = 0.9``, ``b2 = 0.999``
    and ``eps = 1e-8``, where ``g`` is the run's gradient scaled to a norm of at most
    ``max_grad_norm`` and ``lr`` is ``(R,)``, which rises from 0 over the first ``warmup`` steps. A run whose
    gradient or loss is not finite is frozen: its parameters stay as they were, for good, and no
    other run is touched. torch's optimisers have one step size for a tensor, hence this class around
    torch's fused kernel. The step size comes last: a huge one must not turn a zero change into NaN.
    """

    learning_rate: Tensor
    max_grad_norm: float = float("inf")
    weight_decay: float = 0.0
    warmup: int = 0

    def rate(self, steps: Tensor) -> Tensor:
        """Step sizes after so many steps, ``(R,)``: ``lr min(1, steps / warmup)``."""
        if steps >= self.warmup:
            return self.learning_rate
        return self.learning_rate * (steps / self.warmup)

    @torch.no_grad()
    def step(
        self, learner: Learner, gradients: Iterable[Tensor], losses: Tensor
    ) -> tuple[Learner, Tensor]:
        """One update of every living run; it reuses the learner's arrays.

        Args:
            learner: to be updated; what comes back takes its place.
            gradients: in the order of its ``params``, each ``(R, *shape)``.
            losses: ``(R,)``; only whether they are finite matters.

        Returns:
            The learner after the update, and the gradient norms before clipping, ``(R,)``: NaN for
            frozen runs.
        """
        params = list(learner.params.values())
        runs, width = learner.mean.shape
        sizes = [p[0].numel() for p in params]
        padding = learner.mean.new_zeros(runs, width - sum(sizes))
        g = torch.cat([*(x.reshape(runs, -1) for x in gradients), padding], dim=1)
        norm: Tensor = torch.linalg.vector_norm(g, dim=1)
        alive = learner.alive & torch.isfinite(norm) & torch.isfinite(losses)
        if self.max_grad_norm < float("inf"):
            scale = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            if bool((scale < 1).any()):
                g.mul_(scale.unsqueeze(1))
        rate = self.rate(learner.steps)
        if not bool(alive.all()):
            g.masked_fill_(~alive.unsqueeze(1), 0.0)
            norm = torch.where(alive, norm, torch.nan)
            rate = torch.where(alive, rate, 0.0)

        steps = learner.steps + 1
        change = torch.zeros_like(g)
        _fused([change], [g], [learner.mean], [learner.square], [], [steps.float()])
        change.mul_(rate.unsqueeze(1))
        if self.weight_decay:
            kept = 1 - rate * self.weight_decay
            for p in params:
                p.mul_(kept.view(-1, *[1] * (p.ndim - 1)))
        pieces = torch.split(change, [*sizes, width - sum(sizes)], dim=1)
        changes = [x.view_as(p) for x, p in zip(pieces, params, strict=False)]
        torch._foreach_add_(params, changes)
        return replace(learner, alive=alive, steps=steps), norm
