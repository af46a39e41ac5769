"""The engine that runs everything: torch's kernels and autograd, for any network and precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from erc_bench.core import drift
from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import masked_mean
from erc_bench.objectives.base import Objective
from erc_bench.training.engine import Distort, Minibatch, Row
from erc_bench.training.measure import enter, sample_tokens
from erc_bench.training.optimizer import Adam, Learner
from erc_bench.training.population import Params, leaves, take
from erc_bench.training.rollout import (
    Noise,
    Place,
    Rollout,
    as_observation,
    at,
    log_probs,
    play,
    sample,
)
from erc_bench.training.state import Setup
from erc_envs.base import Dynamics

__all__ = ["TorchEngine"]


class TorchEngine:
    """One forward and one backward pass for all runs; see :class:`erc_bench.training.engine.Engine`.

    What it keeps of a token is its observation, ``obs`` ``(R, B, T, F)``, and the old policy's whole
    distribution, ``log_probs`` ``(R, B, T, V)``.
    """

    name = "torch"

    @torch.no_grad()
    def respond(
        self,
        setup: Setup,
        params: Params,
        task: Dynamics,
        place: Place,
        prompts: int,
        group: int,
        runs: Tensor | slice = slice(None),
        *,
        distort: Distort | None = None,
        further: bool = False,
    ) -> Rollout:
        """See :meth:`Engine.respond`."""
        indices = setup.seeds[runs].tolist()
        noise = Noise.draw(setup.seed, indices, place, prompts, group, task.horizon)
        forward = setup.policy.decoder(take(params, runs))
        temperature = None if setup.temperature is None else setup.temperature[runs]
        old_is_distorted = setup.config.sampler.old_policy == "rollout"
        shape = (len(indices), prompts * group, task.horizon)
        old = torch.zeros((*shape, task.num_actions), dtype=setup.dtype)
        acted_logp = torch.zeros(shape, dtype=setup.dtype)
        observations: list[Tensor] = []

        def act(observation: NDArray[Any], t: int) -> Tensor:
            obs = as_observation(observation, len(indices), setup.dtype)
            observations.append(obs)
            logits = forward(obs)
            trained = acting = log_probs(logits, temperature)
            if distort is not None:
                acting = log_probs(distort(logits, observation, t), temperature)
            action = sample(acting, noise.action[..., t])
            old[..., t, :] = acting if old_is_distorted else trained
            acted_logp[..., t] = at(acting, action)
            return action

        action, mask, reward = play(act, task, noise, group_size=group, dtype=setup.dtype)
        observations += [observations[-1]] * (task.horizon - len(observations))
        return Rollout(
            action=action,
            mask=mask,
            reward=reward,
            old_logp=at(old, action),
            old_entropy=drift.entropy(old),
            acted_logp=acted_logp,
            seen={"obs": torch.stack(observations, dim=2), "log_probs": old},
        )

    def update(
        self, setup: Setup, policy: Learner, minibatch: Minibatch, objectives: Sequence[Objective]
    ) -> tuple[Learner, Row, Row]:
        """See :meth:`Engine.update`."""
        params, obs = leaves(policy.params), minibatch.seen["obs"]
        whole = log_probs(setup.policy.forward(params, obs), setup.temperature)
        fields = {**minibatch.fixed, "old_log_probs": minibatch.seen["log_probs"]}
        if minibatch.reference is not None:
            with torch.no_grad():
                reference = setup.policy.forward(minibatch.reference, obs)
                fields["ref_log_probs"] = log_probs(reference, setup.temperature)
            fields["ref_logp"] = at(fields["ref_log_probs"], fields["action"])
        batch = TokenBatch(
            logp=at(whole, fields["action"]),
            entropy=drift.entropy(whole),
            log_probs=whole,
            **fields,
        )
        row = drift.measure(
            batch,
            clip_low=setup.clip[0],
            clip_high=setup.clip[1],
            band_low=setup.band[0],
            band_high=setup.band[1],
            delta=setup.config.violation_delta,
        )
        losses = []
        for objective, runs in zip(objectives, setup.slices, strict=True):
            loss, measured = objective(batch[runs])
            losses.append(loss)
            enter(row, measured, runs, setup.adam.learning_rate)
        total = torch.cat(losses)
        gradients = torch.autograd.grad(total.sum(), list(params.values()))
        policy, norm = setup.adam.step(policy, gradients, total.detach())
        row |= {"loss/total": total.detach(), "grad/norm": norm}
        if minibatch.record is None:
            return policy, row, {}
        return policy, row, sample_tokens(batch, objectives, setup.slices, minibatch.record)

    @torch.no_grad()
    def moved(self, setup: Setup, params: Params, rollout: Rollout) -> Tensor:
        """See :meth:`Engine.moved`."""
        logits = setup.policy.forward(params, rollout.seen["obs"])
        new = log_probs(logits, setup.temperature)
        return masked_mean(drift.kl_exact(rollout.seen["log_probs"], new), rollout.mask)

    @torch.no_grad()
    def values(self, setup: Setup, critic: Params, rollout: Rollout, runs: slice) -> Tensor:
        """See :meth:`Engine.values`."""
        return setup.value.forward(critic, rollout.seen["obs"][runs]).squeeze(-1)

    def fit_values(
        self, setup: Setup, critic: Learner, minibatch: Minibatch, runs: slice
    ) -> Learner:
        """See :meth:`Engine.fit_values`."""
        params, mask = leaves(critic.params), minibatch.fixed["mask"][runs]
        values = setup.value.forward(params, minibatch.seen["obs"][runs]).squeeze(-1)
        error = (values - minibatch.value_target[runs]).square()
        losses = (error * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
        gradients = torch.autograd.grad(losses.sum(), list(params.values()))
        adam = Adam(setup.adam.learning_rate[runs], max_grad_norm=1.0)
        return adam.step(critic, gradients, losses.detach())[0]

    def imitate(
        self, setup: Setup, learner: Learner, obs: Tensor, wanted: Tensor, mask: Tensor, adam: Adam
    ) -> Learner:
        """See :meth:`Engine.imitate`."""
        params, weight = leaves(learner.params), mask.to(wanted.dtype)
        whole = torch.log_softmax(setup.policy.forward(params, obs), dim=-1)
        losses = -((wanted * whole).sum(-1) * weight).sum((1, 2)) / weight.sum((1, 2))
        gradients = torch.autograd.grad(losses.sum(), list(params.values()))
        return adam.step(learner, gradients, losses.detach())[0]
