"""The native engine: the kernel computes what depends on networks, torch what depends on objectives."""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from erc_bench.core import drift
from erc_bench.core.metrics import BAND
from erc_bench.objectives.base import Objective
from erc_bench.training import optimizer
from erc_bench.training.engine import Distort, Minibatch, Row
from erc_bench.training.measure import enter, sample_tokens
from erc_bench.training.native.arm import Arm, MergedBatch
from erc_bench.training.native.arrays import Buffers, Table, rows
from erc_bench.training.native.library import (
    Adam,
    Kernel,
    Limits,
    Network,
    Structure,
    Tokens,
    padded,
)
from erc_bench.training.optimizer import Learner
from erc_bench.training.population import Params
from erc_bench.training.rollout import Noise, Place, Rollout, at, log_probs, play, sample
from erc_bench.training.state import Setup
from erc_envs.base import Dynamics

__all__ = ["NativeEngine"]

S = TypeVar("S", bound=Structure)

#: States that a rollout evaluates at a time.
CHUNK = 256
#: Structures kept for objects that are seen again and again.
KEPT = 16
#: Networks by the name of their first parameter, numbered as in the kernel.
KINDS = {"first.table": 0, "first.0.weight": 1, "table.weight": 2}
TABULAR = 2
#: Columns of the metrics in the order of the kernel's.
DRIFT = tuple(
    f"drift/{name}"
    for name in (
        "kl_exact",
        "kl_reverse",
        "kl_binary",
        "kl_hidden",
        "kl_k1",
        "kl_k2",
        "kl_k3",
        "tv",
        "tv_binary",
        "tv_hidden",
        "violation_fraction",
        "hidden_violation_fraction",
        "clip_kl_violation_fraction",
        "hidden_clip_kl_violation_fraction",
        "out_of_band_fraction",
        "out_of_paper_band_fraction",
        "entropy_old",
        "entropy_new",
    )
)


def _coded(setup: Setup) -> bool:
    """Whether observations are int64 codes; otherwise they are float32 numbers."""
    return isinstance(setup.space, spaces.MultiDiscrete)


def _stride(*arrays: Tensor) -> int:
    """Numbers from one run's first token to the next run's, in arrays that are cut alike."""
    assert all(x[0].is_contiguous() for x in arrays)
    strides = {x.stride(0) if len(x) > 1 else x.numel() for x in arrays}
    assert len(strides) == 1, strides
    return strides.pop()


def _tokens(state: Tensor, action: Tensor, mask: Tensor) -> Tokens:
    """Tokens ``(R, B, T)`` of a rollout, or of some of its responses."""
    addresses = (x.data_ptr() for x in (state, action, mask))
    return Tokens(state[0].numel(), _stride(state, action, mask), *addresses)


class NativeEngine:
    """Networks, softmax, entropy, drift, their gradients and Adam in one compiled loop per run.

    Tokens with equal observations are computed once. The objective stays what it is: a function of
    torch tensors, whose gradient by the tokens' log-probabilities and entropies autograd gives, and the
    kernel carries on to the parameters. See :class:`erc_bench.training.engine.Engine`.

    What it keeps of a token is the number of its state, ``state`` ``(R, B, T)``, in a table that holds
    the rollout's distinct observations and distributions. An engine trains one population.

    Args:
        kernel: the compiled functions.
        merge: whether tokens with equal observations are computed once; a measure for benchmarks.
        measure: whether drift is measured; not to measure it is a benchmark too.
        repeat: whether objectives are recorded and repeated by the kernel; the same.
    """

    def __init__(
        self, kernel: Kernel, *, merge: bool = True, measure: bool = True, repeat: bool = True
    ) -> None:
        self._kernel, self._merge, self._measure = kernel, merge, measure
        self._arms = defaultdict[int, Arm](lambda: Arm(kernel, repeat=repeat))
        self._tables: dict[Any, Table] = {}
        self._buffers: dict[Any, Buffers] = {}
        self._structs: dict[Any, tuple[Any, Any]] = {}
        #: of the last rollout: its states, how many a run has at most, what the reference makes of them
        self._table = Table(0, 8, padded(1))
        self._most = 0
        self._reference: dict[str, Tensor] | None = None

    @property
    def name(self) -> str:
        """``native`` and the instructions that its kernel was compiled for."""
        return f"native-{self._kernel.variant}"

    # -- what the kernel reads ------------------------------------------------------------------

    def _struct(self, of: Any, build: Callable[[], S]) -> S:
        """The structure made for an object, once; while it is kept, no other object has its identity."""
        known = self._structs.get(id(of))
        if known is None:
            if len(self._structs) > KEPT:
                self._structs.clear()
            known = self._structs[id(of)] = (of, build())
        return known[1]

    def _network(self, setup: Setup, params: Params, *, temper: bool = True) -> Network:
        """The networks with these parameters; their logits are divided by the temperatures, or not."""

        def build() -> Network:
            names = list(params)
            kind = KINDS[names[0]]
            first, last = params[names[0]], params[names[-1]]
            assert all(p.is_contiguous() and p.dtype == torch.float32 for p in params.values())
            actions = last.shape[-1]
            network = Network(
                kind=kind,
                features=setup.space.shape[0],  # type: ignore[index]
                hidden=0 if kind == TABULAR else params["last.weight"].shape[-1],
                actions=actions,
                padded=padded(actions),
                rows=first.shape[1],
                width=sum(p[0].numel() for p in params.values()),
            )
            if isinstance(setup.space, spaces.MultiDiscrete):
                sizes = torch.as_tensor(setup.space.nvec, dtype=torch.int64)
                offset = torch.cumsum(sizes, 0) - sizes
                if kind == TABULAR:
                    below = torch.cumprod(sizes.flip(0), 0).flip(0)
                    offset = torch.cat([below[1:], torch.ones(1, dtype=torch.int64)])
                network.set(sizes=sizes, offset=offset)
            network.set(
                first=first,
                bias=params.get("first.0.bias"),
                last=params.get("last.weight"),
                last_bias=params.get("last.bias"),
                temperature=setup.temperature if temper else None,
            )
            return network

        return self._struct(params, build)

    def _limits(self, setup: Setup) -> Limits:
        """Thresholds of the drift measures."""

        def build() -> Limits:
            limits = Limits(*setup.clip, setup.config.violation_delta, *BAND)
            limits.set(band_low=setup.band[0], band_high=setup.band[1])
            return limits

        return self._struct(setup, build)

    def _step(
        self, learner: Learner, adam: optimizer.Adam, losses: Tensor
    ) -> tuple[Learner, Tensor, Any]:
        """The learner as the next step leaves it, its gradient norms, and what the kernel reads."""
        told = self._struct(
            learner.mean, lambda: Adam(learner.mean.data_ptr(), learner.square.data_ptr())
        )
        alive, norm, steps = learner.alive.clone(), torch.empty_like(losses), learner.steps + 1
        told.set(rate=adam.rate(learner.steps), alive=alive, loss=losses, norm=norm)
        told.moments, told.steps = learner.mean.shape[1], int(steps)
        told.max_norm, told.decay = adam.max_grad_norm, adam.weight_decay
        after = Learner(learner.params, learner.mean, learner.square, alive, steps)
        return after, norm, ctypes.byref(told)

    def _scratch(self, who: Any, network: Network, runs: int, tokens: int, states: int) -> Any:
        """Buffers of R networks for passes over so many tokens and states of the last rollout."""
        buffers = self._buffers.get((who, runs))
        if buffers is None:
            buffers = self._buffers[who, runs] = Buffers(runs)
        return buffers.reserve(self._kernel, network, states, tokens, self._table)

    # -- rollouts -------------------------------------------------------------------------------

    def _lay(self, key: Any, setup: Setup, runs: int, actions: int, **options: bool) -> Table:
        """The table for a rollout of R networks, which becomes the last rollout's."""
        if key not in self._tables:
            size = setup.space.shape[0] * (8 if _coded(setup) else 4)  # type: ignore[index]
            self._tables[key] = Table(runs, size, padded(actions), **options)
        self._table, self._reference = self._tables[key], None
        return self._table

    @torch.no_grad()
    def respond(
        self,
        setup: Setup,
        params: Params,
        task: Dynamics,
        place: Place,
        prompts: int,
        group: int,
        runs: Tensor | slice = slice(None),
        *,
        distort: Distort | None = None,
        further: bool = False,
    ) -> Rollout:
        """See :meth:`Engine.respond`."""
        kernel, everyone, responses = self._kernel, len(setup.seeds), prompts * group
        chosen = torch.arange(everyone)[runs]
        indices = setup.seeds[runs].tolist()
        noise = Noise.draw(setup.seed, indices, place, prompts, group, task.horizon)
        uniform = noise.action.contiguous()
        network = self._network(setup, params)
        old_is_distorted = distort is not None and setup.config.sampler.old_policy == "rollout"
        options = {"merge": self._merge and not old_is_distorted, "logits": distort is not None}
        table = self._lay(tuple(options.items()), setup, everyone, task.num_actions, **options)
        if not further:
            table.clear()
        shape = (task.horizon, len(chosen), responses)
        state, action = torch.zeros(shape, dtype=torch.int32), torch.zeros(shape, dtype=torch.int64)
        logp, entropy = torch.zeros(2, *shape).unbind()
        acted = logp if distort is None or old_is_distorted else torch.zeros(shape)
        dtype = np.int64 if _coded(setup) else np.float32

        def saw(function: Callable[..., int], observation: NDArray[Any], *further: int) -> None:
            obs = np.ascontiguousarray(observation, dtype=dtype)
            table.reserve(kernel, responses)
            scratch = self._scratch("policy", network, everyone, 1, CHUNK)
            where = (ctypes.byref(network), table.struct(), scratch, len(chosen))
            seen = (chosen.data_ptr(), responses, torch.from_numpy(obs).data_ptr())
            if function(*where, *seen, *further):
                raise ValueError(f"dynamics: an observation lies outside the space {setup.space}")

        def act(observation: NDArray[Any], t: int) -> Tensor:
            out = (x[t].data_ptr() for x in (state, action, logp, entropy))
            first = uniform.data_ptr() + t * uniform.element_size()
            saw(kernel.act, observation, first, task.horizon, *out)
            return action[t]

        def act_distorted(observation: NDArray[Any], t: int) -> Tensor:
            assert distort is not None
            saw(kernel.see, observation, state[t].data_ptr())
            found = (chosen.unsqueeze(1), state[t].long())
            part = slice(0, task.num_actions)
            temperature = None if setup.temperature is None else setup.temperature[runs]
            trained = table.arrays["logits"][found][..., part]
            acting = log_probs(distort(trained, observation, t), temperature)
            action[t] = sample(acting, uniform[..., t])
            if old_is_distorted:
                for name, x in (("log_probs", acting), ("probs", acting.exp())):
                    table.arrays[name][..., part][found] = x
                table.arrays["entropy"][found] = drift.entropy(acting)
            else:
                acted[t] = at(acting, action[t])
            logp[t] = at(table.arrays["log_probs"][found], action[t])
            entropy[t] = table.arrays["entropy"][found]
            return action[t]

        step = act if distort is None else act_distorted
        taken, mask, reward = play(step, task, noise, group_size=group, dtype=setup.dtype)
        self._most = table.most()
        by_response = [x.permute(1, 2, 0).contiguous() for x in (logp, entropy, acted, state)]
        old_logp, old_entropy, acted_logp, states = by_response
        return Rollout(taken, mask, reward, old_logp, old_entropy, acted_logp, {"state": states})

    # -- updates --------------------------------------------------------------------------------

    def _pass(
        self, setup: Setup, params: Params, tokens: dict[str, Tensor], state: Tensor
    ) -> tuple[Any, ...]:
        """What the passes of the policies over some tokens of the last rollout read."""
        network, number = self._network(setup, params), state[0].numel()
        states = max(min(number, self._most), CHUNK)
        scratch = self._scratch("policy", network, len(state), number, states)
        cut = _tokens(state, tokens["action"], tokens["mask"])
        return ctypes.byref(network), self._table.struct(), scratch, ctypes.byref(cut)

    def update(
        self, setup: Setup, policy: Learner, minibatch: Minibatch, objectives: Sequence[Objective]
    ) -> tuple[Learner, Row, Row]:
        """See :meth:`Engine.update`."""
        state, runs = minibatch.seen["state"], len(minibatch.seen["state"])
        where = self._pass(setup, policy.params, minibatch.fixed, state)
        out, means = torch.empty(2, *state.shape), torch.empty(len(DRIFT), runs)
        told = means.data_ptr() if self._measure else None
        limits = ctypes.byref(self._limits(setup))
        self._kernel.forward(*where, limits, runs, out.data_ptr(), told)

        fields = {**minibatch.fixed, "logp": out[0], "entropy": out[1]}
        distributions = _Distributions(self, setup, minibatch)
        if minibatch.reference is not None:
            whole = distributions.of_reference(slice(None), minibatch.reference)
            fields["ref_logp"] = at(whole, fields["action"])
        row = dict(zip(DRIFT, means.unbind(), strict=True)) if self._measure else {}
        losses, alone = [], len(objectives) == 1
        by_logp, by_entropy = torch.zeros(out.shape).unbind()
        by_whole: Tensor | None = None
        for number, (objective, part) in enumerate(zip(objectives, setup.slices, strict=True)):
            mine = fields if alone else {name: x[part] for name, x in fields.items()}
            make = partial(distributions.make, part)
            found = self._arms[number](objective, mine, make, by_logp[part], by_entropy[part])
            losses.append(found.loss)
            if found.by_whole is not None:
                if by_whole is None:
                    by_whole = torch.zeros(*state.shape, setup.dynamics.num_actions)
                by_whole[part] = found.by_whole
            enter(row, found.metrics, part, setup.adam.learning_rate)
        total = losses[0] if alone else torch.cat(losses)
        recorded: Row = {}
        if minibatch.record is not None:
            batch = MergedBatch.made(partial(distributions.make, slice(None)), **fields)
            recorded = sample_tokens(batch, objectives, setup.slices, minibatch.record)
        policy, norm, adam = self._step(policy, setup.adam, total)
        given = (None if g is None else g.data_ptr() for g in (by_logp, by_entropy, by_whole))
        self._kernel.backward(*where, runs, *given, adam)
        return policy, row | {"loss/total": total, "grad/norm": norm}, recorded

    def reference(self, setup: Setup, params: Params) -> Tensor:
        """What the reference policy makes of the last rollout's states, ``(R, S, W)``; computed once."""
        if self._reference is None:
            network, table, runs = self._network(setup, params), self._table, len(setup.seeds)
            names = ("log_probs", "probs", "entropy")
            self._reference = {name: torch.zeros_like(table.arrays[name]) for name in names}
            scratch = self._scratch("policy", network, runs, 1, CHUNK)
            out = (x.data_ptr() for x in self._reference.values())
            self._kernel.judge(ctypes.byref(network), table.struct(), scratch, runs, *out)
        return self._reference["log_probs"]

    def moved(self, setup: Setup, params: Params, rollout: Rollout) -> Tensor:
        """See :meth:`Engine.moved`."""
        state, runs = rollout.seen["state"], len(setup.seeds)
        where = self._pass(setup, params, rollout.tensors, state)
        out, means = torch.empty(2, *state.shape), torch.empty(len(DRIFT), runs)
        limits = ctypes.byref(self._limits(setup))
        self._kernel.forward(*where, limits, runs, out.data_ptr(), means.data_ptr())
        return means[0]

    # -- value heads and the warm start ---------------------------------------------------------

    def _value_pass(
        self, setup: Setup, critic: Params, tokens: dict[str, Tensor], state: Tensor, runs: slice
    ) -> tuple[Any, ...]:
        network, count = self._network(setup, critic, temper=False), len(state[runs])
        number = state[0].numel()
        who = ("critic", runs.start)
        scratch = self._scratch(who, network, count, number, max(1, min(number, self._most)))
        cut = _tokens(state[runs], tokens["action"][runs], tokens["mask"][runs])
        table = self._table.struct(runs.start)
        return ctypes.byref(network), table, scratch, ctypes.byref(cut), count

    def values(self, setup: Setup, critic: Params, rollout: Rollout, runs: slice) -> Tensor:
        """See :meth:`Engine.values`."""
        state = rollout.seen["state"]
        out = torch.empty(state[runs].shape)
        where = self._value_pass(setup, critic, rollout.tensors, state, runs)
        self._kernel.values(*where, out.data_ptr())
        return out

    def fit_values(
        self, setup: Setup, critic: Learner, minibatch: Minibatch, runs: slice
    ) -> Learner:
        """See :meth:`Engine.fit_values`."""
        state, target = minibatch.seen["state"], minibatch.value_target[runs]
        _stride(state[runs], target)
        where = self._value_pass(setup, critic.params, minibatch.fixed, state, runs)
        rate = optimizer.Adam(setup.adam.learning_rate[runs], max_grad_norm=1.0)
        critic, _, adam = self._step(critic, rate, torch.empty(len(target)))
        self._kernel.regress(*where, target.data_ptr(), adam)
        return critic

    def imitate(
        self,
        setup: Setup,
        learner: Learner,
        obs: Tensor,
        wanted: Tensor,
        mask: Tensor,
        adam: optimizer.Adam,
    ) -> Learner:
        """See :meth:`Engine.imitate`."""
        count, actions, size = len(mask), wanted.shape[-1], mask[0].numel()
        network = self._network(setup, learner.params, temper=False)
        table = self._lay(("corpus", count), setup, count, actions)
        table.clear()
        table.reserve(self._kernel, size)
        scratch = self._scratch("corpus", network, count, size, size)
        state, everyone = torch.zeros(mask.shape, dtype=torch.int32), torch.arange(count)
        read = obs.to(torch.int64 if _coded(setup) else torch.float32).contiguous()
        where = (ctypes.byref(network), table.struct(distributions=False), scratch)
        asked = (count, everyone.data_ptr(), size, read.data_ptr(), state.data_ptr())
        if self._kernel.see(*where, *asked):
            raise ValueError(f"dynamics: an observation lies outside the space {setup.space}")
        cut, wanted = _tokens(state, state, mask.contiguous()), wanted.contiguous()
        learner, _, told = self._step(learner, adam, torch.empty(count))
        self._kernel.imitate(*where, ctypes.byref(cut), count, wanted.data_ptr(), told)
        return learner


class _Distributions:
    """Whole distributions at the tokens of a minibatch, made when they are asked for."""

    def __init__(self, engine: NativeEngine, setup: Setup, minibatch: Minibatch) -> None:
        self._engine, self._setup, self._minibatch = engine, setup, minibatch

    def make(self, runs: slice, name: str) -> Tensor | None:
        """The field of a batch of these runs, ``(r, B, T, V)``; None: there is no reference policy."""
        engine, state, reference = self._engine, self._minibatch.seen["state"], None
        if name == "old_log_probs":
            return self._at(engine._table.arrays["log_probs"], state, runs)
        if name == "ref_log_probs":
            reference = self._minibatch.reference
            return None if reference is None else self.of_reference(runs, reference)
        arrays = engine._buffers["policy", len(state)].arrays
        local = arrays["local"].flatten()[: state.numel()].view(state.shape)
        return self._at(arrays["log_probs"], local, runs)

    def of_reference(self, runs: slice, reference: Params) -> Tensor:
        """The reference policy's, ``(r, B, T, V)``."""
        whole = self._engine.reference(self._setup, reference)
        return self._at(whole, self._minibatch.seen["state"], runs)

    def _at(self, array: Tensor, index: Tensor, runs: slice) -> Tensor:
        found = rows(array[runs.start or 0 :], index[runs])
        return found[..., : self._setup.dynamics.num_actions]
