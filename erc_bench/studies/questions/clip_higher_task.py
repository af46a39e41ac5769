"""And where there is something to learn?"""

from dataclasses import replace

from erc_bench.studies.questions import clip_higher, rare_reward

EXPERIMENT = replace(
    rare_reward.EXPERIMENT,
    name="clip_higher_task",
    question=(
        "The task of rare_reward with 32 updates per rollout: does a higher upper bound of the clip "
        "raise the entropy where the reward tells the arms apart?"
    ),
    expectation=(
        "If the effect of clip_higher outweighs learning, the entropy falls less under a higher bound; "
        "if the clip holds back what the reward asks for, it falls more."
    ),
    config=replace(rare_reward.EXPERIMENT.config, epochs=4, token_samples=0),
    objectives=clip_higher.EXPERIMENT.objectives,
    regime="sweep",
    grid=clip_higher.EXPERIMENT.grid,
)
