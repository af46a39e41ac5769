"""Which objective moves the entropy when there is nothing to learn?"""

from erc_bench.studies.base import Experiment
from erc_bench.studies.scores import entropy_kept
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="entropy_null",
    question=(
        "The reward is a coin flip: every policy is optimal, so whatever happens to the entropy "
        "is the objective's own bias. How large is it?"
    ),
    environment="erc/NullReward-v0",
    expectation=(
        "Asymmetric clipping (DAPO's 0.2/0.28) favours raising unlikely tokens; ERC should keep "
        "the entropy closer to where it was than its base does."
    ),
    score=entropy_kept,
    score_meaning="1 - relative change of the mean token entropy",
    config=TrainConfig(rollouts=60, prompts=16, learning_rate=2e-3, hidden=64),
    tiers={
        "smoke": {"rollouts": 10, "evaluation_episodes": 256, "warm_start_steps": 100},
        "full": {"rollouts": 150},
    },
)
