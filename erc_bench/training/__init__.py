"""The population trainer: R runs (seeds x hyperparameters x arms) as one batched program.

``config`` says what a run is, ``loop`` trains, and the other files are its parts: ``population``
(stacked networks), ``rollout`` and ``sampling`` (episodes), ``credit`` (advantages), ``optimizer``,
``warmstart``, ``measure`` (the log), ``streams`` (random numbers), ``checkpoint``, ``memory``. Nothing here
names an objective.
"""

from erc_bench.training.config import Arm, TrainConfig
from erc_bench.training.loop import Trainer, TrainResult

__all__ = ["Arm", "TrainConfig", "TrainResult", "Trainer"]
