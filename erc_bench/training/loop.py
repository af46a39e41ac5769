"""The training loop of a population: collect, credit, update, adapt. It names no objective.

Read from top to bottom: every function takes the :class:`State` and returns the next one, and no
other thing remembers anything. It is the textbook's PPO, but for three things. All R runs, which are
arms x seeds, share one forward and one backward pass; arms differ in the objective that reads their
slice of the batch. Random numbers are a function of the position in training and not of a generator,
so that a run is the same in any population and after a resume. What an update measures, it measures
exactly, on whole distributions, before it takes its step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from erc_bench.core import drift
from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import masked_mean
from erc_bench.objectives.base import Objective
from erc_bench.training import checkpoint
from erc_bench.training.config import TrainConfig
from erc_bench.training.credit import Credit, assign_credit
from erc_bench.training.distortion import distortion
from erc_bench.training.evaluation import evaluate
from erc_bench.training.measure import sample_tokens
from erc_bench.training.optimizer import Adam, Learner
from erc_bench.training.population import leaves, take
from erc_bench.training.rollout import Rollout, at, log_probs, respond
from erc_bench.training.sampling import fill_with_informative_groups
from erc_bench.training.state import Arm, Setup, State
from erc_bench.training.streams import Purpose, stream, uniforms
from erc_bench.training.warmstart import warm_started
from erc_envs.base import Dynamics

__all__ = ["Minibatch", "TrainResult", "Trainer", "Update"]

#: Seconds between checkpoints of one population.
CHECKPOINT_SECONDS = 20.0
#: Tokens are recorded at every so many updates, and that many times as many of them; in as many
#: rollouts every staleness has its turn.
TOKEN_STRIDE = 4

Row = dict[str, Tensor]
"""Named measurements of one update, one for each run: ``(R,)``, or ``(R, S, ...)`` for S tokens."""


def begin(setup: Setup) -> State:
    """The state before the first rollout: warm-started networks, the same for equal seed indices."""

    def seeded(indices: Sequence[int], purpose: Purpose) -> list[int]:
        return [int(stream(setup.seed, i, purpose).integers(2**31)) for i in indices]

    unique, of_run = torch.unique(setup.seeds, return_inverse=True)
    started = setup.policy.start(seeded(unique.tolist(), Purpose.WEIGHTS))
    params = take(warm_started(setup, started, unique.tolist()), of_run)
    critics = {
        number: Learner.start(setup.value.start(seeded(arm.seeds, Purpose.CRITIC)))
        for number, arm in enumerate(setup.arms)
        if arm.advantage == "gae"
    }
    reads_reference = any(arm.reference for arm in setup.arms)
    return State(
        policy=Learner.start(params),
        critics=critics,
        objectives=[arm.objective for arm in setup.arms],
        reference={name: p.clone() for name, p in params.items()} if reads_reference else None,
        generated=torch.zeros_like(setup.seeds),
    )


def train_on_one_rollout(setup: Setup, state: State, update: Update) -> State:
    """Collect a rollout, give credit for it, update on each of its minibatches, adapt objectives."""
    number = state.rollouts_done
    state, rollout, mean_return = collect(setup, state)
    credit = assign_credit(setup, state, rollout)
    for staleness, minibatch in enumerate(minibatches(setup, state, rollout, credit)):
        policy, row, tokens = update(setup, state.policy, minibatch, state.objectives)
        state = replace(state, policy=policy, critics=update_critics(setup, state, minibatch))
        row["reward/mean"] = mean_return
        if not bool(policy.alive.all()):
            row = {name: torch.where(policy.alive, x, torch.nan) for name, x in row.items()}
        row |= {"diverged": ~policy.alive, "tokens": state.generated}
        row |= _numbers(state.generated, rollout=number, staleness=staleness)
        state.log.append("metrics", row)
        if tokens:
            done = number * setup.config.updates_per_rollout + staleness
            tokens |= _numbers(tokens["action"], update=done, staleness=staleness)
            state.log.append("tokens", tokens)
    return replace(adapt(setup, state, rollout), rollouts_done=number + 1)


def _numbers(like: Tensor, **values: int) -> Row:
    """Columns of one value each."""
    return {name: torch.full_like(like, value) for name, value in values.items()}


def collect(setup: Setup, state: State) -> tuple[State, Rollout, Tensor]:
    """One rollout of every run, and its mean return before any dynamic sampling, ``(R,)``."""
    config, number = setup.config, state.rollouts_done
    task = setup.dynamics.at(number / config.rollouts)
    generated = state.generated.clone()

    def one(round_: int, runs: Tensor | slice) -> Rollout:
        place = (Purpose.ROLLOUT, number, round_)
        distort = distortion(setup, number, round_, runs)
        shape = (config.prompts, config.group_size)
        rollout = respond(setup, state.policy.params, task, place, *shape, runs, distort)
        generated[runs] += rollout.mask.sum((1, 2))
        return rollout

    rollout = one(0, slice(None))
    mean_return = rollout.returns.mean(-1)
    dynamic = torch.cat([torch.full((len(arm),), arm.dynamic_sampling) for arm in setup.arms])
    rollout = fill_with_informative_groups(
        rollout, dynamic, config.group_size, config.generation_rounds, one
    )
    return replace(state, generated=generated), rollout, mean_return


@dataclass(frozen=True)
class Minibatch:
    """What one update is made from; B responses of T tokens.

    Attributes:
        obs: observations, ``(R, B, T, F)``.
        fixed: the fields of :class:`TokenBatch` that the trained parameters do not move.
        value_target: what value heads are fitted to, ``(R, B, T)``.
        record: uniforms in [0, 1) that choose S tokens to be recorded whole, ``(R, S)``; None: none.
    """

    obs: Tensor
    fixed: dict[str, Tensor]
    value_target: Tensor
    record: Tensor | None


def minibatches(
    setup: Setup, state: State, rollout: Rollout, credit: Credit
) -> Iterator[Minibatch]:
    """The rollout's parts, split by prompt, once per epoch: one for every update."""
    config, number = setup.config, state.rollouts_done
    fixed = {
        "old_logp": rollout.old_logp,
        "old_entropy": drift.entropy(rollout.log_probs),
        "old_log_probs": rollout.log_probs,
        "action": rollout.action,
        "mask": rollout.mask,
        "advantage": credit.advantage,
        "reward": rollout.returns,
    }
    if config.sampler.old_policy == "trainer" and setup.distorted:
        fixed["rollout_logp"] = rollout.acted_logp
    shape = (config.updates_per_rollout, TOKEN_STRIDE * config.token_samples)
    seeds = setup.seeds.tolist()
    chosen = uniforms(setup.seed, seeds, Purpose.TOKEN_SAMPLE, number, shape=shape)
    rows = config.prompts * config.group_size // config.minibatches
    for staleness in range(config.updates_per_rollout):
        first = staleness % config.minibatches * rows
        part = slice(first, first + rows)
        obs, cut = rollout.obs[:, part], {name: x[:, part] for name, x in fixed.items()}
        if state.reference is not None:
            with torch.no_grad():
                reference = setup.policy.forward(state.reference, obs)
                cut["ref_log_probs"] = log_probs(reference, setup.temperature)
            cut["ref_logp"] = at(cut["ref_log_probs"], cut["action"])
        recorded = config.token_samples and (staleness + number) % TOKEN_STRIDE == 0
        record = torch.from_numpy(chosen[:, staleness]) if recorded else None
        yield Minibatch(obs, cut, credit.value_target[:, part], record)


Update = Callable[[Setup, Learner, Minibatch, Sequence[Objective]], tuple[Learner, Row, Row]]
"""One optimiser step of every run, the seam behind which another engine can stand.

It takes what :func:`update` takes and returns what that returns: every parameter and metric agrees to
1e-5.
"""


def update(
    setup: Setup, policy: Learner, minibatch: Minibatch, objectives: Sequence[Objective]
) -> tuple[Learner, Row, Row]:
    """One optimiser step of every run, by torch's autograd, for every kind of network and objective.

    Args:
        setup: who is trained, and with which step size, temperature and measures.
        policy: parameters and the optimiser's state before the step; its arrays are reused.
        minibatch: what the step is made from.
        objectives: of every arm; each reads the arm's slice of the runs.

    Returns:
        The learner after the step; what was measured before it, NaN where a metric means nothing for
        a run; and the columns of the tokens table, if the minibatch asks for them.
    """
    params = leaves(policy.params)
    whole = log_probs(setup.policy.forward(params, minibatch.obs), setup.temperature)
    batch = TokenBatch(
        logp=at(whole, minibatch.fixed["action"]),
        entropy=drift.entropy(whole),
        log_probs=whole,
        **minibatch.fixed,
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
        for name, value in measured.items():
            row.setdefault(name, torch.full_like(setup.adam.learning_rate, torch.nan))[runs] = value
    total = torch.cat(losses)
    gradients = torch.autograd.grad(total.sum(), list(params.values()))
    policy, norm = setup.adam.step(policy, gradients, total.detach())
    row |= {"loss/total": total.detach(), "grad/norm": norm}
    if minibatch.record is None:
        return policy, row, {}
    return policy, row, sample_tokens(batch, objectives, setup.slices, minibatch.record)


def update_critics(setup: Setup, state: State, minibatch: Minibatch) -> dict[int, Learner]:
    """Value heads after one step on the mean squared error over unmasked tokens."""
    critics = {}
    for number, critic in state.critics.items():
        runs = setup.slices[number]
        params, mask = leaves(critic.params), minibatch.fixed["mask"][runs]
        values = setup.value.forward(params, minibatch.obs[runs]).squeeze(-1)
        error = (values - minibatch.value_target[runs]).square()
        losses = (error * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
        gradients = torch.autograd.grad(losses.sum(), list(params.values()))
        adam = Adam(setup.adam.learning_rate[runs], max_grad_norm=1.0)
        critics[number], _ = adam.step(critic, gradients, losses.detach())
    return critics


@torch.no_grad()
def adapt(setup: Setup, state: State, rollout: Rollout) -> State:
    """Tell adaptive objectives how far the rollout's updates led: mean exact KL, ``(len(arm),)``."""

    def adapted(objective: Objective, runs: slice) -> Objective:
        if not objective.adaptive:
            return objective
        logits = setup.policy.forward(take(state.policy.params, runs), rollout.obs[runs])
        new = log_probs(logits, setup.per_run["temperature"][runs])
        moved = drift.kl_exact(rollout.log_probs[runs], new)
        return objective.adapted({"drift/kl_exact": masked_mean(moved, rollout.mask[runs])})

    pairs = zip(state.objectives, setup.slices, strict=True)
    return replace(state, objectives=[adapted(objective, runs) for objective, runs in pairs])


@dataclass(frozen=True)
class TrainResult:
    """What a population leaves behind; R runs in the order of the arms.

    Attributes:
        metrics: by name, ``(updates, R)``; NaN where a metric has no meaning for a run.
        tokens: by name, ``(updates, R, samples, ...)``.
        runs: by name, ``(R,)``.
    """

    metrics: dict[str, NDArray[Any]]
    tokens: dict[str, NDArray[Any]]
    runs: dict[str, NDArray[Any]]


class Trainer:
    """Trains every run of every arm in one batched program: a state, and the functions above.

    Args:
        config, dynamics, space, arms, seed, clip: see :class:`erc_bench.training.state.Setup`.
        update: makes the optimiser steps.
    """

    def __init__(
        self,
        config: TrainConfig,
        dynamics: Dynamics,
        space: spaces.Space[Any],
        arms: Sequence[Arm],
        *,
        seed: int,
        clip: tuple[float, float] = (0.2, 0.2),
        update: Update = update,
    ) -> None:
        self.setup = Setup(config, dynamics, space, tuple(arms), seed, clip)
        self.state = begin(self.setup)
        self.update = update

    def run(
        self,
        *,
        on_rollout: Callable[[int], None] = lambda _: None,
        checkpoint_path: Path | None = None,
    ) -> TrainResult:
        """Train to the end, from the checkpoint if there is one.

        Args:
            on_rollout: called with the number of rollouts done, after each.
            checkpoint_path: where to keep a checkpoint; removed by the caller once the result is
                stored.
        """
        setup, state = self.setup, self.state
        if checkpoint_path is not None and checkpoint_path.exists():
            state = checkpoint.load(checkpoint_path, setup, state)
        on_rollout(state.rollouts_done)
        saved = time.monotonic()
        if not state.evaluations:
            state = replace(state, evaluations=evaluate(setup, state, "initial"))
        self.state = state
        while state.rollouts_done < setup.config.rollouts:
            self.state = state = train_on_one_rollout(setup, state, self.update)
            if checkpoint_path is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                checkpoint.save_state(checkpoint_path, setup, state)
                saved = time.monotonic()
            on_rollout(state.rollouts_done)
        runs = {
            **state.evaluations,
            **evaluate(setup, state, "final"),
            "tokens": state.generated,
            "diverged": ~state.policy.alive,
        }
        return TrainResult(
            state.log.stacked("metrics"),
            state.log.stacked("tokens"),
            {name: value.numpy() for name, value in runs.items()},
        )
