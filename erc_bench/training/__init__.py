"""The population trainer: R runs (seeds x hyperparameters x arms) as one batched program.

``loop`` is the algorithm, read from top to bottom; ``config`` says what a run is, ``state`` what
training reads and what it changes, ``engine`` what the loop asks of an engine, ``torch_engine`` and
``native`` the two there are. The other files are parts: ``population`` (stacked networks),
``rollout``, ``distortion`` and ``sampling`` (episodes), ``credit`` (advantages), ``optimizer``,
``warmstart``, ``evaluation``, ``measure`` (the log), ``streams`` (random numbers), ``checkpoint``,
``memory``. Nothing here names an objective.
"""

from typing import TYPE_CHECKING

from erc_bench.core.lazy import lazily

if TYPE_CHECKING:
    from erc_bench.training.config import TrainConfig
    from erc_bench.training.loop import Trainer, TrainResult
    from erc_bench.training.state import Arm

__all__ = ["Arm", "TrainConfig", "TrainResult", "Trainer"]

__getattr__ = lazily(
    __name__, {"config": ("TrainConfig",), "loop": ("Trainer", "TrainResult"), "state": ("Arm",)}
)
