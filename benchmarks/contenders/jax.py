"""JAX: the whole of training compiled, all seeds by vmap, in the manner of purejaxrl.

Environment, rollouts and updates are one jitted program (``lax.scan`` within ``lax.scan``), and the
seeds are spread over one host device per core. Compilation is timed apart.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Clock, Train, cores, main
from benchmarks.workload import Outcome, Workload, corpus


def prepare(work: Workload, seeds: Sequence[int], threads: int, clock: Clock) -> Train:
    """Warm start and compile."""
    devices = int(os.environ.get("BENCH_JAX_DEVICES", min(cores(), threads, len(seeds))))
    devices = max(d for d in range(1, devices + 1) if len(seeds) % d == 0)
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    with clock("import"):
        import jax  # noqa: PLC0415
        import jax.numpy as jnp  # noqa: PLC0415
        import numpy as np  # noqa: PLC0415
        import optax  # noqa: PLC0415

        from erc_envs import TokenForks  # noqa: PLC0415

    Params = dict[str, Any]
    dynamics, T, V = work.dynamics, work.horizon, work.dynamics.num_actions
    B, P, M = work.responses, work.prompts, work.minibatches
    env = _token_forks(dynamics) if isinstance(dynamics, TokenForks) else _drift_bandit(dynamics)

    def forward(params: Params, x: Any) -> Any:
        # measured on a CPU: gathering rows beats a product with one-hots, backwards too
        first = params["first"]
        hidden = first[x].sum(-2) if env["one_hot"] else x @ first + params["bias"]
        return jax.nn.relu(hidden) @ params["last"] + params["last_bias"]

    def at(logp: Any, action: Any) -> Any:
        return jnp.where(action[..., None] == jnp.arange(V), logp, 0.0).sum(-1)

    def initial(key: Any) -> Params:
        first, last = jax.random.split(key)
        params = {
            "first": jax.random.normal(first, (env["features"], work.hidden)) * env["scale"],
            "last": jax.random.normal(last, (work.hidden, V)) * 0.01 * work.hidden**-0.5,
            "last_bias": jnp.zeros(V),
        }
        return params if env["one_hot"] else {**params, "bias": jnp.zeros(work.hidden)}

    def fit(key: Any, obs: Any, target: Any) -> Params:
        """Supervised warm start on corpus observations (N, T, ...) and distributions (N, T, V)."""
        steps = work.warm_start_steps
        optimizer = optax.adam(optax.linear_schedule(work.warm_start_learning_rate, 0.0, steps))
        start, draw = jax.random.split(key)
        params = initial(start)

        def step(carry: Any, k: Any) -> Any:
            params, state = carry
            rows = jax.random.randint(k, (work.warm_start_episodes,), 0, len(obs))

            def loss(params: Params) -> Any:
                x = env["encode"](obs[rows])
                return -(target[rows] * jax.nn.log_softmax(forward(params, x))).sum(-1).mean()

            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        carry = (params, optimizer.init(params))
        return jax.lax.scan(step, carry, jax.random.split(draw, steps))[0][0]

    optimizer = optax.chain(
        optax.clip_by_global_norm(work.max_grad_norm), optax.adam(work.learning_rate)
    )

    def generate(params: Params, key: Any) -> Any:
        prompt_key, action_key, noise_key = jax.random.split(key, 3)
        prompt = jax.random.randint(prompt_key, (P,), 0, dynamics.num_prompts)
        state = env["initial"](jnp.repeat(prompt, work.group))
        uniform = jax.random.uniform(action_key, (T, B))
        noise = jax.random.uniform(noise_key, (T, B)) if dynamics.stochastic else uniform

        def act(state: Any, chance: Any) -> Any:
            u, noise = chance
            obs = env["observe"](state)
            logp = jax.nn.log_softmax(forward(params, env["encode"](obs)))
            # a product with a triangle beats XLA's cumsum, and a sum beats take_along_axis
            cdf = jnp.exp(logp) @ jnp.triu(jnp.ones((V, V)))
            action = jnp.minimum((cdf <= u[:, None] * cdf[:, -1:]).sum(-1), V - 1)
            chosen = at(logp, action)
            state, reward = env["step"](state, action, noise)
            return state, (obs, action, chosen, reward)

        return jax.lax.scan(act, state, (uniform, noise))[1]

    def update(carry: Any, batch: Any) -> Any:
        params, state, updates = carry
        obs, action, old, advantage = batch

        def loss(params: Params) -> Any:
            logp = jax.nn.log_softmax(forward(params, env["encode"](obs)))
            ratio = jnp.exp(at(logp, action) - old)
            clipped = jnp.clip(ratio, 1 - work.clip_low, 1 + work.clip_high)
            return -jnp.minimum(ratio * advantage, clipped * advantage).mean()

        changes, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, changes), state, updates + 1), None

    def rollout(carry: Any, key: Any) -> Any:
        params, state, updates = carry
        obs, action, old, reward = generate(params, key)
        total = reward.sum(0)
        grouped = total.reshape(P, work.group)
        centred = grouped - grouped.mean(1, keepdims=True)
        z = centred / (grouped.std(1, keepdims=True, ddof=1) + 1e-6)
        advantage = jnp.broadcast_to(z.reshape(-1), (T, B))

        def split(x: Any) -> Any:  # (T, B, ...) to (M, T, B / M, ...)
            return jnp.moveaxis(x.reshape(T, M, B // M, *x.shape[2:]), 1, 0)

        carry, _ = jax.lax.scan(
            update, (params, state, updates), jax.tree.map(split, (obs, action, old, advantage))
        )
        return carry, (total.mean(), jnp.asarray(action.size))

    def train_one(params: Params, key: Any) -> Any:
        carry = (params, optimizer.init(params), jnp.asarray(0))
        (_, _, updates), (rewards, tokens) = jax.lax.scan(
            rollout, carry, jax.random.split(key, work.rollouts)
        )
        return rewards, tokens.sum(), updates

    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    mesh = jax.make_mesh((devices,), ("seeds",), axis_types=(jax.sharding.AxisType.Auto,))
    over_seeds = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("seeds"))
    keys = jax.device_put(keys, over_seeds)
    with clock("warm_start"):
        data = corpus(dynamics, 2048)
        started = jax.jit(jax.vmap(fit, (0, None, None)), out_shardings=over_seeds)(
            keys, jnp.asarray(data.observation), jnp.asarray(data.target)
        )
        jax.block_until_ready(started)
    parameters = sum(x[0].size for x in jax.tree.leaves(started))
    every = jax.vmap(train_one)
    if devices > 1:
        spec = jax.sharding.PartitionSpec("seeds")
        every = jax.shard_map(every, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    with clock("compile"):
        program = jax.jit(every).lower(started, keys).compile()

    def train() -> Outcome:
        rewards, tokens, updates = jax.block_until_ready(program(started, keys))
        return Outcome(
            int(tokens.sum()),
            int(updates.sum()),
            parameters,
            tuple(np.asarray(rewards).mean(0).tolist()),
        )

    return train


def _token_forks(dynamics: Any) -> dict[str, Any]:
    """TokenForks as pure functions on arrays: its tables, looked up with one flat index each."""
    import jax.numpy as jnp  # noqa: PLC0415

    right = jnp.asarray(dynamics._right, jnp.int32)  # (prompts, positions, branches)
    branch_of = jnp.asarray(dynamics._branch_of, jnp.int32)  # (prompts, positions, V)
    is_fork = jnp.asarray(dynamics._is_fork)
    sizes = [int(n) for n in dynamics.observation_space.nvec]

    def initial(prompt: Any) -> Any:
        zero = jnp.zeros_like(prompt)
        return prompt, zero, zero, zero, jnp.ones_like(prompt, dtype=bool)

    def observe(state: Any) -> Any:
        return jnp.stack(state[:4], axis=-1).astype(jnp.int32)

    def step(state: Any, action: Any, _: Any) -> Any:
        prompt, position, _token, branch, correct = state
        correct = correct & (action == right[prompt, position, branch])
        branch = jnp.where(is_fork[position], branch_of[prompt, position, action], branch)
        position = position + 1
        won = (position == dynamics.length) & correct
        return (prompt, position, action + 1, branch, correct), won.astype(jnp.float32)

    def encode(obs: Any) -> Any:
        """Rows of one table that holds all features' codes."""
        return obs + jnp.cumsum(jnp.asarray([0, *sizes[:-1]]))

    return {
        "initial": initial,
        "observe": observe,
        "step": step,
        "encode": encode,
        "features": sum(sizes),
        "scale": len(sizes) ** -0.5,
        "one_hot": True,
    }


def _drift_bandit(dynamics: Any) -> dict[str, Any]:
    """DriftBandit as pure functions on arrays."""
    import jax.numpy as jnp  # noqa: PLC0415

    features = jnp.asarray(dynamics.features)
    means = jnp.asarray(dynamics.reward_means, jnp.float32)

    def step(prompt: Any, action: Any, noise: Any) -> Any:
        return prompt, (noise < means[prompt, action]).astype(jnp.float32)

    return {
        "initial": lambda prompt: prompt,
        "observe": lambda prompt: features[prompt],
        "step": step,
        "encode": lambda obs: obs,
        "features": features.shape[1],
        "scale": features.shape[1] ** -0.5,
        "one_hot": False,
    }


if __name__ == "__main__":
    main(prepare, processes=1, doc=__doc__)
