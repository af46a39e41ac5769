"""Adam and gradient clipping for a population: every run has its own step size, norm and fate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erc_bench.training.population import Params

__all__ = ["PopulationAdam"]

#: Rows of moments are multiples of this many numbers: whole vectors and cache lines of any machine.
PAD = 64


def _per_run(value: Tensor, like: Tensor) -> Tensor:
    """``(R,)`` shaped to broadcast over ``(R, ...)``."""
    return value.view(-1, *[1] * (like.ndim - 1))


class PopulationAdam:
    """AdamW with a leading run axis (arXiv:1412.6980 alg. 1, 1711.05101 alg. 2).

    ``m = b1 m + (1-b1) g``, ``v = b2 v + (1-b2) g^2``,
    ``w -= lr (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + eps) + decay w)``, where ``g`` is the run's
    gradient scaled to a norm of at most ``max_grad_norm`` and ``lr`` is ``(R,)``. A run whose
    gradient or loss is not finite is frozen: its parameters stay as they were, for good, and no
    other run is touched. torch's optimisers have one step size for a tensor, hence this class around
    torch's fused kernel. The step size comes last: a huge one must not turn a zero change into NaN.

    Moments are one row per run, padded to ``PAD`` numbers, so that the kernel treats every run alike:
    what does not fill a vector it rounds differently.
    """

    def __init__(
        self,
        params: Params,
        learning_rate: Tensor,
        *,
        max_grad_norm: float = float("inf"),
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.params = params
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm
        self.weight_decay = weight_decay
        self.betas = betas
        self.eps = eps
        self.steps = 0
        self.alive = torch.ones(len(learning_rate), dtype=torch.bool)
        sizes = [p[0].numel() for p in params.values()]
        width = -(-sum(sizes) // PAD) * PAD
        any_one = next(iter(params.values()))
        self.mean, self.square, self._gradient, self._change = any_one.new_zeros(
            4, len(any_one), width
        )
        self._sizes = [*sizes, width - sum(sizes)]

    def _split(self, flat: Tensor) -> list[Tensor]:
        """Rows of all runs as one view for each parameter, ``(R, *shape)``."""
        pieces = torch.split(flat, self._sizes, dim=1)
        return [x.view_as(p) for x, p in zip(pieces, self.params.values(), strict=False)]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], losses: Tensor) -> Tensor:
        """One update of every living run, in place.

        Args:
            gradients: in the order of ``params``, each ``(R, *shape)``.
            losses: ``(R,)``; only whether they are finite matters.

        Returns:
            The gradient norms before clipping, ``(R,)``; NaN for frozen runs.
        """
        g = self._gradient
        torch._foreach_copy_(self._split(g), list(gradients))
        norm: Tensor = torch.linalg.vector_norm(g, dim=1)
        self.alive &= torch.isfinite(norm) & torch.isfinite(losses)
        if self.max_grad_norm < float("inf"):
            scale = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            if bool((scale < 1).any()):
                g.mul_(scale.unsqueeze(1))
        everyone = bool(self.alive.all())
        if not everyone:
            g.masked_fill_(~self.alive.unsqueeze(1), 0.0)
            norm = torch.where(self.alive, norm, torch.nan)

        self.steps += 1
        self._change.zero_()
        torch._fused_adam_(
            [self._change], [g], [self.mean], [self.square], [], [torch.tensor(float(self.steps))],
            lr=1.0, beta1=self.betas[0], beta2=self.betas[1], weight_decay=0.0, eps=self.eps,
            amsgrad=False, maximize=False,
        )  # fmt: skip
        rate = self.learning_rate
        if not everyone:
            rate = torch.where(self.alive, rate, 0.0)
        self._change.mul_(rate.unsqueeze(1))
        if self.weight_decay:
            decay = self.learning_rate * self.alive * self.weight_decay
            for p in self.params.values():
                p.mul_(1 - _per_run(decay, p))
        torch._foreach_add_(list(self.params.values()), self._split(self._change))
        return norm

    def state(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs beside the parameters."""
        return {
            "steps": torch.tensor(self.steps),
            "alive": self.alive,
            "mean": self.mean,
            "square": self.square,
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Go back to what :meth:`state` gave."""
        self.steps = int(state["steps"])
        for name in ("alive", "mean", "square"):
            getattr(self, name).copy_(state[name])
