"""Far outside the paper's regime, does the gate contain the drift?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="stress",
    question=(
        "The task of forking_tokens with 32 updates per rollout and twice the step: which "
        "objective contains the drift, and which still learns?"
    ),
    environment="erc/TokenForks-v0",
    expectation=(
        "Without a gate the drift grows with every update on the same rollout; ERC stops it, and "
        "withholds the gradients that would lead back. The directional gate keeps those."
    ),
    config=TrainConfig(rollouts=40, learning_rate=2e-3, epochs=4),
    tiers={
        "smoke": {"rollouts": 5, "evaluation_episodes": 256, "warm_start_steps": 200},
        "full": {"rollouts": 80},
    },
    regime="stress",
)
