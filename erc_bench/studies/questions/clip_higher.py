"""Does a higher upper clip raise the entropy?"""

from erc_bench.studies.base import Experiment
from erc_bench.studies.scores import entropy_kept
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="clip_higher",
    question=(
        "With nothing to learn and 32 updates per rollout: does a higher upper bound of the clip raise "
        "the entropy, and a wider lower one lower it, as is reported of language models?"
    ),
    environment="erc/NullReward-v0",
    expectation=(
        "The upper bound holds back unlikely tokens that rise, the lower one those that fall "
        "(arXiv:2509.26114): a higher upper bound should raise the entropy, a wider lower one lower it."
    ),
    score=entropy_kept,
    score_meaning="1 - relative change of the mean token entropy",
    config=TrainConfig(
        rollouts=60, prompts=16, learning_rate=2e-3, hidden=64, epochs=4, token_samples=0
    ),
    tiers={"smoke": {"rollouts": 4, "evaluation_episodes": 256, "warm_start_steps": 100}},
    objectives=("ppo-clip",),
    regime="sweep",
    grid={"clip_high": (0.05, 0.2, 0.28, 1.0), "clip_low": (0.2, 0.8)},
)
