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

from erc_bench.training import checkpoint
from erc_bench.training.config import TrainConfig
from erc_bench.training.credit import Credit, assign_credit
from erc_bench.training.distortion import distortion
from erc_bench.training.engine import Engine, Minibatch, Row
from erc_bench.training.evaluation import evaluate
from erc_bench.training.native.engine import NativeEngine
from erc_bench.training.native.library import kernel
from erc_bench.training.optimizer import Learner
from erc_bench.training.population import Params, take
from erc_bench.training.rollout import Rollout
from erc_bench.training.sampling import fill_with_informative_groups
from erc_bench.training.state import Arm, Setup, State
from erc_bench.training.streams import Purpose, orders, stream, uniforms
from erc_bench.training.torch_engine import TorchEngine
from erc_bench.training.warmstart import warm_started
from erc_envs.base import Dynamics

__all__ = ["TrainResult", "Trainer"]

#: Seconds between checkpoints of one population.
CHECKPOINT_SECONDS = 20.0
#: Tokens are recorded at every so many updates, and that many times as many of them; in as many
#: rollouts every staleness has its turn.
TOKEN_STRIDE = 4


def engine_of(setup: Setup) -> Engine:
    """The engine that the configuration asks for; torch's where the native one cannot serve.

    That is where it was not compiled, and for transformers and float64.
    """
    network, compiled = setup.config.network, kernel()
    serves = network.policy in ("mlp", "tabular") and network.dtype == "float32"
    if setup.config.engine == "native" and serves and compiled is not None:
        return NativeEngine(compiled)
    return TorchEngine()


def begin(setup: Setup, engine: Engine) -> State:
    """The state before the first rollout: warm-started networks, the same for equal seed indices."""

    def seeded(indices: Sequence[int], purpose: Purpose) -> list[int]:
        return [int(stream(setup.seed, i, purpose).integers(2**31)) for i in indices]

    unique, of_run = torch.unique(setup.seeds, return_inverse=True)
    started = setup.policy.start(seeded(unique.tolist(), Purpose.WEIGHTS))
    params = take(warm_started(setup, engine, started, unique.tolist()), of_run)
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


def train_on_one_rollout(setup: Setup, engine: Engine, state: State) -> State:
    """Collect a rollout, give credit for it, update on each of its minibatches, adapt objectives."""
    number = state.rollouts_done
    state, rollout, mean_return = collect(setup, engine, state)
    credit = assign_credit(setup, engine, state, rollout)
    for staleness, minibatch in enumerate(minibatches(setup, state, rollout, credit)):
        policy, row, tokens = engine.update(setup, state.policy, minibatch, state.objectives)
        critics = update_critics(setup, engine, state, minibatch)
        state = replace(state, policy=policy, critics=critics)
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
    return replace(adapt(setup, engine, state, rollout), rollouts_done=number + 1)


def _numbers(like: Tensor, **values: int) -> Row:
    """Columns of one value each."""
    return {name: torch.full_like(like, value) for name, value in values.items()}


def collect(setup: Setup, engine: Engine, state: State) -> tuple[State, Rollout, Tensor]:
    """One rollout of every run, and its mean return before any dynamic sampling, ``(R,)``."""
    config, number = setup.config, state.rollouts_done
    task = setup.dynamics.at(number / config.rollouts)
    generated = state.generated.clone()
    state, params = behaviour(setup, state)

    def answered(round_: int, runs: Tensor | slice) -> Rollout:
        rollout = engine.respond(
            setup,
            params,
            task,
            (Purpose.ROLLOUT, number, round_),
            config.prompts,
            config.group_size,
            runs,
            distort=distortion(setup, params, number, round_, runs),
            further=round_ > 0,
        )
        generated[runs] += rollout.mask.sum((1, 2))
        return rollout

    def one(round_: int, runs: Tensor) -> Rollout:
        return judged(setup, answered(round_, runs), number, round_, runs)

    rollout = answered(0, slice(None))
    mean_return = rollout.returns.mean(-1)
    rollout = judged(setup, rollout, number, 0, slice(None))
    dynamic = torch.cat([torch.full((len(arm),), arm.dynamic_sampling) for arm in setup.arms])
    rollout = fill_with_informative_groups(
        rollout, dynamic, config.group_size, config.generation_rounds, one
    )
    return replace(state, generated=generated), rollout, mean_return


def behaviour(setup: Setup, state: State) -> tuple[State, Params]:
    """The parameters that sample the next rollout: each run's as they were ``rollout_lag`` rollouts ago.

    Before there are so many, those that training started from.
    """
    params, most = state.policy.params, int(setup.lag.max())
    if not most:
        return state, params
    kept = {name: p.clone() for name, p in params.items()}  # updates reuse the arrays
    earlier = [*state.earlier, kept][-most - 1 :]
    back = setup.lag.clamp(max=len(earlier) - 1)
    runs = torch.arange(len(back))
    lagging = {
        name: torch.stack([past[name] for past in reversed(earlier)])[back, runs] for name in params
    }
    return replace(state, earlier=earlier), lagging


def judged(
    setup: Setup, rollout: Rollout, number: int, round_: int, runs: Tensor | slice
) -> Rollout:
    """The rollout as a verifier rewards it that errs: its return is changed at the response's last token."""
    if setup.verifier_errors is None:
        return rollout
    returns, rates = rollout.returns, setup.verifier_errors[:, runs].unsqueeze(-1)
    seeds, shape = setup.seeds[runs].tolist(), returns.shape[1:]
    drawn = uniforms(setup.seed, seeds, Purpose.VERIFIER, number, round_, shape=shape)
    success = returns > 0.5
    wrong = torch.from_numpy(drawn) < torch.where(success, rates[1], rates[0])
    change = torch.where(wrong, (~success).to(returns.dtype) - returns, 0.0)
    last = (rollout.lengths - 1).clamp(min=0).unsqueeze(-1)
    return replace(rollout, reward=rollout.reward.scatter_add(-1, last, change.unsqueeze(-1)))


def minibatches(
    setup: Setup, state: State, rollout: Rollout, credit: Credit
) -> Iterator[Minibatch]:
    """The rollout's parts, once per epoch: one for every update."""
    config, number = setup.config, state.rollouts_done
    fixed = {
        "old_logp": rollout.old_logp,
        "old_entropy": rollout.old_entropy,
        "action": rollout.action,
        "mask": rollout.mask,
        "advantage": credit.advantage,
    }
    if config.sampler.old_policy == "trainer" and setup.distorted:
        fixed["rollout_logp"] = rollout.acted_logp
    if not bool(rollout.mask.all()):
        fixed = {name: x.masked_fill(~rollout.mask, 0) for name, x in fixed.items()}
    fixed["reward"] = rollout.returns
    seen, target = rollout.seen, credit.value_target
    seeds = setup.seeds.tolist()
    if config.minibatches_of == "responses":
        responses = rollout.mask.shape[1:2]
        drawn = uniforms(setup.seed, seeds, Purpose.MINIBATCH, number, shape=responses)
        places = torch.from_numpy(drawn).argsort(dim=-1, stable=True)
        runs = torch.arange(len(places)).unsqueeze(-1)
        fixed, seen = ({n: x[runs, places] for n, x in t.items()} for t in (fixed, seen))
        target = target[runs, places]
    order = random_order(setup, state, fixed["mask"])
    shape = (config.updates_per_rollout, TOKEN_STRIDE * config.token_samples)
    chosen = uniforms(setup.seed, seeds, Purpose.TOKEN_SAMPLE, number, shape=shape)
    rows = config.prompts * config.group_size // config.minibatches

    def cut(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        columns = (torch.split(x, rows, dim=1) for x in tensors.values())
        return [dict(zip(tensors, parts, strict=True)) for parts in zip(*columns, strict=True)]

    parts = list(
        zip(
            cut(fixed),
            cut(seen),
            torch.split(target, rows, dim=1),
            strict=True,
        )
    )
    for staleness in range(config.updates_per_rollout):
        recorded = config.token_samples and (staleness + number) % TOKEN_STRIDE == 0
        record = torch.from_numpy(chosen[:, staleness]) if recorded else None
        given, known, wanted = parts[staleness % config.minibatches]
        if order is not None:
            given = {**given, "order": order[:, staleness]}
        yield Minibatch(given, known, wanted, state.reference, record)


def random_order(setup: Setup, state: State, mask: Tensor) -> Tensor | None:
    """A random order of the unmasked tokens of every update, ``(R, updates, rows, T)``; None: nobody asks.

    Args:
        setup: who is trained on what.
        state: before the updates.
        mask: of the rollout in the order of its minibatches, ``(R, B, T)``.
    """
    if not any(objective.draws_order for objective in state.objectives):
        return None
    config, place = setup.config, (Purpose.ORDER, state.rollouts_done)
    parts = mask.view(len(mask), config.minibatches, -1).repeat(1, config.epochs, 1)
    found = orders(setup.seed, setup.seeds.tolist(), *place, mask=parts.numpy())
    return torch.from_numpy(found).view(*parts.shape[:2], -1, mask.shape[-1])


def update_critics(
    setup: Setup, engine: Engine, state: State, minibatch: Minibatch
) -> dict[int, Learner]:
    """Value heads after one step, by the number of their arm."""
    return {
        number: engine.fit_values(setup, critic, minibatch, setup.slices[number])
        for number, critic in state.critics.items()
    }


def adapt(setup: Setup, engine: Engine, state: State, rollout: Rollout) -> State:
    """Tell adaptive objectives how far the rollout's updates led: mean exact KL, ``(len(arm),)``."""
    if not any(objective.adaptive for objective in state.objectives):
        return state
    moved = engine.moved(setup, state.policy.params, rollout)
    pairs = zip(state.objectives, setup.slices, strict=True)
    adapted = [objective.adapted({"drift/kl_exact": moved[runs]}) for objective, runs in pairs]
    return replace(state, objectives=adapted)


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
        engine: evaluates the networks and makes the optimiser steps; None: the one that the
            configuration asks for.
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
        engine: Engine | None = None,
    ) -> None:
        self.setup = Setup(config, dynamics, space, tuple(arms), seed, clip)
        self.engine = engine_of(self.setup) if engine is None else engine
        self.state = begin(self.setup, self.engine)

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
            first = evaluate(setup, self.engine, state, "initial")
            state = replace(state, evaluations=first)
        self.state = state
        while state.rollouts_done < setup.config.rollouts:
            self.state = state = train_on_one_rollout(setup, self.engine, state)
            if checkpoint_path is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                checkpoint.save_state(checkpoint_path, setup, state)
                saved = time.monotonic()
            on_rollout(state.rollouts_done)
        runs = {
            **state.evaluations,
            **evaluate(setup, self.engine, state, "final"),
            "tokens": state.generated,
            "diverged": ~state.policy.alive,
        }
        return TrainResult(
            state.log.stacked("metrics"),
            state.log.stacked("tokens"),
            {name: value.numpy() for name, value in runs.items()},
        )
