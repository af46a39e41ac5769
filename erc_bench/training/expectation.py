"""The update without sampling noise: its exact expectation over actions, for policies that are tables.

Every action of every state is one token, which weighs as much as the rollout's policy makes it likely.
The objective stays what it is: clips, gates and penalties see each token as they do in training, and
only the aggregate, a mean over sampled tokens, becomes the mean that it estimates.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.objectives.aggregates import Aggregate
from erc_bench.objectives.base import Objective

__all__ = ["every_action", "expected_gradient", "expected_loss"]


class _Expectation(Aggregate):
    """``sum w x / sum w`` over the unmasked tokens, with each token's probability as its weight."""

    def __init__(self, probability: Tensor) -> None:
        self._probability = probability

    def weights(self, mask: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The tokens' probabilities; 0 where masked."""
        return self._probability.to(dtype) * mask

    def denominator(self, mask: Tensor) -> Tensor:
        """The probability of all that counts."""
        return (self._probability * mask).sum((-2, -1))


def every_action(
    logits: Tensor,
    old_logits: Tensor,
    values: Tensor,
    *,
    scaled: bool = True,
    reference_logits: Tensor | None = None,
) -> TokenBatch:
    """A batch with every action of every state as a response of one token, state after state.

    ``A(s, a) = Q(s, a) - sum_b p(b|s) Q(s, b)`` with p the old policy, divided by its standard deviation
    under p (plus 1e-6, as in GRPO, arXiv:2402.03300) if ``scaled``: what groups estimate.

    Args:
        logits: of the trained policy, ``(..., S, V)``; gradients flow to them.
        old_logits: of the policy that made the rollout.
        values: Q, the return to be expected after each action, ``(..., S, V)``.
        scaled: whether advantages are divided by their standard deviation.
        reference_logits: of the reference policy; None: the old policy.

    Returns:
        A batch ``(..., S V, 1)``.

    Raises:
        InputError: shapes that differ, or another than ``(..., S, V)``.
    """
    reference = old_logits if reference_logits is None else reference_logits
    given = {"old_logits": old_logits, "values": values, "reference_logits": reference}
    if logits.ndim < 2:
        raise InputError(f"logits: shape {tuple(logits.shape)}, must be (..., S, V)")
    for name, value in given.items():
        if value.shape != logits.shape:
            raise InputError(
                f"{name}: shape {tuple(value.shape)}, must be {tuple(logits.shape)} like logits"
            )
    p = old_logits.softmax(-1)
    advantage = values - (p * values).sum(-1, keepdim=True)
    if scaled:
        advantage /= (p * advantage.square()).sum(-1, keepdim=True).sqrt() + 1e-6
    actions = logits.shape[-1]
    shape = (*logits.shape[:-2], logits.shape[-2] * actions, 1)

    def rows(x: Tensor) -> Tensor:  # the state's logits once for each of its actions
        return x.unsqueeze(-2).expand(*x.shape, actions).reshape(*shape, actions)

    action = torch.arange(actions).expand(logits.shape).reshape(shape)
    ref_log_probs = rows(reference.log_softmax(-1))
    old_logp = old_logits.log_softmax(-1).reshape(shape)
    return TokenBatch.from_logits(
        rows(logits),
        rows(old_logits),
        action,
        advantage.reshape(shape),
        torch.ones(shape, dtype=torch.bool),
        ref_log_probs=ref_log_probs,
        ref_logp=reference.log_softmax(-1).reshape(shape),
        rollout_logp=old_logp,
        reward=values.reshape(shape[:-1]),
    )


def expected_loss(
    objective: Objective,
    logits: Tensor,
    old_logits: Tensor,
    values: Tensor,
    *,
    state_weights: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """``E[loss] = sum_s d(s) sum_a p(a|s) loss(s, a)``, what ever larger batches come to, ``(...)``.

    It is exact for losses of single tokens; responses are one token long, so that objectives of whole
    sequences are those of bandits. A constant factor of the aggregate, as dr-grpo's ``1/T_max``, is left
    out.

    >>> from erc_bench.objectives import make
    >>> old, values = torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])
    >>> logits = old.clone().requires_grad_()
    >>> expected_loss(make("reinforce"), logits, old, values, scaled=False).backward()
    >>> -logits.grad  # p_a (A_a - sum_b p_b A_b)
    tensor([[-0.2500,  0.2500]])

    Args:
        objective: without pieces that compare the tokens of a batch with each other.
        logits: as in :func:`every_action`, like the next two.
        old_logits: of the policy that made the rollout.
        values: Q.
        state_weights: d, ``(..., S)``; None: all states weigh the same.
        options: further ones of :func:`every_action`.

    Raises:
        InputError: an objective whose pieces compare tokens, or shapes that do not fit.
    """
    if objective.over_batch:
        raise InputError(
            "objective: one of its pieces compares the tokens of a batch with each other (over_batch); "
            "the expected loss is defined for pieces that look at one token"
        )
    batch = every_action(logits, old_logits, values, **options)
    states = logits.shape[-2]
    if state_weights is None:
        state_weights = logits.new_full((states,), 1 / states)
    if state_weights.shape[-1:] != (states,):
        raise InputError(
            f"state_weights: shape {tuple(state_weights.shape)}, must end in {states}, the states"
        )
    weight = state_weights.unsqueeze(-1) * old_logits.softmax(-1)
    aggregate = _Expectation(weight.expand(logits.shape).reshape(batch.mask.shape))
    loss, _ = replace(objective, aggregate=aggregate)(batch)
    return loss


def expected_gradient(
    objective: Objective, logits: Tensor, old_logits: Tensor, values: Tensor, **options: Any
) -> Tensor:
    """The gradient of :func:`expected_loss` by the logits, ``(..., S, V)``; a step goes against it."""
    leaf = logits.detach().requires_grad_()
    loss = expected_loss(objective, leaf, old_logits, values, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return gradient
