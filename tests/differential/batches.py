"""Random batches for comparisons, and how two results are compared."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from erc_bench.core.batch import TokenBatch

Fields = dict[str, Tensor]


def random_fields(
    seed: int,
    *,
    rows: int = 6,
    length: int = 9,
    drift: float = 0.4,
    limit: float = 40.0,
    empty_rows: int = 0,
    per_response: bool = False,
) -> Fields:
    """Fields of a TokenBatch in float64, ragged on the right.

    Log-probabilities and entropies are leaves. Log-ratios are normal with a spread of ``drift``, two
    in ten of them ten times as wide, and at most ``limit`` in size; ``per_response`` gives the
    tokens of a response one advantage. The first response has every token.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    shape = (rows, length)
    old_logp = -normal(*shape).abs() - 0.01
    wide = torch.where(torch.rand(shape, generator=g) < 0.2, 10.0, 1.0)
    log_ratio = (drift * wide * normal(*shape)).clamp(-limit, limit)
    lengths = torch.randint(1, length + 1, (rows,), generator=g)
    lengths[0] = length
    if empty_rows:
        lengths[-empty_rows:] = 0
    advantage = normal(rows, 1).expand(shape) if per_response else normal(*shape)
    entropy = normal(*shape).abs()
    return {
        "logp": (old_logp + log_ratio).requires_grad_(),
        "old_logp": old_logp,
        "advantage": advantage.contiguous(),
        "mask": torch.arange(length) < lengths.unsqueeze(-1),
        "entropy": entropy.clone().requires_grad_(),
        "old_entropy": entropy * (0.1 * normal(*shape)).exp(),
        "ref_logp": old_logp + 0.3 * normal(*shape),
        "rollout_logp": old_logp + 0.5 * normal(*shape),
        "reward": (normal(rows) > 0).double(),
    }


@st.composite
def fields(
    draw: st.DrawFn,
    *,
    limit: float,
    per_response: bool,
    empty_rows: bool,
    probabilities: bool = False,
) -> Fields:
    """Batches of any shape up to 7 by 11, from on-policy to far off it, some with empty rows.

    With ``probabilities`` no log-probability exceeds that of a likely action.
    """
    rows = draw(st.integers(1, 7))
    found = random_fields(
        draw(st.integers(0, 2**31)),
        rows=rows,
        length=draw(st.integers(1, 11)),
        drift=draw(st.sampled_from([0.0, 0.02, 0.4, 3.0])),
        limit=limit,
        empty_rows=draw(st.integers(0, rows - 1)) if empty_rows else 0,
        per_response=per_response,
    )
    if probabilities:
        found["rollout_logp"] = found["rollout_logp"].clamp(max=-0.01)
        found["logp"] = found["logp"].detach().clamp(max=-0.01).requires_grad_()
    return found


def gradients(loss: Tensor, given: Fields) -> dict[str, Tensor]:
    """With respect to log-probabilities and entropies; zero where the loss does not depend on them."""
    leaves = {name: given[name] for name in ("logp", "entropy")}
    found = torch.autograd.grad(loss, [*leaves.values()], allow_unused=True)
    pairs = zip(leaves.items(), found, strict=True)
    return {name: torch.zeros_like(x) if grad is None else grad for (name, x), grad in pairs}


def ours(objective, given: Fields, denominators=None) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of an objective of this project."""
    loss, _ = objective(TokenBatch(**given), denominators)
    return loss.detach(), gradients(loss, given)


def assert_same(found, expected, tolerance: float, *, value: bool = True) -> None:
    """Loss and gradients agree, relative to the whole gradient, to 1 or (the loss) to itself."""
    (loss, grads), (their_loss, their_grads) = found, expected
    size = max(1.0, *(float(grad.abs().sum()) for grad in their_grads.values()))
    for name, grad in their_grads.items():
        error = (grads[name] - grad).abs().max().item() / size
        assert error <= tolerance, f"gradient of {name}: {error:.3g}"
    if value:
        error = abs(loss - their_loss).item() / max(size, abs(their_loss).item())
        assert error <= tolerance, f"loss: {error:.3g}"
