"""The nearest distribution inside a trust region, exactly and differentiably."""

from __future__ import annotations

import torch
from torch import Tensor

from erc_bench.core.numerics import Hyper, kl, over_tokens

__all__ = ["kl_projection"]

#: Nats to which log-probabilities are raised, so that impossible actions make no infinities.
_LOWEST = -1e4
#: Halvings of the bracket; a Newton step, which is there for its gradient, squares what is left.
_HALVINGS = 30


def kl_projection(log_probs: Tensor, old_log_probs: Tensor, delta: Hyper) -> tuple[Tensor, Tensor]:
    """``argmin_q KL(q || pi)`` with ``KL(q || pi_old) <= delta``, at every state (arXiv:2510.03817).

    Outside the region it is ``q = pi_old^(eta/(eta+1)) pi^(1/(eta+1)) / Z``, with the multiplier ``eta`` at
    which the bound is met. Gradients flow into ``log_probs``, also through ``eta`` (by the implicit
    function theorem), and never into ``old_log_probs``.

    Args:
        log_probs: of the trained policy, nats, ``(..., V)``.
        old_log_probs: centre of the region, ``(..., V)``.
        delta: nats; a float, or ``(R,)`` with one value for each run of ``(R, B, T, V)``.

    Returns:
        ``log q``, ``(..., V)``, the trained policy's own inside the region; and which states lie outside,
        bool ``(...)``.

    >>> old, new = (torch.tensor(p).double().log() for p in ([0.5, 0.3, 0.2], [0.1, 0.1, 0.8]))
    >>> q, outside = kl_projection(new, old, 0.05)
    >>> q.exp().numpy().round(4), round(kl(q, old).item(), 12), outside.item()
    (array([0.3966, 0.2701, 0.3333]), 0.05, True)
    """
    bound = over_tokens(delta, log_probs)
    with torch.no_grad():
        distance = kl(log_probs, old_log_probs)
        outside = distance > bound
    bounds = torch.as_tensor(bound, dtype=log_probs.dtype, device=log_probs.device)
    chosen = bounds.expand(outside.shape)[outside]
    wide = torch.promote_types(log_probs.dtype, torch.float32)
    new, old = (x[outside].to(wide).clamp(min=_LOWEST) for x in (log_probs, old_log_probs.detach()))
    found = _on_the_edge(new, old, chosen.to(wide)).to(log_probs.dtype)
    return log_probs.masked_scatter(outside.unsqueeze(-1), found), outside


def _on_the_edge(new: Tensor, old: Tensor, delta: Tensor) -> Tensor:
    """The projection of ``(N, V)`` that lie outside, with ``delta`` ``(N,)``.

    With ``u = log pi - log pi_old`` and ``t = 1/(eta + 1)``, ``q`` is ``pi_old exp(t u) / Z(t)``. Along it
    ``KL(q || pi_old)`` rises from 0 at ``t = 0``, with the slope ``t Var_q(u)``.
    """
    gap = new - old

    def at(t: Tensor) -> Tensor:
        return torch.log_softmax(old + t.unsqueeze(-1) * gap, dim=-1)

    with torch.no_grad():
        low, high = torch.zeros_like(delta), torch.ones_like(delta)
        for _ in range(_HALVINGS):
            t = (low + high) / 2
            inside = kl(at(t), old) <= delta
            low, high = torch.where(inside, t, low), torch.where(inside, high, t)
        t = (low + high) / 2
        q = at(t).exp()
        centred = gap - (q * gap).sum(-1, keepdim=True)
        slope = (t * (q * centred.square()).sum(-1)).clamp(min=torch.finfo(t.dtype).tiny)
    # Newton's step: hardly a change of t, and the derivative of the t that meets the bound.
    t = t - (kl(at(t), old) - delta) / slope
    return at(t)
