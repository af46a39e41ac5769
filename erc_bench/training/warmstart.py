"""Supervised warm start: what fine-tuning on the environment's corpus would have taught."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from erc_bench.training.optimizer import PopulationAdam
from erc_bench.training.population import Params, Population
from erc_bench.training.rollout import Dynamics, as_observation
from erc_bench.training.streams import Purpose, stream
from erc_bench.training.warmcache import WarmCache, digest

__all__ = ["cached_warm_start", "fingerprint", "warm_start"]

#: Corpus episodes in one supervised step.
EPISODES = 64
#: Supervised steps whose result tells a network in the cache.
FIRST_STEPS = 2


def warm_start(
    population: Population,
    dynamics: Dynamics,
    *,
    seed: int,
    seeds: Sequence[int],
    steps: int,
    learning_rate: float,
) -> None:
    """Fit every run to its own sample of the corpus, in place.

    Minimises ``E_s[-sum_a p(a|s) log pi(a|s)]`` over the states ``s`` of episodes drawn from the
    corpus distribution ``p`` (the environment's ``prior``), with Adam and a step size that falls
    linearly to zero. The distribution itself is the target rather than sampled tokens: same
    optimum, less noise.
    """
    params = population.params
    dtype = next(iter(params.values())).dtype
    full_rate = torch.full((len(seeds),), learning_rate, dtype=dtype)
    optimizer = PopulationAdam(params, full_rate, max_grad_norm=1.0)
    for step in range(steps):
        drawn = np.stack(
            [
                stream(seed, index, Purpose.CORPUS, step).random(
                    (EPISODES, 2 * dynamics.horizon + 1)
                )
                for index in seeds
            ]
        ).reshape(len(seeds) * EPISODES, -1)
        obs, target, mask = _corpus(dynamics, drawn)
        episodes = (len(seeds), EPISODES, dynamics.horizon)
        contexts = as_observation(obs.reshape(-1, obs.shape[-1]), len(seeds), dtype)
        contexts = contexts.view(*episodes, -1)
        weight = torch.from_numpy(mask).view(episodes).to(dtype)
        wanted = torch.from_numpy(target).view(*episodes, -1).to(dtype)
        for p in params.values():
            p.requires_grad_()
        log_probs = torch.log_softmax(population.forward(contexts), dim=-1)
        losses = -((wanted * log_probs).sum(-1) * weight).sum((1, 2)) / weight.sum((1, 2))
        gradients = torch.autograd.grad(losses.sum(), list(params.values()))
        for p in params.values():
            p.requires_grad_(False)
        optimizer.learning_rate = full_rate * (1 - step / steps)
        optimizer.step(gradients, losses.detach())


def cached_warm_start(
    population: Population,
    dynamics: Dynamics,
    cache: WarmCache,
    *,
    seed: int,
    seeds: Sequence[int],
    steps: int,
    learning_rate: float,
) -> None:
    """:func:`warm_start`, each run by itself and only if its network is not in the cache.

    Alone, so that a network does not depend on which others were missing. A network is told by what
    was asked for and by its first steps from its own start: code or a machine that trains otherwise
    finds nothing that was trained before.
    """

    def trained(run: int, steps: int) -> Params:
        alone = population.only(run)
        warm_start(
            alone, dynamics, seed=seed, seeds=[seeds[run]], steps=steps, learning_rate=learning_rate
        )
        return {name: p[0].clone() for name, p in alone.params.items()}

    for run, index in enumerate(seeds):
        beginning = digest(trained(run, FIRST_STEPS))
        known = cache.load(index, beginning)
        if known is None:
            known = trained(run, steps)
            cache.store(known, index, beginning)
        for name, p in known.items():
            population.params[name][run] = p


def fingerprint(dynamics: Dynamics) -> str:
    """Digest of a fixed sample of the corpus: what a warm start learns from, whatever its code."""
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
