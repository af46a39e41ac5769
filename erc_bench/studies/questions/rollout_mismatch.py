"""What if the policy that samples is not the one that is trained?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="rollout_mismatch",
    question=(
        "Rollouts come from an engine whose weights are rounded to 8 or 4 bits (the same error in every "
        "token), or whose logits carry noise (another one in each); ratios are taken against the "
        "trained policy: what does it cost, and who repairs it?"
    ),
    environment="erc/TokenForks-v0",
    expectation=(
        "The mismatch biases the gradient of every objective alike; corrections by the sampler's own "
        "probabilities repair part of it. Entropy gates compare two trained policies and cannot see it."
    ),
    config=TrainConfig(
        rollouts=60, prompts=16, generation_rounds=1, learning_rate=2e-3, epochs=2, token_samples=0
    ),
    tiers={"smoke": {"rollouts": 4, "evaluation_episodes": 256, "warm_start_steps": 200}},
    objectives=(
        "dapo",
        "gppo",
        "erc-dapo",
        "placebo-erc-dapo",
        "dapo-tis",
        "seq-tis",
        "icepop",
        "placebo-icepop",
        "seq-mis",
        "placebo-seq-mis",
        "dppo-tv",
        "placebo-dppo-tv",
    ),
    regime="sweep",
    grid={"rollout_weight_bits": (53, 8, 4), "rollout_jitter": (0.0, 1.0)},
)
