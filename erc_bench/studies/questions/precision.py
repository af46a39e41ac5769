"""How many tokens does rounding alone put outside the band?"""

from erc_bench.studies.base import Experiment
from erc_bench.studies.scores import inside_band
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="precision",
    question=(
        "Not a single update, only an engine that rounds its logits to float16 or bfloat16 and adds "
        "a little noise: which share of the tokens does ERC drop then?"
    ),
    environment="erc/TokenForks-v0",
    expectation=(
        "None in float32; some percent in bfloat16, where low entropies change by more than 5 % with "
        "the last bit of a logit. What is dropped here is noise in any drop rate of ERC."
    ),
    score=inside_band,
    score_meaning="share of the tokens inside the band, 1 - out-of-band share",
    config=TrainConfig(rollouts=10, learning_rate=0.0, old_policy="rollout", token_samples=0),
    tiers={"smoke": {"rollouts": 4, "evaluation_episodes": 256, "warm_start_steps": 200}},
    objectives=("erc-dapo",),
    regime="sweep",
    grid={"rollout_bits": (24, 11, 8), "rollout_jitter": (0.0, 0.01, 0.03)},
)
