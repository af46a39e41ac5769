"""Adam and gradient clipping for a population: every run has its own step size, norm and fate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erc_bench.trainer.population import Params

__all__ = ["PopulationAdam"]


def _per_run(value: Tensor, like: Tensor) -> Tensor:
    """``(R,)`` shaped to broadcast over ``(R, ...)``."""
    return value.view(-1, *[1] * (like.ndim - 1))


class PopulationAdam:
    """AdamW with a leading run axis (arXiv:1412.6980 alg. 1, 1711.05101 alg. 2).

    ``m = b1 m + (1-b1) g``, ``v = b2 v + (1-b2) g^2``,
    ``w -= lr (m / (1-b1^t) / (sqrt(v / (1-b2^t)) + eps) + decay w)``, where ``g`` is the run's
    gradient scaled to a norm of at most ``max_grad_norm`` and ``lr`` is ``(R,)``. A run whose
    gradient or loss is not finite is frozen: its parameters stay as they were, for good, and no
    other run is touched. torch's optimisers have one step size for a tensor, hence this class.
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
        self.mean = {name: torch.zeros_like(p) for name, p in params.items()}
        self.square = {name: torch.zeros_like(p) for name, p in params.items()}
        self.alive = torch.ones(len(learning_rate), dtype=torch.bool)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], losses: Tensor) -> Tensor:
        """One update of every living run, in place.

        Args:
            gradients: in the order of ``params``, each ``(R, *shape)``.
            losses: ``(R,)``; only whether they are finite matters.

        Returns:
            The gradient norms before clipping, ``(R,)``; NaN for frozen runs.
        """
        g = list(gradients)
        norms = [torch.linalg.vector_norm(x.flatten(1), dim=1) for x in g]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        self.alive &= torch.isfinite(norm) & torch.isfinite(losses)
        if self.max_grad_norm < float("inf"):
            scale = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            g = [x * _per_run(scale, x) for x in g]
        everyone = bool(self.alive.all())
        if not everyone:
            g = [torch.where(_per_run(self.alive, x), x, 0.0) for x in g]
            norm = torch.where(self.alive, norm, torch.nan)

        self.steps += 1
        b1, b2 = self.betas
        mean, square = list(self.mean.values()), list(self.square.values())
        torch._foreach_lerp_(mean, g, 1 - b1)
        torch._foreach_mul_(square, b2)
        torch._foreach_addcmul_(square, g, g, 1 - b2)
        denominator = torch._foreach_sqrt(square)
        # The first moment's correction goes here too: divided out of the step size, a huge one would
        # overflow and turn a zero change into NaN.
        first = 1 - b1**self.steps
        torch._foreach_mul_(denominator, first * (1 - b2**self.steps) ** -0.5)
        torch._foreach_add_(denominator, first * self.eps)
        change = torch._foreach_div(mean, denominator)
        rate = self.learning_rate
        if not everyone:
            rate = torch.where(self.alive, rate, 0.0)
        for p, d in zip(self.params.values(), change, strict=True):
            if self.weight_decay:
                decay = _per_run(self.learning_rate * self.alive, p) * self.weight_decay
                p.mul_(1 - decay)
            p.addcmul_(_per_run(rate, d), d, value=-1.0)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs beside the parameters."""
        return {
            "steps": torch.tensor(self.steps),
            "alive": self.alive,
            **{f"mean.{name}": x for name, x in self.mean.items()},
            **{f"square.{name}": x for name, x in self.square.items()},
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Go back to what :meth:`state` gave."""
        self.steps = int(state["steps"])
        self.alive.copy_(state["alive"])
        for name in self.params:
            self.mean[name].copy_(state[f"mean.{name}"])
            self.square[name].copy_(state[f"square.{name}"])
