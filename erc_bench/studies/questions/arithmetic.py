"""Does what holds in tables hold in a transformer?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="arithmetic",
    question=(
        "Written addition by a small transformer with a supervised start, judged on sums it "
        "was never trained on: what do clip and band touch, and who ends higher?"
    ),
    environment="erc/Arithmetic-v0",
    expectation=(
        "The paper's contrast: the clip binds on under one percent of tokens, the band "
        "excludes tens of percent, the dropped ones are the certain ones; final rewards equal "
        "or better with ERC."
    ),
    config=TrainConfig(
        policy="transformer",
        hidden=48,
        warm_start_steps=1500,
        warm_start_learning_rate=3e-3,
        rollouts=40,
        learning_rate=5e-5,
        evaluation_answers=16,
        token_samples=4,
    ),
    tiers={
        "smoke": {"rollouts": 4, "evaluation_episodes": 256, "warm_start_steps": 30},
        "full": {"rollouts": 60, "evaluation_episodes": 4096, "token_samples": 6},
    },
    objectives=("dapo", "gppo", "erc-dapo", "erc-gppo", "erc-directional-dapo"),
)
