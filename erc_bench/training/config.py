"""What a training run is, apart from its objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import torch
from torch import Tensor
from typing_extensions import Doc

from erc_bench.core.advantages import Advantage
from erc_bench.objectives.base import Objective

__all__ = ["Arm", "TrainConfig"]

#: Of any whole number; a larger one is a slip, and would be an endless loop or a crash somewhere.
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class TrainConfig:
    """Settings shared by all runs of a population; the paper's regime, scaled down, by default.

    A rollout is ``prompts`` x ``group_size`` responses. It is split by prompt into ``minibatches``,
    each used once per epoch: ``minibatches * epochs`` updates per rollout, which is how stale the
    last of them is.

    Raises:
        ValueError: a value out of its range; the message names field, value and what is allowed.
    """

    rollouts: Annotated[int, Doc("Rollouts (each followed by its updates).")] = 60
    prompts: Annotated[int, Doc("Prompts per rollout, P.")] = 32
    group_size: Annotated[int, Doc("Responses per prompt, G.")] = 8
    minibatches: Annotated[int, Doc("Parts a rollout is split into; must divide `prompts`.")] = 8
    epochs: Annotated[int, Doc("Passes over a rollout.")] = 1
    learning_rate: Annotated[float, Doc("Adam's step size; 0: nothing is learnt.")] = 5e-4
    max_grad_norm: Annotated[
        float, Doc("Largest l2 norm of a run's gradient; larger ones are scaled down. inf: never.")
    ] = 1.0
    weight_decay: Annotated[float, Doc("Decoupled weight decay.")] = 0.0
    temperature: Annotated[float, Doc("Softmax temperature, in rollouts and updates alike.")] = 1.0
    gae_lambda: Annotated[
        float,
        Doc("lambda of generalised advantage estimation (arms with a value head); gamma is 1."),
    ] = 1.0
    rollout_bits: Annotated[
        int,
        Doc(
            "Bits of significand to which rollouts round their logits: 24 float32, 11 float16, 8 "
            "bfloat16; 53: not at all."
        ),
    ] = 53
    rollout_jitter: Annotated[
        float,
        Doc("Standard deviation of Gaussian noise on the logits of rollouts, before rounding."),
    ] = 0.0
    old_policy: Annotated[
        Literal["trainer", "rollout"],
        Doc(
            "Whose probabilities ratios divide by: the trained policy's as it was at the rollout, or "
            "those the rollout was sampled from, with their rounding and noise."
        ),
    ] = "trainer"
    generation_rounds: Annotated[
        int,
        Doc(
            "Dynamic sampling: rollouts made at most to find `prompts` groups with differing rewards."
        ),
    ] = 2
    overlong_cache: Annotated[
        int, Doc("Soft overlong penalty: tokens before the limit over which it grows from 0 to -1.")
    ] = 4
    warm_start_steps: Annotated[
        int, Doc("Supervised steps on the environment's corpus before training; 0: none.")
    ] = 300
    warm_start_learning_rate: Annotated[float, Doc("Adam's step size there.")] = 1e-2
    evaluation_episodes: Annotated[
        int, Doc("Fresh episodes for the evaluations before and after training.")
    ] = 1024
    evaluation_answers: Annotated[
        int,
        Doc(
            "Answers per prompt among them, a divisor; above 1, pass@k is recorded for k = 1, 2, 4 "
            "... up to it."
        ),
    ] = 1
    token_samples: Annotated[
        int, Doc("Tokens recorded whole, per update and run on average, drawn uniformly; 0: none.")
    ] = 2
    violation_delta: Annotated[
        float, Doc("Exact KL, in nats, above which a token counts as outside the trust region.")
    ] = 0.01
    policy: Annotated[
        Literal["mlp", "tabular", "transformer"],
        Doc("Kind of policy; a transformer reads observations that are token contexts."),
    ] = "mlp"
    hidden: Annotated[int, Doc("Hidden units of the MLP, width of the transformer.")] = 128
    dtype: Annotated[
        Literal["float32", "float64"], Doc("Precision of parameters and arithmetic.")
    ] = "float32"

    def __post_init__(self) -> None:
        def check(name: str, allowed: str, ok: bool) -> None:
            if not ok:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r} is not allowed; must be {allowed}"
                )

        for field in fields(self):
            value, default = getattr(self, field.name), field.default
            if isinstance(default, int):
                whole = isinstance(value, int) and not isinstance(value, bool)
                check(field.name, "an integer", whole)
                check(field.name, f"at most {LARGEST}", value <= LARGEST)
            elif isinstance(default, float):
                number = isinstance(value, int | float) and not isinstance(value, bool)
                check(field.name, "a number", number)
        for name in ("rollouts", "prompts", "group_size", "minibatches", "epochs",
                     "generation_rounds", "overlong_cache", "evaluation_episodes",
                     "evaluation_answers", "rollout_bits", "hidden"):  # fmt: skip
            check(name, "at least 1", getattr(self, name) >= 1)
        for name in ("warm_start_steps", "token_samples"):
            check(name, "at least 0", getattr(self, name) >= 0)
        for name in ("warm_start_learning_rate", "temperature", "violation_delta"):
            value = getattr(self, name)
            check(name, "positive and finite", value > 0 and math.isfinite(value))
        for name in ("learning_rate", "weight_decay", "rollout_jitter"):
            check(name, "at least 0 and finite", 0 <= getattr(self, name) < math.inf)
        check("max_grad_norm", "positive", self.max_grad_norm > 0)
        check("gae_lambda", "from 0 to 1", 0 <= self.gae_lambda <= 1)
        check(
            "policy", "mlp, tabular or transformer",
            self.policy in ("mlp", "tabular", "transformer"),
        )  # fmt: skip
        check("old_policy", "trainer or rollout", self.old_policy in ("trainer", "rollout"))
        check(
            "evaluation_answers",
            f"a divisor of evaluation_episodes = {self.evaluation_episodes}",
            self.evaluation_episodes % self.evaluation_answers == 0,
        )
        check("dtype", "float32 or float64", self.dtype in ("float32", "float64"))
        if self.minibatches < 1 or self.prompts % self.minibatches:
            some = range(1, min(self.prompts, 1000) + 1)
            divisors = ", ".join(str(m) for m in some if self.prompts % m == 0)
            check("minibatches", f"a divisor of prompts = {self.prompts} ({divisors})", False)

    @property
    def updates_per_rollout(self) -> int:
        """Optimiser steps taken on one rollout's data."""
        return self.minibatches * self.epochs

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as torch names it."""
        return torch.float32 if self.dtype == "float32" else torch.float64

    @classmethod
    def names(cls) -> list[str]:
        """Names of the settings."""
        return [f.name for f in fields(cls)]


@dataclass(frozen=True)
class Arm:
    """Runs that share an objective's structure: one per seed, and per hyperparameter setting.

    Hyperparameters inside ``objective`` are floats, or tensors of shape ``(len(seeds),)``.

    Attributes:
        label: name in the records.
        objective: called on token batches ``(len(seeds), B, T)``.
        advantage: which advantage estimator the objective is used with.
        seeds: seed index of every run; equal indices share everything random.
        dynamic_sampling: keep only groups whose rewards differ (DAPO, arXiv:2503.14476 eq. 11).
        overlong_penalty: add DAPO's soft length penalty to the training reward (eq. 13).
        reference: the objective reads the reference policy, which is the one training starts from.
        learning_rate: of each run; None: the configuration's.
        temperature: of each run; None: the configuration's.
        rollout_bits: of each run; None: the configuration's.
        rollout_jitter: of each run; None: the configuration's.
    """

    label: str
    objective: Objective
    advantage: Advantage
    seeds: Sequence[int]
    dynamic_sampling: bool = False
    overlong_penalty: bool = False
    reference: bool = False
    learning_rate: Tensor | None = None
    temperature: Tensor | None = None
    rollout_bits: Tensor | None = None
    rollout_jitter: Tensor | None = None

    def __len__(self) -> int:
        return len(self.seeds)
