"""stable-baselines3: its PPO, one seed at a time, on an environment vectorised natively.

``sb3`` steps all environments of a rollout as one numpy batch through a thin ``VecEnv``;
``sb3_dummy`` uses the documented ``make_vec_env``, which is a DummyVecEnv of Gymnasium environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Clock, Train, main
from benchmarks.workload import Outcome, Workload, corpus


def native_environments(work: Workload, seed: int) -> Any:
    """The workload's environments as one SB3 ``VecEnv``, with SB3's same-step autoreset."""
    import numpy as np  # noqa: PLC0415
    from gymnasium import spaces  # noqa: PLC0415
    from stable_baselines3.common.vec_env import VecEnv  # noqa: PLC0415

    dynamics = work.dynamics

    class NativeVecEnv(VecEnv):
        def __init__(self) -> None:
            actions = spaces.Discrete(dynamics.num_actions)
            super().__init__(work.responses, dynamics.observation_space, actions)
            self.rng = np.random.default_rng(seed)

        def _start(self, n: int) -> np.ndarray:
            return dynamics.initial_state(self.rng.integers(dynamics.num_prompts, size=n))

        def reset(self) -> np.ndarray:
            self.state = self._start(self.num_envs)
            return dynamics.observe(self.state)

        def step_async(self, actions: np.ndarray) -> None:
            self.actions = actions

        def step_wait(self) -> Any:
            noise = self.rng.random(self.num_envs)
            self.state, reward, done = dynamics.step(self.state, self.actions, noise)
            infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
            if done.any():
                last = dynamics.observe(self.state)
                for i in np.flatnonzero(done):
                    infos[i] = {"terminal_observation": last[i], "TimeLimit.truncated": False}
                self.state[done] = self._start(int(done.sum()))
            return dynamics.observe(self.state), reward.astype(np.float32), done, infos

        def close(self) -> None:
            pass

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            raise NotImplementedError

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kw: Any) -> Any:
            raise NotImplementedError

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    return NativeVecEnv()


def dummy_environments(work: Workload, seed: int) -> Any:
    """``make_vec_env`` of the registered Gymnasium environment."""
    from stable_baselines3.common.env_util import make_vec_env  # noqa: PLC0415

    return make_vec_env(
        work.environment, n_envs=work.responses, seed=seed, env_kwargs=dict(work.options)
    )


def prepare(
    work: Workload,
    seeds: Sequence[int],
    threads: int,
    clock: Clock,
    environments: Any = native_environments,
) -> Train:
    """Build every seed's PPO, all from one warm-started policy."""
    with clock("import"):
        import numpy as np  # noqa: PLC0415
        import torch  # noqa: PLC0415
        from stable_baselines3 import PPO  # noqa: PLC0415
        from stable_baselines3.common.callbacks import BaseCallback  # noqa: PLC0415
    torch.set_num_threads(threads)

    class Rewards(BaseCallback):
        """Mean return of each rollout."""

        def __init__(self) -> None:
            super().__init__()
            self.means: list[float] = []

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            rewards = self.model.rollout_buffer.rewards
            self.means.append(float(rewards.sum(0).mean()))

    def build(seed: int) -> PPO:
        return PPO(
            "MlpPolicy",
            environments(work, seed),
            learning_rate=work.learning_rate,
            n_steps=work.horizon,
            batch_size=work.responses * work.horizon // work.minibatches,
            n_epochs=1,
            gamma=1.0,
            gae_lambda=1.0,
            clip_range=work.clip_low,
            max_grad_norm=work.max_grad_norm,
            # the critic is linear, so that the policy has the others' size
            policy_kwargs={
                "net_arch": {"pi": [work.hidden], "vf": []},
                "activation_fn": torch.nn.ReLU,
            },
            device="cpu",
            seed=seed,
        )

    def warm_started() -> dict[str, Any]:
        policy = build(0).policy
        data = corpus(work.dynamics, 2048)
        rng = np.random.default_rng(0)
        optimizer = torch.optim.Adam(policy.parameters(), lr=work.warm_start_learning_rate)
        for step in range(work.warm_start_steps):
            rows = rng.integers(len(data.prompt), size=work.warm_start_episodes)
            optimizer.param_groups[0]["lr"] = work.warm_start_learning_rate * (
                1 - step / work.warm_start_steps
            )
            flat = data.observation[rows].reshape(-1, data.observation.shape[-1])
            target = torch.from_numpy(data.target[rows]).flatten(0, 1)
            logits = policy.get_distribution(torch.from_numpy(flat)).distribution.logits
            loss = -(target * logits).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return policy.state_dict()

    with clock("warm_start"):
        start = warm_started()
    with clock("build"):
        models = [build(seed) for seed in seeds]
        for model in models:
            model.policy.load_state_dict(start)

    def train_one(model: PPO) -> Outcome:
        rewards = Rewards()
        steps = work.rollouts * work.responses * work.horizon
        model.learn(total_timesteps=steps, callback=rewards, log_interval=None)
        policy = model.policy
        taken = {int(s["step"]) for s in policy.optimizer.state.values()}
        parameters = sum(p.numel() for p in policy.parameters())
        return Outcome(model.num_timesteps, max(taken), parameters, tuple(rewards.means))

    return lambda: Outcome.of_seeds([train_one(model) for model in models])


if __name__ == "__main__":
    main(prepare, processes=2, doc=__doc__)
