"""Batches that losses are probed with: plain tensors under the field names of :class:`TokenBatch`.

The tensors are raw on purpose. A loss sees what a trainer would give it, junk in masked slots
included; nothing is cleaned or detached for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from erc_bench.core.numerics import entropy as entropy_of

__all__ = [
    "CONSTANT",
    "TRAINED",
    "Fields",
    "at_action",
    "cast",
    "changed",
    "columns",
    "fill_masked",
    "on_policy",
    "pad",
    "ratios",
    "references",
    "rhos",
    "row_advantage",
    "rows",
    "samplers",
    "tokens",
]

#: ``(B, T)`` tensors by name, ``(B, T, V)`` for whole distributions, ``(B,)`` for the reward.
Fields: TypeAlias = Mapping[str, Tensor]

#: The fields that the trained policy computes, and those that are data to a loss.
TRAINED = ("logp", "entropy", "log_probs")
CONSTANT = (
    "old_logp",
    "old_entropy",
    "advantage",
    "old_log_probs",
    "ref_logp",
    "ref_log_probs",
    "rollout_logp",
    "reward",
)

_LENGTHS = (5, 3, 4, 1, 5, 2)


def at_action(log_probs: Tensor, action: Tensor) -> Tensor:
    """The values of ``(B, T, V)`` at the actions ``(B, T)``."""
    return log_probs.gather(-1, action[..., None]).squeeze(-1)


def tokens(
    *, lengths: tuple[int, ...] = _LENGTHS, width: int = 5, spread: float = 0.5
) -> dict[str, Tensor]:
    """A float64 batch of softmax policies, the trained one ``spread`` (of logits) away from the old one.

    Advantages have both signs in every batch and differ between tokens; at either sign some ratios
    are beyond the usual clips, on both sides of 1, and some weights of the sampler beyond the usual
    truncation. The second token of the longest responses is
    masked, as if a tool had written it. B and T differ, so that no wrong broadcast goes unnoticed.
    """
    draw = torch.Generator().manual_seed(0)
    count, actions = len(lengths), 7

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    old = 1.5 * normal(count, width, actions)
    new, ref = (old + spread * normal(*old.shape) for _ in range(2))
    old, new, ref = (x.log_softmax(-1) for x in (old, new, ref))
    action = torch.distributions.Categorical(logits=old).probs.cumsum(-1)
    action = (action < torch.rand(count, width, 1, generator=draw, dtype=torch.float64)).sum(-1)
    action = action.clamp(max=actions - 1)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    mask[:, 1:2] &= torch.tensor(lengths)[:, None] < 5
    sign = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0)[:, None]

    rollout = at_action(old, action) + 0.02 * normal(count, width)
    rollout[::3, 0] -= 1.5  # drawn too rarely: a sampler's weight of 4.5 is truncated
    return {
        "logp": at_action(new, action),
        "old_logp": at_action(old, action),
        "advantage": sign * (0.5 + normal(count, width).abs()),
        "mask": mask,
        "entropy": entropy_of(new),
        "old_entropy": entropy_of(old),
        "action": action,
        "log_probs": new,
        "old_log_probs": old,
        "ref_logp": at_action(ref, action),
        "ref_log_probs": ref,
        "rollout_logp": rollout,
        "reward": (torch.arange(count) % 3 == 0).double(),
    }


def changed(fields: Fields, /, **new: Tensor) -> dict[str, Tensor]:
    """The same batch with some fields replaced."""
    return {**fields, **new}


def cast(fields: Fields, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same batch in another floating-point type."""
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in fields.items()}


def on_policy(fields: Fields) -> dict[str, Tensor]:
    """The first update after a rollout, where the old and the rollout policy are the trained one."""
    return changed(
        fields,
        old_logp=fields["logp"],
        old_entropy=fields["entropy"],
        old_log_probs=fields["log_probs"],
        rollout_logp=fields["logp"],
    )


def row_advantage(fields: Fields) -> dict[str, Tensor]:
    """One advantage per response, as group-relative estimators give: that of its first token."""
    return changed(fields, advantage=fields["advantage"][:, :1].expand_as(fields["logp"]).clone())


def rows(fields: Fields, index: Tensor) -> dict[str, Tensor]:
    """Some responses, in the order of ``index``."""
    return {name: value[index] for name, value in fields.items()}


def columns(fields: Fields, index: Tensor) -> dict[str, Tensor]:
    """Tokens of every response in the order of ``index``."""
    return {name: value if name == "reward" else value[:, index] for name, value in fields.items()}


def pad(fields: Fields, *, rows: int = 0, columns: int = 0) -> dict[str, Tensor]:
    """More masked tokens: ``rows`` empty responses and ``columns`` at the end of each response."""

    def grow(name: str, value: Tensor) -> Tensor:
        wide = tuple(width + columns for width in value.shape[1:2])
        shape = (value.shape[0] + rows, *wide, *value.shape[2:])
        new = torch.full(shape, _junk(name, value), dtype=value.dtype)
        new[tuple(slice(n) for n in value.shape[:2])] = value
        return new

    return {name: grow(name, value) for name, value in fields.items()}


def _junk(name: str, value: Tensor) -> float:
    if name == "reward" or not value.is_floating_point():
        return 0
    return 3.0 if name == "advantage" else -1.0


def fill_masked(fields: Fields, junk: float) -> dict[str, Tensor]:
    """``junk`` in every masked slot; finite junk differs between fields and slots.

    Equal junk in two fields would hide whatever depends on their difference.
    """
    masked = ~fields["mask"]
    filled = {}
    for number, (name, value) in enumerate(fields.items(), start=1):
        filled[name] = value
        if value.is_floating_point() and name != "reward":
            slots = 1 + torch.linspace(0, 0.1 * number, masked.numel(), dtype=value.dtype)
            slots, hidden = slots.view(masked.shape), masked
            if value.ndim == 3:
                slots, hidden = slots[..., None], masked[..., None]
            filled[name] = torch.where(hidden, junk * slots, value)
    return filled


def _single(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, rho: Tensor, action: Tensor
) -> dict[str, Tensor]:
    """Responses of one token whose whole distributions do not change."""
    count = len(logp)
    whole = torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03], dtype=torch.float64).log()
    whole = whole.expand(count, 1, 5).clone()
    one = torch.ones(count, 1, dtype=torch.float64)
    per_token = {
        "logp": logp,
        "old_logp": old_logp,
        "advantage": advantage,
        "entropy": rho,
        "ref_logp": logp,
        "rollout_logp": old_logp,
    }
    return {
        **{name: value.double()[:, None] for name, value in per_token.items()},
        "mask": one.bool(),
        "old_entropy": one,
        "action": action[:, None],
        "log_probs": whole,
        "old_log_probs": whole,
        "ref_log_probs": whole,
        "reward": torch.zeros(count, dtype=torch.float64),
    }


def ratios(grid: Tensor, old: float = 0.04) -> dict[str, Tensor]:
    """Sampled ratios ``grid`` at A = 1, then at A = -1; gates on whole distributions see no change.

    Every response is one token of the old probability ``old``.
    """
    r = grid.double().repeat(2)
    old_logp = torch.full_like(r, old).log()
    sign = torch.ones_like(r)
    sign[len(grid) :] = -1
    action = torch.full(r.shape, 3)
    return _single(old_logp + r.log(), old_logp, sign, torch.ones_like(r), action)


def references(distance: Tensor, ratio: float = 1.0) -> dict[str, Tensor]:
    """``logp - ref_logp`` from a grid, at A = 0 and one sampled ratio; responses of one token."""
    fields = ratios(torch.full_like(distance, ratio))
    fields = rows(fields, torch.arange(len(distance)))
    none = torch.zeros_like(fields["advantage"])
    return changed(fields, advantage=none, ref_logp=fields["logp"] - distance.double()[:, None])


def samplers(log_weight: Tensor) -> dict[str, Tensor]:
    """``old_logp - rollout_logp`` from a grid at r = 1 and A = 1, then at A = -1."""
    fields = ratios(torch.ones(len(log_weight), dtype=torch.float64))
    distance = log_weight.double().repeat(2)[:, None]
    return changed(fields, rollout_logp=fields["old_logp"] - distance)


def rhos(grid: Tensor, old_entropy: float = 1.0) -> dict[str, Tensor]:
    """Entropy ratios ``grid`` at sampled ratio 1; four responses of one token for each.

    The four are a likely and an unlikely action at A = 1, then at A = -1. A gate that looks at the
    direction of the push closes for some of them only.
    """
    rho = grid.double().repeat_interleave(4)
    action = torch.tensor([0, 4, 0, 4]).repeat(len(grid))
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(len(grid))
    fields = _single(rho.log(), rho.log(), sign, rho, action)
    logp = at_action(fields["log_probs"], fields["action"])
    return changed(
        fields,
        logp=logp,
        old_logp=logp,
        ref_logp=logp,
        rollout_logp=logp,
        entropy=old_entropy * fields["entropy"],
        old_entropy=old_entropy * fields["old_entropy"],
    )
