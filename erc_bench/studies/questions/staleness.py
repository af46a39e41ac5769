"""How many updates does a rollout bear?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="staleness",
    question=(
        "1 to 64 updates on the whole of each rollout: at which staleness do the gates begin to "
        "act, and what do they do to reward and drift?"
    ),
    environment="erc/TokenForks-v0",
    expectation=(
        "At one update rho = 1 and every gate is inert: the arms are equal. From there on the "
        "share outside the band grows, and ERC falls behind where it withholds restoring gradients."
    ),
    config=TrainConfig(rollouts=30, prompts=16, learning_rate=1e-3, minibatches=1),
    tiers={"smoke": {"rollouts": 4, "evaluation_episodes": 256, "warm_start_steps": 200}},
    objectives=("dapo", "erc-dapo", "erc-directional-dapo"),
    regime="sweep",
    grid={"epochs": (1, 4, 16, 64)},
)
