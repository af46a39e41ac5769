"""Rollout, advantage, updates: the training loop of a population. It names no objective."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from erc_bench.core import drift
from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import masked_mean
from erc_bench.core.storage import cache_folder
from erc_bench.training import checkpoint
from erc_bench.training.config import Arm, TrainConfig
from erc_bench.training.credit import Critic, assign_credit
from erc_bench.training.distortion import EXACT_BITS, Distortion
from erc_bench.training.evaluation import evaluate
from erc_bench.training.measure import Log, sample_tokens
from erc_bench.training.optimizer import PopulationAdam
from erc_bench.training.policies import MLP, build_policy
from erc_bench.training.population import Params, Population
from erc_bench.training.rollout import Dynamics, Noise, Rollout, generate
from erc_bench.training.sampling import fill_with_informative_groups
from erc_bench.training.streams import Purpose, normals, stream, uniforms
from erc_bench.training.warmcache import WarmCache
from erc_bench.training.warmstart import cached_warm_start, fingerprint, warm_start

__all__ = ["TrainResult", "Trainer"]

#: Seconds between checkpoints of one population.
CHECKPOINT_SECONDS = 20.0
#: Tokens are recorded at every so many updates, that many times as many, and so that in as many
#: rollouts every staleness has its turn.
TOKEN_STRIDE = 4


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
    """Trains every run of every arm in one batched program.

    Args:
        config: settings shared by all runs.
        dynamics: the environment's batched transitions.
        space: observation space of one episode.
        arms: objectives with their seeds; runs of all arms share forward and backward passes.
        seed: root of all randomness.
        clip: (low, high) reference clip range of the drift measures, the same for every arm.
        band: (low, high) reference band of the entropy ratio, likewise.
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
        band: tuple[float, float] = (0.05, 0.05),
    ) -> None:
        self.config, self.dynamics, self.arms, self.seed = config, dynamics, list(arms), seed
        self.asked = tuple(arms)  # an adaptive objective changes from rollout to rollout
        self.clip, self.band = clip, band
        self.seeds = [index for arm in self.arms for index in arm.seeds]
        bounds = np.cumsum([0, *map(len, self.arms)])
        self.slices = [slice(int(a), int(b)) for a, b in pairwise(bounds)]
        self.learning_rate = self._per_run(
            [arm.learning_rate for arm in arms], config.learning_rate
        )
        self.temperature = self._per_run([arm.temperature for arm in arms], config.temperature)
        self.rollout_bits = self._per_run([arm.rollout_bits for arm in arms], config.rollout_bits)
        self.rollout_jitter = self._per_run(
            [arm.rollout_jitter for arm in arms], config.rollout_jitter
        )
        hot = bool((self.temperature != 1).any())
        self._heat = self.temperature.view(-1, 1, 1, 1) if hot else None
        self.distorted = bool((self.rollout_bits < EXACT_BITS).any() | self.rollout_jitter.any())
        self.log = Log()
        self.generated = torch.zeros(len(self.seeds), dtype=torch.int64)
        self.rollouts_done = 0
        self.evaluations: dict[str, Tensor] = {}

        unique, index = np.unique(self.seeds, return_inverse=True)
        self.policy = Population(
            lambda: self._build(dynamics.num_actions, space),
            [self._weight_seed(i, Purpose.WEIGHTS) for i in unique],
            config.torch_dtype,
        )
        if config.warm_start_steps:
            self._warm_start([int(i) for i in unique])
        self.policy.repeat(torch.as_tensor(index))
        wants_reference = any(arm.reference for arm in self.arms)
        self._reference = (
            {name: p.clone() for name, p in self.policy.params.items()} if wants_reference else None
        )
        self.optimizer = PopulationAdam(
            self.policy.params,
            self.learning_rate,
            max_grad_norm=config.max_grad_norm,
            weight_decay=config.weight_decay,
        )
        self.critics = {
            number: Critic(
                Population(
                    lambda: MLP(space, 1, config.hidden),
                    [self._weight_seed(i, Purpose.CRITIC) for i in arm.seeds],
                    config.torch_dtype,
                ),
                self.learning_rate[self.slices[number]],
                config.gae_lambda,
            )
            for number, arm in enumerate(self.arms)
            if arm.advantage == "gae"
        }

    def _warm_start(self, seeds: list[int]) -> None:
        """Fit the corpus; what takes long, and is the same for every arm, is kept on disk."""
        config = self.config
        steps, rate = config.warm_start_steps, config.warm_start_learning_rate
        if config.policy != "transformer":
            warm_start(
                self.policy, self.dynamics, seed=self.seed, seeds=seeds, steps=steps,
                learning_rate=rate,
            )  # fmt: skip
            return
        asked = (config.policy, config.hidden, config.dtype, self.seed, steps, rate)
        cache = WarmCache(cache_folder(), (*asked, fingerprint(self.dynamics)))
        cached_warm_start(
            self.policy, self.dynamics, cache, seed=self.seed, seeds=seeds, steps=steps,
            learning_rate=rate,
        )  # fmt: skip

    def _build(self, outputs: int, space: spaces.Space[Any]) -> torch.nn.Module:
        options = {} if self.config.policy == "tabular" else {"hidden": self.config.hidden}
        return build_policy(self.config.policy, space, outputs, **options)

    def _weight_seed(self, index: int, purpose: Purpose) -> int:
        return int(stream(self.seed, int(index), purpose).integers(2**31))

    def _per_run(self, given: list[Tensor | None], default: float) -> Tensor:
        dtype = self.config.torch_dtype
        rows = [
            torch.full((len(arm),), default, dtype=dtype)
            if value is None
            else torch.as_tensor(value, dtype=dtype).expand(len(arm))
            for arm, value in zip(self.arms, given, strict=True)
        ]
        return torch.cat(rows)

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
        if checkpoint_path is not None and checkpoint_path.exists():
            checkpoint.load(self, checkpoint_path)
        on_rollout(self.rollouts_done)
        saved = time.monotonic()
        if not self.evaluations:
            self.evaluations |= self._evaluate("initial")
        while self.rollouts_done < self.config.rollouts:
            self._train_on_one_rollout(self.rollouts_done)
            self.rollouts_done += 1
            if checkpoint_path is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                checkpoint.save_state(self, checkpoint_path)
                saved = time.monotonic()
            on_rollout(self.rollouts_done)
        runs = {
            **self.evaluations,
            **self._evaluate("final"),
            "tokens": self.generated,
            "diverged": ~self.optimizer.alive,
        }
        return TrainResult(
            self.log.stacked("metrics"),
            self.log.stacked("tokens"),
            {name: value.numpy() for name, value in runs.items()},
        )

    def _noise(self, purpose: Purpose, *position: int, prompts: int, group: int) -> Noise:
        """A rollout's randomness; the horizon is the same at every progress."""
        responses, horizon = prompts * group, self.dynamics.horizon
        drawn = uniforms(
            self.seed, self.seeds, purpose, *position,
            shape=(Noise.size(prompts, responses, horizon),),
        )  # fmt: skip
        return Noise.split(drawn, prompts, responses, horizon)

    def _generate(
        self,
        task: Dynamics,
        noise: Noise,
        group: int,
        runs: Tensor | None = None,
        distort: Distortion | None = None,
    ) -> Rollout:
        """Rollout of all runs, or of some of them by index."""
        params = None if runs is None else self.policy.select(runs)
        if runs is not None:
            rows = runs.numpy()
            noise = Noise(noise.prompt[rows], noise.action[runs], noise.transition[rows])
        return generate(
            self.policy.decoder(params),
            task,
            noise,
            group_size=group,
            temperature=self.temperature if runs is None else self.temperature[runs],
            dtype=self.config.torch_dtype,
            distort=distort,
        )

    def _distortion(self, number: int, round_: int, runs: Tensor | None) -> Distortion | None:
        """What the engine that samples does to this rollout's logits; None: it is the policy."""
        every = slice(None) if runs is None else runs
        bits, jitter = self.rollout_bits[every], self.rollout_jitter[every]
        exact = bool((bits >= EXACT_BITS).all()) and not bool(jitter.any())
        if exact:
            return None
        noise = None
        if bool(jitter.any()):
            config, task = self.config, self.dynamics
            shape = (config.prompts * config.group_size, task.horizon, task.num_actions)
            seeds = self.seeds if runs is None else [self.seeds[i] for i in runs.tolist()]
            drawn = normals(self.seed, seeds, Purpose.JITTER, number, round_, shape=shape)
            noise = torch.from_numpy(drawn).to(config.torch_dtype)
        return Distortion(bits, jitter, noise, is_old=self.config.old_policy == "rollout")

    def _evaluate(self, when: str) -> dict[str, Tensor]:
        """What the sampling policy does in fresh episodes of the held-out task, undistorted."""
        config, last = self.config, when == "final"
        answers = config.evaluation_answers
        noise = self._noise(
            Purpose.EVALUATION, int(last),
            prompts=config.evaluation_episodes // answers, group=answers,
        )  # fmt: skip
        task = self.dynamics.at(float(last)).held_out()
        values = evaluate(self._generate(task, noise, answers), answers, when)
        alive = self.optimizer.alive
        return {name: torch.where(alive, v, torch.nan) for name, v in values.items()}

    def _train_on_one_rollout(self, number: int) -> None:
        config = self.config
        rollout, mean_return = self._collect(number)
        credit = assign_credit(rollout, self.arms, self.slices, self.critics, config)
        rows = config.prompts * config.group_size // config.minibatches
        old_logp = rollout.log_probs.gather(-1, rollout.action.unsqueeze(-1)).squeeze(-1)
        engine = self.distorted and config.old_policy == "trainer"
        old_entropy = drift.entropy(rollout.log_probs)
        chosen = uniforms(
            self.seed, self.seeds, Purpose.TOKEN_SAMPLE, number,
            shape=(config.updates_per_rollout, TOKEN_STRIDE * config.token_samples),
        )  # fmt: skip
        for staleness in range(config.updates_per_rollout):
            first = staleness % config.minibatches * rows
            part = slice(first, first + rows)
            batch = self._forward(rollout, old_logp, old_entropy, credit.advantage, part)
            if engine:
                batch = replace(batch, rollout_logp=rollout.acted_logp[:, part])
            row = self._update(batch, rollout.obs[:, part], credit.value_target[:, part])
            row |= {
                "rollout": torch.full_like(self.generated, number),
                "staleness": torch.full_like(self.generated, staleness),
                "tokens": self.generated.clone(),
                "reward/mean": torch.where(self.optimizer.alive, mean_return, torch.nan),
            }
            self.log.append("metrics", row)
            if config.token_samples and (staleness + number) % TOKEN_STRIDE == 0:
                picked = torch.from_numpy(chosen[:, staleness])
                columns = sample_tokens(batch, self.arms, self.slices, picked)
                columns["update"] = torch.full_like(
                    columns["action"], number * config.updates_per_rollout + staleness
                )
                columns["staleness"] = torch.full_like(columns["action"], staleness)
                self.log.append("tokens", columns)
        self._adapt(rollout)

    @torch.no_grad()
    def _adapt(self, rollout: Rollout) -> None:
        """Tell adaptive objectives how far the rollout's updates led: mean exact KL, ``(len(arm),)``."""
        for number, (arm, runs) in enumerate(zip(self.arms, self.slices, strict=True)):
            if not arm.objective.adaptive:
                continue
            params = {name: p[runs] for name, p in self.policy.params.items()}
            logits = self.policy.forward(rollout.obs[runs], params)
            heat = self.temperature[runs].view(-1, 1, 1, 1)
            moved = drift.kl_exact(
                rollout.log_probs[runs], torch.log_softmax(logits / heat, dim=-1)
            )
            measured = masked_mean(moved, rollout.mask[runs])
            objective = arm.objective.adapted({"drift/kl_exact": measured})
            self.arms[number] = replace(arm, objective=objective)

    def _collect(self, number: int) -> tuple[Rollout, Tensor]:
        """One rollout, with dynamic sampling for the arms that use it, and its unfiltered mean return."""
        config = self.config
        task = self.dynamics.at(number / config.rollouts)

        def one(round_: int, runs: Tensor | None) -> Rollout:
            noise = self._noise(
                Purpose.ROLLOUT, number, round_, prompts=config.prompts, group=config.group_size
            )
            distort = self._distortion(number, round_, runs)
            rollout = self._generate(task, noise, config.group_size, runs, distort)
            tokens = rollout.mask.sum((1, 2))
            if runs is None:
                self.generated += tokens
            else:
                self.generated[runs] += tokens
            return rollout

        rollout = one(0, None)
        mean_return = rollout.returns.mean(-1)
        dynamic = torch.cat([torch.full((len(arm),), arm.dynamic_sampling) for arm in self.arms])
        rollout = fill_with_informative_groups(
            rollout, dynamic, config.group_size, config.generation_rounds, one
        )
        return rollout, mean_return

    def _forward(
        self,
        rollout: Rollout,
        old_logp: Tensor,
        old_entropy: Tensor,
        advantage: Tensor,
        part: slice,
    ) -> TokenBatch:
        """The minibatch under the current parameters, with gradients."""
        for p in self.policy.params.values():
            p.requires_grad_()
        obs, action = rollout.obs[:, part], rollout.action[:, part]
        log_probs = self._log_probs(obs)
        index = action.unsqueeze(-1)
        reference: dict[str, Tensor] = {}
        if self._reference is not None:
            with torch.no_grad():
                whole = self._log_probs(obs, self._reference)
            reference = {
                "ref_log_probs": whole,
                "ref_logp": whole.gather(-1, index).squeeze(-1),
            }
        return TokenBatch(
            logp=log_probs.gather(-1, index).squeeze(-1),
            old_logp=old_logp[:, part],
            entropy=drift.entropy(log_probs),
            old_entropy=old_entropy[:, part],
            advantage=advantage[:, part],
            mask=rollout.mask[:, part],
            action=action,
            log_probs=log_probs,
            old_log_probs=rollout.log_probs[:, part],
            reward=rollout.returns[:, part],
            **reference,
        )

    def _log_probs(self, obs: Tensor, params: Params | None = None) -> Tensor:
        """Whole distributions at the runs' temperatures, ``(R, B, T, V)``."""
        logits = self.policy.forward(obs, params)
        return torch.log_softmax(logits if self._heat is None else logits / self._heat, dim=-1)

    def _update(self, batch: TokenBatch, obs: Tensor, value_target: Tensor) -> dict[str, Tensor]:
        """One optimiser step of every run; returns what was measured before it."""
        losses: list[Tensor] = []
        row = drift.measure(
            batch, clip_low=self.clip[0], clip_high=self.clip[1],
            band_low=self.band[0], band_high=self.band[1], delta=self.config.violation_delta,
        )  # fmt: skip
        for arm, runs in zip(self.arms, self.slices, strict=True):
            loss, measured = arm.objective(batch[runs])
            losses.append(loss)
            for name, value in measured.items():
                row.setdefault(name, torch.full_like(self.learning_rate, torch.nan))[runs] = value
        total = torch.cat(losses)
        params = list(self.policy.params.values())
        gradients = torch.autograd.grad(total.sum(), params)
        for p in params:
            p.requires_grad_(False)
        row["loss/total"] = total.detach()
        row["grad/norm"] = self.optimizer.step(gradients, total.detach())
        for number, critic in self.critics.items():
            runs = self.slices[number]
            critic.update(obs[runs], value_target[runs], batch.mask[runs])
        alive = self.optimizer.alive
        if not bool(alive.all()):
            row = {name: torch.where(alive, value, torch.nan) for name, value in row.items()}
        row["diverged"] = ~alive
        return row
