"""Where does training break, and which mask moves that border?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

BASES = ("gppo", "cispo", "reinforce", "dapo")
GATES = ("erc", "placebo-erc", "erc-directional", "placebo-erc-directional", "dppo-tv", "kl-gate")

EXPERIMENT = Experiment(
    name="collapse_border",
    question=(
        "Step size times updates per rollout, from where every base learns to where it dies: does a "
        "mask move that border, and does it matter which tokens the mask drops?"
    ),
    environment="erc/TokenForks-v0",
    expectation=(
        "Bases without a clip die first. Any mask that drops many tokens slows the drift and so moves "
        "the border; what a mask is worth beyond that is its distance from its placebo."
    ),
    # One generation round: no arm has more data than another through dynamic sampling.
    config=TrainConfig(rollouts=40, prompts=16, generation_rounds=1, token_samples=0),
    tiers={"smoke": {"rollouts": 4, "evaluation_episodes": 256, "warm_start_steps": 200}},
    objectives=(
        *BASES,
        *(f"{gate}-{base}" for base in BASES for gate in GATES),
        *(f"placebo-{gate}-{base}" for base in ("gppo", "dapo") for gate in ("dppo-tv", "kl-gate")),
    ),
    regime="breaking",
    grid={"learning_rate": (1e-3, 2e-3, 4e-3), "epochs": (1, 2, 4)},
)
