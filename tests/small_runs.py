"""Runs that take about a second, and what several tests do with them."""

from __future__ import annotations

#: Settings of training.
SETTINGS = {
    "rollouts": 3,
    "prompts": 4,
    "group_size": 4,
    "minibatches": 2,
    "warm_start_steps": 5,
    "evaluation_episodes": 16,
    "hidden": 16,
}
#: Two arms on two seeds, as options of the command line.
ARMS = ("--objectives", "ppo-clip", "erc-dapo", "--seeds", "2")


def options(**changed):
    """``SETTINGS``, some of them changed, as options of the command line."""
    return [f"--set={name}={value}" for name, value in {**SETTINGS, **changed}.items()]


def parquet(path):
    """The content of every Parquet file in a folder, by name."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*.parquet"))}


def interrupt_after(patch, rollouts):
    """Checkpoint after each rollout, and interrupt training after so many, as Ctrl-C does."""
    from erc_bench.training import loop  # noqa: PLC0415

    real = loop.train_on_one_rollout

    def interrupt(setup, engine, state):
        if state.rollouts_done == rollouts:
            raise KeyboardInterrupt
        return real(setup, engine, state)

    patch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    patch.setattr(loop, "train_on_one_rollout", interrupt)
