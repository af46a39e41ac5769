"""Plain PyTorch: one seed at a time, an ordinary module, Adam and Categorical."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness import Clock, Train, main
from benchmarks.workload import Outcome, Workload, corpus


def prepare(work: Workload, seeds: Sequence[int], threads: int, clock: Clock) -> Train:
    """Warm start one policy; every seed starts from a copy of it."""
    with clock("import"):
        import numpy as np  # noqa: PLC0415
        import torch  # noqa: PLC0415
        from gymnasium import spaces  # noqa: PLC0415
        from torch import nn  # noqa: PLC0415
    torch.set_num_threads(threads)
    dynamics, horizon = work.dynamics, work.horizon
    space = dynamics.observation_space

    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.categorical = isinstance(space, spaces.MultiDiscrete)
            if self.categorical:
                sizes = torch.as_tensor(space.nvec)
                self.register_buffer("offset", sizes.cumsum(0) - sizes)
                self.first = nn.EmbeddingBag(int(sizes.sum()), work.hidden, mode="sum")
                nn.init.normal_(self.first.weight, std=len(sizes) ** -0.5)
            else:
                self.first = nn.Linear(space.shape[0], work.hidden)
            self.last = nn.Linear(work.hidden, dynamics.num_actions)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.categorical:
                flat = (x + self.offset).flatten(0, -2)
                hidden = self.first(flat).view(*x.shape[:-1], -1)
            else:
                hidden = self.first(x)
            return self.last(torch.relu(hidden))

    def warm_started() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        policy = Policy()
        optimizer = torch.optim.Adam(policy.parameters(), lr=work.warm_start_learning_rate)
        data = corpus(dynamics, 2048)
        obs, target = torch.from_numpy(data.observation), torch.from_numpy(data.target)
        for step in range(work.warm_start_steps):
            rows = torch.randint(len(obs), (work.warm_start_episodes,))
            optimizer.param_groups[0]["lr"] = work.warm_start_learning_rate * (
                1 - step / work.warm_start_steps
            )
            log_probs = policy(obs[rows]).log_softmax(-1)
            loss = -(target[rows] * log_probs).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return policy.state_dict()

    with clock("warm_start"):
        start = warm_started()

    def train_one(seed: int) -> Outcome:
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        policy = Policy()
        policy.load_state_dict(start)
        optimizer = torch.optim.Adam(policy.parameters(), lr=work.learning_rate)
        tokens, updates, rewards = 0, 0, []
        for _ in range(work.rollouts):
            prompt = rng.integers(dynamics.num_prompts, size=work.prompts)
            state = dynamics.initial_state(prompt.repeat(work.group))
            observations, actions, log_probs = [], [], []
            returns = np.zeros(work.responses)
            with torch.no_grad():
                for _ in range(horizon):
                    obs = torch.from_numpy(dynamics.observe(state))
                    chosen = torch.distributions.Categorical(
                        logits=policy(obs), validate_args=False
                    )
                    action = chosen.sample()
                    observations.append(obs)
                    actions.append(action)
                    log_probs.append(chosen.log_prob(action))
                    state, reward, _ = dynamics.step(
                        state, action.numpy(), rng.random(work.responses)
                    )
                    returns += reward
            obs = torch.stack(observations, 1)
            action, old = torch.stack(actions, 1), torch.stack(log_probs, 1)
            tokens += action.numel()
            rewards.append(float(returns.mean()))
            grouped = torch.as_tensor(returns, dtype=torch.float32).view(-1, work.group)
            centred = grouped - grouped.mean(1, keepdim=True)
            advantage = (centred / (grouped.std(1, keepdim=True) + 1e-6)).view(-1, 1)
            for part in torch.arange(work.responses).chunk(work.minibatches):
                new = torch.distributions.Categorical(logits=policy(obs[part]), validate_args=False)
                ratio = (new.log_prob(action[part]) - old[part]).exp()
                clipped = ratio.clamp(1 - work.clip_low, 1 + work.clip_high)
                a = advantage[part]
                loss = -torch.minimum(ratio * a, clipped * a).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(policy.parameters(), work.max_grad_norm)
                optimizer.step()
                updates += 1
        parameters = sum(p.numel() for p in policy.parameters())
        return Outcome(tokens, updates, parameters, tuple(rewards))

    return lambda: Outcome.of_seeds([train_one(seed) for seed in seeds])


if __name__ == "__main__":
    main(prepare, processes=2, doc=__doc__)
