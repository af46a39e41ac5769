"""Does the policy recover when the right answer changes?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="reward_shift",
    question=(
        "Half-way through training other answers become right: how much of the loss has each "
        "objective made good at the end?"
    ),
    environment="erc/RewardShift-v0",
    expectation=(
        "Recovery needs rare tokens to rise, and the entropy with them. A higher clip and "
        "kept gradients should help; ERC should hinder it where it stops rising entropy, and "
        "help if it kept the entropy higher before."
    ),
    config=TrainConfig(rollouts=100, learning_rate=1e-3, hidden=64),
    tiers={
        "smoke": {"rollouts": 10, "evaluation_episodes": 256, "warm_start_steps": 100},
        "full": {"rollouts": 150},
    },
)
