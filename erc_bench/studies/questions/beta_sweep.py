"""How wide should the band be?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="beta_sweep",
    question="From a band of 1 % to one of 100 %: what does its width do to reward and drift?",
    environment="erc/TokenForks-v0",
    expectation=(
        "A narrow band drops most gradients of stale updates and slows learning; a wide one is its "
        "base. If the paper's 5 % were best, there would be a maximum between."
    ),
    config=TrainConfig(rollouts=60, learning_rate=1e-3, token_samples=0),
    tiers={"smoke": {"rollouts": 4, "evaluation_episodes": 256, "warm_start_steps": 200}},
    objectives=("dapo", "erc-dapo", "erc-directional-dapo"),
    regime="sweep",
    grid={"band": (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)},
)
