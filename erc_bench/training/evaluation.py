"""Returns, entropies and pass@k of a population in fresh episodes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from erc_bench.core.numerics import masked_mean
from erc_bench.training.engine import Engine
from erc_bench.training.state import Setup, State
from erc_bench.training.streams import Purpose

__all__ = ["evaluate", "pass_at_k"]


def pass_at_k(solved: Tensor, answers: int, k: int) -> Tensor:
    """Chance that at least one of k answers is right, estimated without bias from n >= k of them.

    ``1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n - c + 1}^{n} (1 - k / i)`` for c right answers
    (arXiv:2107.03374 eq. 1).

    Args:
        solved: c, any shape.
        answers: n.
        k: from 1 to n.

    >>> pass_at_k(torch.tensor([0, 1, 2, 3]), answers=4, k=2)
    tensor([0.0000, 0.5000, 0.8333, 1.0000])
    """
    i = torch.arange(1, answers + 1)
    missed = (1 - k / i).clamp(min=0)
    counted = i > answers - solved.unsqueeze(-1)
    return 1 - torch.where(counted, missed, torch.ones_like(missed)).prod(-1)


def evaluate(
    setup: Setup, engine: Engine, state: State, when: Literal["initial", "final"]
) -> dict[str, Tensor]:
    """Mean return and token entropy ``(R,)`` in fresh episodes of the held-out task, undistorted.

    With several answers per prompt also pass@1, 2, 4 ...; an answer is right if its return is 1 (or
    more). NaN for frozen runs.
    """
    asked, last = setup.config.evaluation, when == "final"
    answers = asked.evaluation_answers
    prompts = asked.evaluation_episodes // answers
    task = setup.dynamics.at(float(last)).held_out()
    place = (Purpose.EVALUATION, int(last))
    rollout = engine.respond(setup, state.policy.params, task, place, prompts, answers)
    returns = rollout.returns
    values = {
        f"reward/{when}": returns.mean(-1),
        f"entropy/{when}": masked_mean(rollout.old_entropy, rollout.mask),
    }
    solved = (returns > 1 - 1e-6).view(len(returns), -1, answers).sum(-1)
    k = 1
    while answers > 1 and k <= answers:
        values[f"pass@{k}/{when}"] = pass_at_k(solved, answers, k).mean(-1)
        k *= 2
    return {name: torch.where(state.policy.alive, x, torch.nan) for name, x in values.items()}
