"""Does the distribution leave the trust region where the sampled action's ratio does not show it?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="unsampled_shift",
    question=(
        "One step on one arm moves all others through shared features: how much of that drift "
        "does the clip range of the sampled ratio miss?"
    ),
    environment="erc/DriftBandit-v0",
    expectation=(
        "ERC objectives leave fewer tokens with exact KL above delta inside the clip range, at "
        "an equal final reward: the entropy sees all arms, the ratio only the one drawn."
    ),
    score_meaning="share of the gap between the first policy's return and the best arm's",
    config=TrainConfig(rollouts=60, prompts=64, learning_rate=2e-3, token_samples=4, hidden=64),
    tiers={
        "smoke": {"rollouts": 12, "evaluation_episodes": 256, "warm_start_steps": 100},
        "full": {"rollouts": 150},
    },
)
