"""Does the objective let unlikely arms rise?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="rare_reward",
    question=(
        "A thousand arms, the good ones of probability 0.01 and a mediocre one that is easily "
        "found: who finds the good ones?"
    ),
    environment="erc/ZipfBandit-v0",
    expectation=(
        "Clip-higher (DAPO) and kept gradients (GPPO) should raise rare arms sooner than PPO- "
        "clip. ERC sees the rise itself, in the entropy, and should slow it."
    ),
    config=TrainConfig(rollouts=40, prompts=64, learning_rate=1e-3, hidden=64),
    tiers={"smoke": {"rollouts": 5, "evaluation_episodes": 256, "warm_start_steps": 50}},
)
