"""What training reads and never changes (:class:`Setup`), and all that it changes (:class:`State`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from erc_bench.core.advantages import Advantage
from erc_bench.core.metrics import BAND, CLIP
from erc_bench.core.validation import unknown
from erc_bench.objectives.base import Objective
from erc_bench.training.config import EXACT_BITS, PER_RUN, TrainConfig
from erc_bench.training.measure import Log
from erc_bench.training.optimizer import Adam, Learner
from erc_bench.training.policies import MLP, build_policy
from erc_bench.training.population import Params, Population
from erc_envs.base import Dynamics

__all__ = ["Arm", "Setup", "State"]


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
        settings: by their name in ``PER_RUN``, values ``(len(seeds),)`` or ``()`` that the arm's runs
            have in place of the configuration's.

    Raises:
        InputError: a setting that a run cannot have for itself.
    """

    label: str
    objective: Objective
    advantage: Advantage
    seeds: Sequence[int]
    dynamic_sampling: bool = False
    overlong_penalty: bool = False
    reference: bool = False
    settings: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.settings:
            if name not in PER_RUN:
                raise unknown("settings", name, PER_RUN)

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True, eq=False)
class Setup:
    """Who is trained on what.

    Attributes:
        config: settings shared by all runs.
        dynamics: the environment's batched transitions.
        space: observation space of one episode.
        arms: objectives with their seeds; runs of all arms share forward and backward passes.
        seed: root of all randomness.
        clip: (low, high) reference clip range of the drift measures, the same for every arm.
    """

    config: TrainConfig
    dynamics: Dynamics
    space: spaces.Space[Any]
    arms: Sequence[Arm]
    seed: int
    clip: tuple[float, float] = CLIP

    @cached_property
    def seeds(self) -> Tensor:
        """Seed index of every run, ``(R,)``, in the order of the arms."""
        return torch.tensor([index for arm in self.arms for index in arm.seeds])

    @cached_property
    def slices(self) -> list[slice]:
        """The runs of each arm."""
        return [slice(a, b) for a, b in pairwise(accumulate(map(len, self.arms), initial=0))]

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of parameters and arithmetic."""
        return torch.float32 if self.config.network.dtype == "float32" else torch.float64

    @cached_property
    def per_run(self) -> dict[str, Tensor]:
        """Every setting in ``PER_RUN`` as each run has it, ``(R,)``."""

        def of(arm: Arm, name: str) -> Tensor:
            value = arm.settings.get(name, getattr(self.config, name))
            return torch.as_tensor(value, dtype=self.dtype).expand(len(arm))

        return {name: torch.cat([of(arm, name) for arm in self.arms]) for name in PER_RUN}

    @cached_property
    def band(self) -> tuple[Tensor, Tensor]:
        """``(low, high)`` that each run's entropy ratios are measured against, ``(R,)`` each.

        The band of the arm's own gate; the paper's, where it has none.
        """

        def of(arm: Arm, side: int) -> Tensor:
            band = getattr(arm.objective, "band", None) or BAND
            return torch.as_tensor(band[side], dtype=torch.float64).expand(len(arm))

        low, high = (torch.cat([of(arm, side) for arm in self.arms]) for side in (0, 1))
        return low, high

    @cached_property
    def adam(self) -> Adam:
        """The policies' optimiser."""
        config = self.config
        return Adam(
            self.per_run["learning_rate"],
            config.max_grad_norm,
            config.weight_decay,
            config.warmup_updates,
        )

    @cached_property
    def temperature(self) -> Tensor | None:
        """Softmax temperatures ``(R,)``; None: all are 1."""
        found = self.per_run["temperature"]
        return found if bool((found != 1).any()) else None

    @cached_property
    def distorted(self) -> bool:
        """Whether some run's rollouts are sampled from other probabilities than its policy's."""
        names = ("rollout_bits", "rollout_weight_bits")
        rounded = any(bool((self.per_run[name] < EXACT_BITS).any()) for name in names)
        return rounded or bool(self.per_run["rollout_jitter"].any())

    @cached_property
    def lag(self) -> Tensor:
        """How many rollouts old the policy of each run's rollouts is, ``(R,)``."""
        return self.per_run["rollout_lag"].long()

    @cached_property
    def verifier_errors(self) -> Tensor | None:
        """Rates of false positives and false negatives, ``(2, R)``; None: there are none."""
        rates = torch.stack([self.per_run[n] for n in ("false_positives", "false_negatives")])
        return rates if bool(rates.any()) else None

    @cached_property
    def policy(self) -> Population:
        """The networks that are trained."""
        network = self.config.network
        options = {} if network.policy == "tabular" else {"hidden": network.hidden}
        return Population(
            lambda: build_policy(network.policy, self.space, self.dynamics.num_actions, **options),
            self.dtype,
        )

    @cached_property
    def value(self) -> Population:
        """Value heads: networks of their own, so that they never move the policy's features."""
        return Population(lambda: MLP(self.space, 1, self.config.network.hidden), self.dtype)

    @cached_property
    def identity(self) -> Tensor:
        """Digest of what was asked for: shapes alone do not tell all populations apart."""
        task = self.dynamics if is_dataclass(self.dynamics) else type(self.dynamics).__qualname__
        per_run = {name: values.tolist() for name, values in self.per_run.items()}
        arms = [
            {**vars(a), "seeds": list(a.seeds), "objective": a.objective.spec(), "settings": None}
            for a in self.arms
        ]
        asked = (self.config, task, self.seed, self.clip, per_run, arms)
        digest = hashlib.sha256(repr(asked).encode()).digest()
        return torch.tensor(list(digest), dtype=torch.uint8)


@dataclass(frozen=True)
class State:
    """Everything that training changes; R runs in the order of the arms.

    A function that takes a state and returns one reuses its arrays and its log, as jax does with
    arrays that are donated: what goes in is spent.

    Attributes:
        policy: the trained networks and their optimiser.
        critics: the same for the value heads, by the number of their arm.
        objectives: of every arm; an adaptive one changes from rollout to rollout.
        reference: parameters of the policy that training started from, if an objective reads them.
        earlier: parameters before each of the last rollouts, the newest last, if rollouts lag behind.
        generated: tokens generated for training, ``(R,)``.
        log: what was measured.
        rollouts_done: how far training is.
        evaluations: of the policy before training, by name, ``(R,)``.
    """

    policy: Learner
    critics: Mapping[int, Learner]
    objectives: Sequence[Objective]
    reference: Params | None
    generated: Tensor
    earlier: Sequence[Params] = ()
    log: Log = field(default_factory=Log)
    rollouts_done: int = 0
    evaluations: Mapping[str, Tensor] = field(default_factory=dict)

    def tensors(self, slices: Sequence[slice]) -> dict[str, Tensor]:
        """Everything by name, for a checkpoint, but the reference, which a fresh start makes again.

        Args:
            slices: the runs of each arm.
        """
        objectives = enumerate(zip(self.objectives, slices, strict=True))
        parts = {
            "policy.": self.policy.tensors(),
            **{f"critic{n}.": critic.tensors() for n, critic in self.critics.items()},
            **{f"objective{n}.": x.coefficients(r.stop - r.start) for n, (x, r) in objectives},
            **{f"earlier{n}.": params for n, params in enumerate(self.earlier)},
            "evaluation.": self.evaluations,
            "log.": self.log.tensors(),
            "": {"generated": self.generated, "rollouts_done": torch.tensor(self.rollouts_done)},
        }
        return {prefix + name: x for prefix, part in parts.items() for name, x in part.items()}

    def restored(self, tensors: Mapping[str, Tensor]) -> State:
        """The state whose :meth:`tensors` these were; this one, of the same runs, stays as it is."""

        def below(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}

        return replace(
            self,
            policy=self.policy.restored(below("policy.")),
            critics={n: x.restored(below(f"critic{n}.")) for n, x in self.critics.items()},
            objectives=[
                x.with_coefficients(below(f"objective{n}.")) for n, x in enumerate(self.objectives)
            ],
            generated=tensors["generated"],
            earlier=[
                below(f"earlier{n}.")
                for n in range(
                    len({k.partition(".")[0] for k in tensors if k.startswith("earlier")})
                )
            ],
            log=Log.restored(below("log.")),
            rollouts_done=int(tensors["rollouts_done"]),
            evaluations=below("evaluation."),
        )
