"""The supervised warm start: a policy that has learnt the environment's corpus."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from erc_bench.core.storage import cache_folder
from erc_bench.training import tensorfile
from erc_bench.training.engine import Engine
from erc_bench.training.optimizer import Adam, Learner
from erc_bench.training.population import Params, take
from erc_bench.training.rollout import as_observation
from erc_bench.training.state import Setup
from erc_bench.training.streams import Purpose, stream
from erc_bench.training.tensorfile import digest
from erc_envs.base import Dynamics

__all__ = ["fingerprint", "warm_start", "warm_started"]

#: Corpus episodes in one supervised step.
EPISODES = 64
#: To be raised with every change of the result that a cached network's key does not show.
FORMAT = 2
#: Supervised steps whose result is part of a cached network's key.
FIRST_STEPS = 2


def warm_started(setup: Setup, engine: Engine, params: Params, seeds: Sequence[int]) -> Params:
    """The networks of these seeds after the warm start that the configuration asks for.

    A transformer's takes long, and is the same for every arm: its networks are kept on disk, and
    every one is trained by itself, so that it does not depend on which others were missing. A file is
    found by what was asked for and by the network's first steps from its own start, so that code or a
    machine that trains otherwise finds nothing that was trained before. A file that is missing,
    damaged or another network's counts as absent, and a folder that cannot be written to is no error.
    """
    network, asked = setup.config.network, setup.config.warm_start
    steps = asked.warm_start_steps
    if steps == 0:
        return params
    if network.policy != "transformer":
        return warm_start(setup, engine, params, seeds=seeds, steps=steps)
    rate = asked.warm_start_learning_rate
    kind = (network.policy, network.hidden, network.dtype)
    shared = (
        FORMAT,
        torch.__version__,
        *kind,
        setup.seed,
        steps,
        rate,
        fingerprint(setup.dynamics),
    )
    for run, index in enumerate(seeds):
        alone = take(params, slice(run, run + 1))
        begun = warm_start(setup, engine, alone, seeds=[index], steps=FIRST_STEPS)
        key = repr((*shared, index, digest(take(begun, 0))))
        path = cache_folder() / f"warm-{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
        try:
            known = tensorfile.read(path, of=path.name)
        except tensorfile.DamagedError:
            known = take(warm_start(setup, engine, alone, seeds=[index], steps=steps), 0)
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                tensorfile.write(path, known, of=path.name)
        for name, p in known.items():
            params[name][run] = p
    return params


def warm_start(
    setup: Setup, engine: Engine, start: Params, *, seeds: Sequence[int], steps: int
) -> Params:
    """The networks after each was fitted to its own sample of the corpus.

    Minimises ``E_s[-sum_a p(a|s) log pi(a|s)]`` over the states ``s`` of episodes drawn from the
    corpus distribution ``p`` (the environment's ``prior``), with Adam and a step size that falls
    linearly to zero. The distribution itself is the target rather than sampled tokens: same
    optimum, less noise.
    """
    dynamics = setup.dynamics
    learner = Learner.start({name: p.clone() for name, p in start.items()})
    dtype = learner.mean.dtype
    learning_rate = setup.config.warm_start.warm_start_learning_rate
    full_rate = torch.full((len(seeds),), learning_rate, dtype=dtype)
    for step in range(steps):
        width = 2 * dynamics.horizon + 1
        each = (
            stream(setup.seed, i, Purpose.CORPUS, step).random((EPISODES, width)) for i in seeds
        )
        drawn = np.concatenate(list(each))
        obs, target, mask = _corpus(dynamics, drawn)
        episodes = (len(seeds), EPISODES, dynamics.horizon)
        contexts = as_observation(obs.reshape(-1, obs.shape[-1]), len(seeds), dtype)
        contexts = contexts.view(*episodes, -1)
        wanted = torch.from_numpy(target).view(*episodes, -1).to(dtype)
        adam = Adam(full_rate * (1 - step / steps), max_grad_norm=1.0)
        counted = torch.from_numpy(mask).view(episodes)
        learner = engine.imitate(setup, learner, contexts, wanted, counted, adam)
    return learner.params


def fingerprint(dynamics: Dynamics) -> str:
    """Digest of a fixed sample of the corpus, so that equal corpora are told by content, not by code."""
    drawn = np.random.default_rng(0).random((EPISODES, 2 * dynamics.horizon + 1))
    digest = hashlib.sha256(repr((type(dynamics).__qualname__, dynamics.num_prompts)).encode())
    for array in _corpus(dynamics, drawn):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _corpus(dynamics: Dynamics, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Episodes that follow the prior: observations, next-action distributions, mask, ``(N, T, ...)``."""
    horizon = dynamics.horizon
    state = dynamics.initial_state((drawn[:, -1] * dynamics.num_prompts).astype(np.int64))
    running = np.ones(len(drawn), dtype=np.bool_)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for t in range(horizon):
        prior = dynamics.prior(state)
        rows.append((dynamics.observe(state), prior, running))
        cdf = prior.cumsum(-1)
        action = (cdf <= drawn[:, t, None] * cdf[:, -1:]).sum(-1).clip(max=dynamics.num_actions - 1)
        following, _, terminated = dynamics.step(state, action, drawn[:, horizon + t])
        state = np.where(running[:, None], following, state)
        running = running & ~terminated
    obs, target, mask = (np.stack(column, axis=1) for column in zip(*rows, strict=True))
    return obs, target, mask
