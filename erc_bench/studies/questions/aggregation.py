"""What does the mean over tokens do to the length of answers?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="aggregation",
    question=(
        "Filler changes the length of an answer and not its reward: which aggregation "
        "lengthens wrong answers, and does ERC change that?"
    ),
    environment="erc/VariableLength-v0",
    expectation=(
        "A mean over each response's tokens (GRPO, GSPO) lengthens wrong answers, since long "
        "ones are punished less per token; a mean over all tokens (DAPO) and a constant (Dr. "
        "GRPO) do not. ERC keeps its base's aggregation."
    ),
    config=TrainConfig(rollouts=40, learning_rate=2e-3, hidden=64),
    tiers={"smoke": {"rollouts": 8, "evaluation_episodes": 256, "warm_start_steps": 100}},
    objectives=("grpo", "dr-grpo", "dapo", "gspo", "erc-dapo"),
)
