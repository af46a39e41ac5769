"""Where, between a small step taken once and a large one taken often, does each gate help?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="phase_diagram",
    question=(
        "Step size, updates per rollout (8 to 64) and band: in which region does ERC end above its "
        "base, and in which below?"
    ),
    environment="erc/TokenForks-v0",
    expectation=(
        "Where steps are small the gate only costs gradients; it should pay where the base drifts "
        "too far, at large steps and many updates. The directional gate should cost less."
    ),
    config=TrainConfig(rollouts=30, prompts=16, token_samples=0),
    tiers={"smoke": {"rollouts": 4, "evaluation_episodes": 256, "warm_start_steps": 200}},
    objectives=("dapo", "erc-dapo", "erc-directional-dapo"),
    regime="sweep",
    grid={
        "learning_rate": (5e-4, 1e-3, 2e-3, 4e-3),
        "epochs": (1, 2, 4, 8),
        "band": (0.05, 0.2),
    },
)
