"""Does ERC beat the other ways to hold a policy in its trust region?"""

import json
from pathlib import Path

from erc_bench.studies.base import Experiment
from erc_bench.training import TrainConfig

#: Settings chosen for each arm with an equal budget on other seeds, by ``erc_bench.analysis.selection``.
SELECTED = Path(__file__).with_name("selected.json")

EXPERIMENT = Experiment(
    name="baselines",
    question=(
        "Every arm tuned with an equal budget on other seeds, every arm with the same data: does ERC "
        "end above a KL penalty, an entropy bonus, GSPO, DPPO-TV, and a gate on the exact KL?"
    ),
    environment="erc/TokenForks-v0",
    expectation=(
        "If the entropy ratio is the right measure of a trust region, ERC ends above the penalties, "
        "and near the oracle that gates on the exact KL."
    ),
    # One generation round: no arm has more data than another through dynamic sampling.
    config=TrainConfig(rollouts=60, generation_rounds=1),
    tiers={"smoke": {"rollouts": 4, "evaluation_episodes": 256, "warm_start_steps": 200}},
    objectives=tuple(arm["chosen"] for arm in json.loads(SELECTED.read_text())["arms"].values()),
)
