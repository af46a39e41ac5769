"""This project: all seeds of a process as one population.

``python -m benchmarks.contenders.ours`` measures every drift exactly, as the project always does;
``ours_no_drift`` leaves the measuring out, which is what the peers do; ``ours_unmerged`` computes equal
observations once for every token, which is what they do too; ``ours_torch`` uses torch's engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Clock, Train, main
from benchmarks.workload import Outcome, Workload


def prepare(
    work: Workload, seeds: Sequence[int], threads: int, clock: Clock, **native: bool
) -> Train:
    """Build the population, warm start included.

    Args:
        native: options of the native engine; without any, the engine is the trainer's choice.
    """
    with clock("import"):
        import torch  # noqa: PLC0415

        from erc_bench.objectives import Objective, PPOClip  # noqa: PLC0415
        from erc_bench.training import Arm, TrainConfig, Trainer  # noqa: PLC0415
        from erc_bench.training.memory import keep_freed_memory  # noqa: PLC0415
        from erc_bench.training.native.engine import NativeEngine  # noqa: PLC0415
        from erc_bench.training.native.library import kernel  # noqa: PLC0415
    # as `erc-bench run` does
    keep_freed_memory()
    torch.set_num_threads(1)
    config = TrainConfig(
        rollouts=work.rollouts,
        prompts=work.prompts,
        group_size=work.group,
        minibatches=work.minibatches,
        learning_rate=work.learning_rate,
        max_grad_norm=work.max_grad_norm,
        warm_start_steps=work.warm_start_steps,
        warm_start_learning_rate=work.warm_start_learning_rate,
        evaluation_episodes=1,
        token_samples=0,
        hidden=work.hidden,
    )
    arm = Arm("dapo-loss", Objective(PPOClip(work.clip_low, work.clip_high)), "group-zscore", seeds)
    space = work.environment_instance.observation_space
    with clock("warm_start"):
        compiled = kernel()
        if compiled is None:
            raise RuntimeError("the native engine was not compiled; this would measure torch's")
        engine = NativeEngine(compiled, **native) if native else None
        trainer = Trainer(config, work.dynamics, space, [arm], seed=0, engine=engine)

    def train() -> Outcome:
        result = trainer.run()
        last = result.metrics["staleness"] == 0
        rewards = result.metrics["reward/mean"][last[:, 0]].mean(axis=1)
        return Outcome(
            tokens=int(result.runs["tokens"].sum()),
            updates=int(trainer.state.policy.steps) * len(seeds),
            parameters=trainer.setup.policy.parameters_per_run,
            rewards=tuple(rewards.tolist()),
        )

    return train


if __name__ == "__main__":
    main(prepare, processes=2, doc=__doc__)
