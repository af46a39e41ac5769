"""The trainer and the policy loss that verl knows by the name ``erc_bench``."""

from __future__ import annotations

from typing import Any, NoReturn

from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import register_policy_loss
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer

from erc_bench.adapters.verl.loss import ObjectiveLoss
from erc_bench.adapters.verl.names import NAME
from erc_bench.adapters.verl.settings import require_consistent, settings
from erc_bench.errors import InputError

__all__ = ["NAME", "ObjectiveTrainer", "objective_loss"]


@register_policy_loss(NAME)
def objective_loss(*_: Any, **__: Any) -> NoReturn:
    """Stand where the trainer puts its loss: verl calls this only if another trainer runs.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"actor.policy_loss.loss_mode: {NAME} needs trainer.v1.trainer_mode={NAME}, which installs it"
    )


@register_trainer(NAME)
class ObjectiveTrainer(PPOTrainerSync):
    """verl's synchronous trainer with one of our objectives as the actor's loss.

    The section ``trainer.v1.erc_bench`` says which (see :class:`.settings.Settings`).

    Raises:
        InputError: before any worker starts, if the configuration would train something else.
    """

    def __init__(self, config: Any) -> None:
        section = config.trainer.v1.get(NAME)
        chosen = settings(OmegaConf.to_container(section, resolve=True) if section else None)
        objective = chosen.build()
        require_consistent(config, objective)
        self._objective_loss = ObjectiveLoss(objective, chosen.aggregation)
        # verl asks for the literal "sync" in several places.
        config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)

    def on_init_end(self) -> None:
        """Give the workers our loss in place of their own."""
        super().on_init_end()
        self.actor_rollout_wg.set_loss_fn(self._objective_loss)
