"""What does each trust region not see?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="mode_swap",
    question=(
        "Learning swaps two modes at some positions, which leaves the entropy as it was, and "
        "sharpens others, which leaves the ratio as it was: what does each rule miss, and "
        "does it cost anything?"
    ),
    environment="erc/ModeSwap-v0",
    expectation=(
        "At swaps the entropy ratio misses violations that the exact KL and total variation "
        "see; at sharp positions PPO's ratio does. The oracle gates drop more at swaps, and "
        "need not end higher: the swap is what the reward asks for."
    ),
    config=TrainConfig(rollouts=20, learning_rate=2e-3, hidden=64, token_samples=4),
    tiers={"smoke": {"rollouts": 6, "evaluation_episodes": 256, "warm_start_steps": 100}},
    objectives=(
        "ppo-clip",
        "dapo",
        "erc-dapo",
        "erc-directional-dapo",
        "kl-gate-dapo",
        "tv-gate-dapo",
    ),
)
