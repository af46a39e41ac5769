"""What if the verifier errs?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="noisy_verifier",
    question=(
        "Up to 30 % of wrong answers are rewarded, up to 30 % of right ones are not: which objective "
        "bears it, and does a mask help more than its placebo?"
    ),
    environment="erc/TokenForks-v0",
    expectation=(
        "Wrong verdicts are noise in the advantages. A mask that drops the tokens which moved furthest "
        "might drop the noise; one that drops at random cannot."
    ),
    config=TrainConfig(
        rollouts=60, prompts=16, generation_rounds=1, learning_rate=2e-3, token_samples=0
    ),
    tiers={"smoke": {"rollouts": 4, "evaluation_episodes": 256, "warm_start_steps": 200}},
    objectives=(
        "dapo",
        "erc-dapo",
        "placebo-erc-dapo",
        "erc-directional-dapo",
        "placebo-erc-directional-dapo",
        "gppo",
        "erc-gppo",
        "placebo-erc-gppo",
    ),
    regime="breaking",
    grid={"false_positives": (0.0, 0.15, 0.3), "false_negatives": (0.0, 0.15, 0.3)},
)
