"""The settings of a training run: all that it is, apart from its objective."""

import math
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from pydantic import Field as Limits
from typing_extensions import Doc

from erc_bench.core.errors import InputError
from erc_bench.core.validation import Count, Fraction, Positive, Size, checked

__all__ = [
    "EXACT_BITS",
    "PER_PART",
    "PER_RUN",
    "Evaluation",
    "Network",
    "Sampler",
    "TrainConfig",
    "Verifier",
    "WarmStart",
]

#: Settings that every run of a population can have for itself.
PER_RUN = (
    "learning_rate",
    "temperature",
    "rollout_bits",
    "rollout_jitter",
    "rollout_weight_bits",
    "rollout_lag",
    "false_positives",
    "false_negatives",
)
#: Settings that an arm can have for itself, but that change the shape of a population: runs that
#: differ in them are trained in different parts. Their product is the number of updates per rollout.
PER_PART = ("minibatches", "epochs")

#: The significand of float64: with as many bits nothing is rounded.
EXACT_BITS = 53


def _finite_from_zero(value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is not allowed; must be at least 0 and finite")
    return value


Rate = Annotated[float, AfterValidator(_finite_from_zero)]
"""A finite number of at least 0; a message about it says both."""


@dataclass(frozen=True)
class Sampler:
    """What separates the engine that samples rollouts from the policy that is trained."""

    rollout_bits: Annotated[
        Count,
        Doc(
            "Bits of significand to which rollouts round their logits: 24 float32, 11 float16, 8 "
            "bfloat16; 53: not at all."
        ),
    ] = EXACT_BITS
    rollout_jitter: Annotated[
        Rate,
        Doc("Standard deviation of Gaussian noise on the logits of rollouts, before rounding."),
    ] = 0.0
    rollout_weight_bits: Annotated[
        Count,
        Doc(
            "Bits of significand to which the sampler rounds the policy's weights, the same error at "
            "every token: 8 bfloat16, 4 float8 e4m3; 53: not at all."
        ),
    ] = EXACT_BITS
    rollout_lag: Annotated[
        Size,
        Doc(
            "Asynchronous training: rollouts come from the policy as it was this many rollouts ago; 0: "
            "from the newest one."
        ),
    ] = 0
    old_policy: Annotated[
        Literal["trainer", "rollout"],
        Doc(
            "Whose probabilities ratios divide by: the trained policy's as it was at the rollout, or "
            "those the rollout was sampled from, with their rounding and noise."
        ),
    ] = "trainer"


@dataclass(frozen=True)
class Verifier:
    """How often rewards are wrong, in training alone: evaluations and ``reward/mean`` see the true ones.

    A response succeeds if its return is above 1/2; a wrong verdict makes its return 0 or 1.
    """

    false_positives: Annotated[
        Fraction, Doc("Probability that a response that fails is rewarded with 1.")
    ] = 0.0
    false_negatives: Annotated[
        Fraction, Doc("Probability that a response that succeeds is rewarded with 0.")
    ] = 0.0


@dataclass(frozen=True)
class WarmStart:
    """Supervised training before the first rollout."""

    warm_start_steps: Annotated[
        Size, Doc("Supervised steps on the environment's corpus before training; 0: none.")
    ] = 300
    warm_start_learning_rate: Annotated[Positive, Doc("Adam's step size there.")] = 1e-2


@dataclass(frozen=True)
class Evaluation:
    """Fresh episodes that nothing is learnt from."""

    evaluation_episodes: Annotated[
        Count, Doc("Fresh episodes for the evaluations before and after training.")
    ] = 1024
    evaluation_answers: Annotated[
        Count,
        Doc(
            "Answers per prompt among them, a divisor; above 1, pass@k is recorded for k = 1, 2, 4 "
            "... up to it."
        ),
    ] = 1


@dataclass(frozen=True)
class Network:
    """The policy's network; an arm with a value head has a second one, an MLP."""

    policy: Annotated[
        Literal["mlp", "tabular", "transformer"],
        Doc("Kind of policy; a transformer reads observations that are token contexts."),
    ] = "mlp"
    hidden: Annotated[Count, Doc("Hidden units of the MLP, width of the transformer.")] = 128
    dtype: Annotated[
        Literal["float32", "float64"], Doc("Precision of parameters and arithmetic.")
    ] = "float32"


@dataclass(frozen=True, init=False)
class TrainConfig:
    """Settings shared by all runs of a population; the paper's regime, scaled down, by default.

    A rollout is ``prompts`` x ``group_size`` responses, split into ``minibatches``, each used once per
    epoch: ``minibatches * epochs`` updates per rollout, which is how stale the last of them is.

    What belongs together is one field: ``sampler``, ``verifier``, ``warm_start``, ``evaluation``,
    ``network``. A setting inside them has a name of its own, and that flat name is enough wherever one
    is written or read: ``TrainConfig(hidden=64)``, ``replace(config, hidden=64)``, ``config.hidden``.

    Raises:
        InputError: a value out of its range; the message names field, value and what is allowed.

    >>> TrainConfig(rollouts=3, hidden=64).network
    Network(policy='mlp', hidden=64, dtype='float32')
    """

    rollouts: Annotated[Count, Doc("Rollouts (each followed by its updates).")] = 60
    prompts: Annotated[Count, Doc("Prompts per rollout, P.")] = 32
    group_size: Annotated[Count, Doc("Responses per prompt, G.")] = 8
    minibatches: Annotated[Count, Doc("Parts a rollout is split into; must divide `prompts`.")] = 8
    minibatches_of: Annotated[
        Literal["prompts", "responses"],
        Doc(
            "What a rollout is split by: prompts with all their responses, or responses, shuffled anew "
            "for each rollout, as where trainers balance batches."
        ),
    ] = "prompts"
    epochs: Annotated[Count, Doc("Passes over a rollout.")] = 1
    learning_rate: Annotated[Rate, Doc("Adam's step size; 0: nothing is learnt.")] = 5e-4
    warmup_updates: Annotated[
        Size,
        Doc("Updates over which the step size rises from 0 in equal steps; 0: it never changes."),
    ] = 0
    max_grad_norm: Annotated[
        float,
        Limits(gt=0),
        Doc("Largest l2 norm of a run's gradient; larger ones are scaled down. inf: never."),
    ] = 1.0
    weight_decay: Annotated[Rate, Doc("Decoupled weight decay.")] = 0.0
    temperature: Annotated[Positive, Doc("Softmax temperature, in rollouts and updates alike.")] = (
        1.0
    )
    gae_lambda: Annotated[
        Fraction,
        Doc("lambda of generalised advantage estimation (arms with a value head); gamma is 1."),
    ] = 1.0
    sampler: Sampler = Sampler()
    verifier: Verifier = Verifier()
    generation_rounds: Annotated[
        Count,
        Doc(
            "Dynamic sampling: rollouts made at most to find `prompts` groups with differing rewards."
        ),
    ] = 2
    overlong_cache: Annotated[
        Count,
        Doc("Soft overlong penalty: tokens before the limit over which it grows from 0 to -1."),
    ] = 4
    warm_start: WarmStart = WarmStart()
    evaluation: Evaluation = Evaluation()
    token_samples: Annotated[
        Size, Doc("Tokens recorded whole, per update and run on average, drawn uniformly; 0: none.")
    ] = 2
    violation_delta: Annotated[
        Positive, Doc("Exact KL, in nats, above which a token counts as outside the trust region.")
    ] = 0.01
    network: Network = Network()
    engine: Annotated[
        Literal["native", "torch"],
        Doc(
            "What evaluates and trains the networks: compiled code where it is installed and can (MLP "
            "and tabular policies, float32), or torch."
        ),
    ] = "native"

    def __init__(self, **settings: Any) -> None:
        for f in fields(self):
            value = settings.pop(f.name, f.default)
            if is_dataclass(f.type):
                own = {g.name: settings.pop(g.name) for g in fields(f.type) if g.name in settings}
                value = replace(value, **own)
            object.__setattr__(self, f.name, value)
        if settings:
            known = ", ".join(self.names())
            raise TypeError(f"TrainConfig has no setting {next(iter(settings))!r}; known: {known}")
        self._check()

    def __getattr__(self, name: str) -> Any:
        for f in fields(self):
            if is_dataclass(f.type) and name in (g.name for g in fields(f.type)):
                return getattr(getattr(self, f.name), name)
        raise AttributeError(f"TrainConfig has no setting {name!r}")

    @classmethod
    def settings(cls) -> dict[str, Field[Any]]:
        """Every setting under its flat name, in the order in which they are listed and stored."""
        groups = (fields(f.type) if is_dataclass(f.type) else (f,) for f in fields(cls))
        return {f.name: f for group in groups for f in group}

    @classmethod
    def names(cls) -> list[str]:
        """Flat names of the settings."""
        return list(cls.settings())

    def flat(self) -> dict[str, int | float | str]:
        """Flat names to values: ``TrainConfig(**config.flat()) == config``."""
        return {name: getattr(self, name) for name in self.names()}

    @property
    def updates_per_rollout(self) -> int:
        """Optimiser steps taken on one rollout's data."""
        return self.minibatches * self.epochs

    def _check(self) -> None:
        for name, setting in self.settings().items():
            checked(setting.type, getattr(self, name), f"{name}: ")
        for part, whole in (
            ("evaluation_answers", "evaluation_episodes"),
            ("minibatches", "prompts"),
        ):
            value, of = getattr(self, part), getattr(self, whole)
            if of % value:
                divisors = ", ".join(str(n) for n in range(1, min(of, 1000) + 1) if of % n == 0)
                raise InputError(
                    f"{part}: {value} is not allowed; must be a divisor of {whole} = {of} ({divisors})"
                )
