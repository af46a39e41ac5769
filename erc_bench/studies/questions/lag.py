"""How old may a rollout be?"""

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

EXPERIMENT = Experiment(
    name="lag",
    question=(
        "Asynchronous training: rollouts come from the policy as it was 0 to 8 rollouts ago, 8 updates "
        "each. Which objective bears it, and does a mask help more than its placebo?"
    ),
    environment="erc/TokenForks-v0",
    expectation=(
        "Ratios start away from 1, so clip and band act from the first update; a base without a clip "
        "dies first. A mask by drift drops most tokens when rollouts are old, and slows learning."
    ),
    config=TrainConfig(
        rollouts=60, prompts=16, generation_rounds=1, learning_rate=2e-3, token_samples=0
    ),
    tiers={"smoke": {"rollouts": 4, "evaluation_episodes": 256, "warm_start_steps": 200}},
    objectives=(
        *(
            f"{gate}{base}"
            for base in ("gppo", "dapo")
            for gate in (
                "",
                "erc-",
                "placebo-erc-",
                "erc-directional-",
                "placebo-erc-directional-",
                "dppo-tv-",
                "placebo-dppo-tv-",
                "kl-gate-",
                "placebo-kl-gate-",
                "m2po-",
                "placebo-m2po-",
            )
        ),
    ),
    regime="breaking",
    grid={"rollout_lag": (0, 1, 2, 4, 8)},
)
