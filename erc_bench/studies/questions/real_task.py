"""Does what holds in the suite's own tasks hold on problems and a verifier from elsewhere?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="real_task",
    question=(
        "Sums and differences from reasoning-gym, scored by its own verifier, answered by a small "
        "transformer with a supervised start: what do clip and band touch, who ends higher on "
        "problems held out, and would a gate that drops as many tokens at random do as well?"
    ),
    environment="erc/ReasoningGym-v0",
    expectation=(
        "As on the suite's own tasks: the clip binds on under one percent of tokens, the band "
        "excludes tens of percent; ERC ends no higher than its base, and no higher than its "
        "placebo, which drops as many tokens at random."
    ),
    config=TrainConfig(
        policy="transformer",
        hidden=48,
        warm_start_steps=3000,
        warm_start_learning_rate=3e-3,
        rollouts=40,
        learning_rate=1e-4,
        evaluation_answers=16,
        token_samples=4,
    ),
    tiers={
        "smoke": {"rollouts": 4, "evaluation_episodes": 256, "warm_start_steps": 30},
        "full": {"rollouts": 100, "evaluation_episodes": 4096, "token_samples": 6},
    },
    objectives=(
        "dapo",
        "gppo",
        "erc-dapo",
        "erc-gppo",
        "erc-directional-dapo",
        "placebo-erc-dapo",
        "placebo-erc-gppo",
    ),
)
