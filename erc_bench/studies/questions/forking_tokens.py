"""In a token task with few forks, which tokens does the gate drop, and what does it buy?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="forking_tokens",
    question=(
        "Mostly deterministic tokens and a few forks, 0/1 reward, 8 updates per rollout (the "
        "paper's regime): how many tokens do PPO's clip and ERC's band touch, and which?"
    ),
    environment="erc/TokenForks-v0",
    expectation=(
        "ERC's band excludes tens of percent of the tokens where PPO's clip binds on well under "
        "one percent; the dropped ones have lower entropy; entropy and gradient norm are "
        "steadier; final rewards are equal or better."
    ),
    config=TrainConfig(rollouts=60, learning_rate=1e-3),
    tiers={
        "smoke": {"rollouts": 8, "evaluation_episodes": 256, "warm_start_steps": 200},
        "full": {"rollouts": 150, "token_samples": 6},
    },
)
