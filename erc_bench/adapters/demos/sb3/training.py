"""One run: an arm on an environment with one seed, its log and its evaluation, as one Parquet file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from erc_bench.core.errors import InputError
from erc_bench.core.storage import atomic_write

__all__ = ["ARMS", "ENVIRONMENTS", "METRICS", "ROLLOUT", "require_environment", "train"]

#: Training steps of each environment.
ENVIRONMENTS = {
    "CartPole-v1": 50_000,
    "Acrobot-v1": 100_000,
    "LunarLander-v3": 150_000,
    "erc/DriftBandit-v0": 50_000,
}
#: Labels as in the toy suite's figures. An infinite band gives the weights of SB3's PPO bit for bit, as
#: a test checks, and the same metrics are logged for both arms.
ARMS: dict[str, dict[str, Any]] = {
    "ppo-clip": {"band_low": math.inf, "band_high": math.inf},
    "erc-ppo": {},
}
#: SB3's defaults with two changes: the 2048 steps of a rollout come from 8 environments instead of one,
#: and batches have 256 transitions instead of 64. That makes 80 updates on each rollout.
COPIES = 8
HYPERPARAMETERS: dict[str, Any] = {"n_steps": 256, "batch_size": 256, "n_epochs": 10}
ROLLOUT = COPIES * HYPERPARAMETERS["n_steps"]
EPISODES = 20
METRICS = (
    "gate/dropped_fraction",
    "clip/ratio_bound_fraction",
    "drift/out_of_band_fraction",
    "drift/entropy_new",
    "drift/kl_k3",
    "grad/norm",
)


def require_environment(name: str) -> None:
    """Fail before any training if an environment cannot be made.

    Raises:
        InputError: unknown, or its packages are not installed.
    """
    import gymnasium  # noqa: PLC0415

    import erc_envs  # noqa: F401, PLC0415  # registers

    try:
        gymnasium.make(name).close()
    except gymnasium.error.DependencyNotInstalled as error:
        raise InputError(
            f"environments: {name} needs more packages ({error}): pip install 'erc-bench[control]'"
        ) from None
    except gymnasium.error.Error as error:
        raise InputError(f"environments: {name!r} cannot be made: {error}") from None


def train(environment: str, arm: str, seed: int, steps: int, path: Path) -> None:
    """Train, evaluate on fresh episodes with sampled actions, and write ``path``.

    A row per iteration: ``steps``, ``return`` (mean of the last 100 episodes), metrics; and in every
    row ``final``, the mean return of the evaluation.
    """
    import torch  # noqa: PLC0415
    from stable_baselines3.common.callbacks import BaseCallback  # noqa: PLC0415
    from stable_baselines3.common.env_util import make_vec_env  # noqa: PLC0415
    from stable_baselines3.common.evaluation import evaluate_policy  # noqa: PLC0415

    import erc_envs  # noqa: F401, PLC0415  # registers
    from erc_bench.adapters.sb3 import ERCPPO  # noqa: PLC0415

    torch.set_num_threads(1)

    class Keep(BaseCallback):
        """A row after each iteration's updates, which is when the next rollout starts."""

        def __init__(self) -> None:
            super().__init__()
            self.rows: list[dict[str, float]] = []

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            self.keep()

        def _on_training_end(self) -> None:
            self.keep()

        def keep(self) -> None:
            values = self.logger.name_to_value
            if "train/loss" not in values:
                return
            episodes = [e["r"] for e in self.model.ep_info_buffer or ()]
            mean = float(np.mean(episodes)) if episodes else math.nan
            row = {"steps": float(self.num_timesteps), "return": mean}
            self.rows.append(row | {name: float(values[name]) for name in METRICS})

    # The last iteration's log is kept until the callback has read it: SB3 dumps it otherwise.
    model = ERCPPO(
        "MlpPolicy",
        make_vec_env(environment, COPIES, seed=seed),
        seed=seed,
        device="cpu",
        **HYPERPARAMETERS,
        **ARMS[arm],
    )
    keep = Keep()
    model.learn(steps, callback=keep, log_interval=10**9)
    test = make_vec_env(environment, COPIES, seed=100_000 + seed)
    final, _ = evaluate_policy(model, test, n_eval_episodes=EPISODES, deterministic=False)
    table = pd.DataFrame(keep.rows).assign(
        environment=environment, objective=arm, seed=seed, final=float(np.mean(final))
    )
    atomic_write(path, lambda stream: table.to_parquet(stream, index=False))
