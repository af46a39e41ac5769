"""What a workload's arithmetic alone would take: its operations, and how fast a core multiplies matrices."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.harness import cores
from benchmarks.workload import Workload

__all__ = ["measured"]


def measured(work: Workload) -> dict[str, Any]:
    """Operations per token, the rate of a large matrix product, and tokens per second by both.

    A token takes a forward pass in the rollout, one in the update, and a backward pass of twice as many
    operations (no gradient by the observations). Where equal states are merged, the first counts once
    per distinct state of a rollout, the others once per distinct state of a minibatch.
    """
    import torch  # noqa: PLC0415

    from erc_bench.objectives import make  # noqa: PLC0415
    from erc_bench.training import Arm, TrainConfig, Trainer  # noqa: PLC0415
    from erc_bench.training.loop import collect  # noqa: PLC0415

    space, V = work.environment_instance.observation_space, work.dynamics.num_actions
    features, H = space.shape[0], work.hidden  # type: ignore[index]
    one_hot = hasattr(space, "nvec")
    first = features * H * (1 if one_hot else 2)  # a one-hot feature is a row that is added
    last = 2 * H * V
    forward, backward = first + last, first + 2 * last

    torch.set_num_threads(1)
    size = 512
    x, rates = torch.randn(size, size), []
    for _ in range(100):
        started = time.thread_time()
        x @ x
        rates.append(2 * size**3 / (time.thread_time() - started))
    rate = max(rates)

    config = TrainConfig(
        prompts=work.prompts,
        group_size=work.group,
        minibatches=work.minibatches,
        hidden=H,
        warm_start_steps=work.warm_start_steps,
        evaluation_episodes=1,
    )
    arm = Arm("loss", make("dapo"), "group-zscore", range(4))
    trainer = Trainer(config, work.dynamics, space, [arm], seed=0)
    _, rollout, _ = collect(trainer.setup, trainer.engine, trainer.state)
    state = rollout.seen["state"]

    def distinct(parts: Any) -> float:
        shares = [len(p[r].unique()) / p[r].numel() for p in parts for r in range(len(p))]
        return sum(shares) / len(shares)

    in_rollout = distinct([state])
    in_minibatch = distinct(state.split(work.responses // work.minibatches, dim=1))
    merged = forward * (in_rollout + in_minibatch) + backward * in_minibatch
    flops = {"dense": 2 * forward + backward, "merged": merged}
    return {
        "flops_per_token": flops["dense"],
        "gflops_per_core": rate / 1e9,
        "distinct_in_rollout": in_rollout,
        "distinct_in_minibatch": in_minibatch,
        "tokens_per_second": {k: min(cores(), work.seeds) * rate / f for k, f in flops.items()},
    }
