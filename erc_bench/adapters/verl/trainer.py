"""The trainer ``erc_bench``: verl's synchronous trainer, with our loss in its workers."""

from __future__ import annotations

from typing import Any

from erc_bench.adapters.verl.loss import Loss, attach_denominators
from erc_bench.adapters.verl.settings import NAME, Settings
from erc_bench.objectives import Objective

__all__ = ["ObjectiveTrainer", "ObjectiveWorker", "register_trainer", "role_worker"]


class ObjectiveWorker:
    """Mixin for verl's TrainingWorker: counts a mini-batch before it is split into micro-batches."""

    objective: Objective

    def train_batch(self, data: Any) -> Any:
        """One optimizer step on a rank's mini-batch."""
        engine: Any = self.engine  # type: ignore[attr-defined]
        group = engine.get_data_parallel_group()
        attach_denominators(data, self.objective, group, self.device_name)  # type: ignore[attr-defined]
        return super().train_batch(data)  # type: ignore[misc]


def role_worker(settings: Settings) -> type:
    """Verl's worker of actor, rollout and reference, its actor with :class:`ObjectiveWorker`.

    The class is made here so that Ray sends it, and the objective in it, by value.
    """
    from verl.workers.engine_workers import (  # noqa: PLC0415
        ActorRolloutRefWorker,
        TrainingWorker,
    )

    actor = type(
        "ErcBenchTrainingWorker", (ObjectiveWorker, TrainingWorker), {"objective": settings.built}
    )
    return type(
        "ErcBenchActorRolloutRefWorker", (ActorRolloutRefWorker,), {"actor_worker_cls": actor}
    )


class ObjectiveTrainer:
    """Mixin for verl's PPOTrainerSync; checks the configuration before anything starts.

    Raises:
        InputError: see :meth:`Settings.from_config`.
    """

    def __init__(self, config: Any) -> None:
        self.settings = Settings.from_config(config)
        # verl tests the literal "sync" when it chooses its replay buffer and weight synchronisation
        config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)  # type: ignore[call-arg]

    def _init_resource_pool_mgr(self) -> None:
        import ray  # noqa: PLC0415

        super()._init_resource_pool_mgr()  # type: ignore[misc]
        mapping: dict[Any, Any] = self.role_worker_mapping  # type: ignore[attr-defined]
        worker: Any = ray.remote(role_worker(self.settings))
        for role in mapping:
            if str(role) in ("actor", "actor_rollout", "actor_rollout_ref"):
                mapping[role] = worker

    def on_init_end(self) -> None:
        """Give the workers our loss in place of verl's."""
        from verl.utils.config import omega_conf_to_dataclass  # noqa: PLC0415

        super().on_init_end()  # type: ignore[misc]
        actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)  # type: ignore[attr-defined]
        self.actor_rollout_wg.set_loss_fn(Loss(actor, self.settings))  # type: ignore[attr-defined]


def register_trainer() -> None:
    """Register the trainer in verl, once; not where verl's trainers cannot run at all."""
    try:
        from verl.trainer.ppo import v1  # noqa: PLC0415
        from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("verl", "erc_bench"):
            raise
        # verl's losses alone are usable without its trainers' packages; main_ppo names what lacks
        return
    if NAME not in TRAINER_REGISTRY:
        v1.register_trainer(NAME)(
            type("ErcBenchTrainer", (ObjectiveTrainer, v1.PPOTrainerSync), {})
        )
