"""An engine that lets two others do the same work at every step, and compares what they did."""

from __future__ import annotations

import numpy as np
import torch

from erc_bench.objectives import CovarianceKL
from erc_bench.training.native.engine import NativeEngine
from erc_bench.training.native.library import kernel
from erc_bench.training.optimizer import Learner
from erc_bench.training.torch_engine import TorchEngine

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def copied(learner: Learner) -> Learner:
    """The same learner in memory of its own."""
    params = {name: p.clone() for name, p in learner.params.items()}
    moments = (learner.mean.clone(), learner.square.clone())
    return Learner(params, *moments, learner.alive.clone(), learner.steps.clone())


class Lockstep:
    """The native engine's results, each of them compared with torch's from the same state.

    A token within rounding of a threshold may fall on either side of it: a fraction may differ by one
    token, ``flips`` counts how often it did, and its gradient is then not compared.
    """

    name = "lockstep"

    def __init__(self, **options):
        self.native, self.torch = NativeEngine(kernel(), **options), TorchEngine()
        self.updates = self.flips = 0

    def respond(self, setup, params, task, *args, **options):
        ours = self.native.respond(setup, params, task, *args, **options)
        theirs = self.torch.respond(setup, params, task, *args, **options)
        for name in ("action", "mask", "reward"):
            assert torch.equal(ours.tensors[name], theirs.tensors[name]), name
        for name in ("old_logp", "old_entropy", "acted_logp"):
            x, y = (r.tensors[name][ours.mask] for r in (ours, theirs))
            torch.testing.assert_close(x, y, msg=name, **TOLERANCE)
        ours.seen.update(theirs.seen)
        return ours

    def update(self, setup, policy, minibatch, objectives):
        start = copied(policy)
        theirs, wanted, tokens = self.torch.update(setup, copied(policy), minibatch, objectives)
        ours, row, recorded = self.native.update(setup, policy, minibatch, objectives)
        counted = minibatch.fixed["mask"].sum((1, 2)).clamp(min=1)
        same = torch.ones(len(counted), dtype=torch.bool)
        assert row.keys() == wanted.keys()
        for name, x in row.items():
            if name.endswith("_fraction"):
                differs = (x - wanted[name]).abs() * counted > 0.5
                assert bool(((x - wanted[name]).abs() * counted < 1.5)[differs].all()), name
                same &= ~differs
        self.updates, self.flips = self.updates + 1, self.flips + int((~same).sum())
        for objective, runs in zip(objectives, setup.slices, strict=True):
            # |log r| has a kink where the policies are equal; there its slope is decided by rounding
            kinked = any(isinstance(r, CovarianceKL) for r in objective.regularizers)
            same[runs] &= ~(kinked & (row["drift/kl_exact"][runs] < 1e-6))
        for name, x in row.items():
            if not name.endswith("_fraction"):
                assert torch.allclose(
                    x[same], wanted[name][same], rtol=1e-5, atol=1e-5, equal_nan=True
                ), (name, int(policy.steps), x, wanted[name])
        assert recorded.keys() == tokens.keys()
        for name, x in recorded.items():
            if x.dtype.is_floating_point:
                torch.testing.assert_close(x, tokens[name], msg=name, **TOLERANCE)
            elif name not in ("clip_bound", "gate_dropped"):
                assert torch.equal(x, tokens[name]), name
        self.compare(setup.adam, start, ours, theirs, same)
        return ours, row, recorded

    def compare(self, adam, start, ours, theirs, same=slice(None)):
        """Moments agree, and the parameters are what Adam makes of them, in float64."""
        assert torch.equal(ours.alive, theirs.alive)
        assert ours.steps == theirs.steps
        numbers = sum(p[0].numel() for p in ours.params.values())
        # where a gradient is zero, what is left of it is rounding
        for name, rounding in (("mean", 1e-7), ("square", 1e-13)):
            x, y = (getattr(z, name)[same][:, :numbers] for z in (ours, theirs))
            scale = 1e-5 * y.abs().amax(-1, keepdim=True) + rounding
            far = (x - y).abs() > scale + 1e-4 * y.abs()
            assert not bool(far.any()), f"{name}: {x[far][:5]}, {y[far][:5]}, {far.any(1)}"
        t = int(ours.steps)
        corrected = ours.mean.double() / (1 - 0.9**t)
        root = (ours.square.double() / (1 - 0.999**t)).sqrt() + 1e-8
        change = (corrected / root)[:, :numbers]
        before, after = (
            torch.cat([p.flatten(1) for p in x.params.values()], dim=1) for x in (start, ours)
        )
        rate = adam.rate(start.steps).double().unsqueeze(1)
        wanted = before.double() * (1 - rate * adam.weight_decay) - rate * change
        alive = ours.alive
        torch.testing.assert_close(
            after[alive].double(), wanted[alive], rtol=1e-6, atol=1e-6 * float(rate.max())
        )
        assert torch.equal(after[~alive], before[~alive])

    def moved(self, setup, params, rollout):
        ours = self.native.moved(setup, params, rollout)
        torch.testing.assert_close(ours, self.torch.moved(setup, params, rollout), **TOLERANCE)
        return ours

    def values(self, setup, critic, rollout, runs):
        ours = self.native.values(setup, critic, rollout, runs)
        theirs = self.torch.values(setup, critic, rollout, runs)
        mask = rollout.mask[runs]
        torch.testing.assert_close(ours[mask], theirs[mask], **TOLERANCE)
        return ours

    def fit_values(self, setup, critic, minibatch, runs):
        start = copied(critic)
        theirs = self.torch.fit_values(setup, copied(critic), minibatch, runs)
        ours = self.native.fit_values(setup, critic, minibatch, runs)
        rates = type(setup.adam)(setup.adam.learning_rate[runs])
        self.compare(rates, start, ours, theirs)
        return ours

    def imitate(self, setup, learner, obs, wanted, mask, adam):
        start = copied(learner)
        theirs = self.torch.imitate(setup, copied(learner), obs, wanted, mask, adam)
        ours = self.native.imitate(setup, learner, obs, wanted, mask, adam)
        self.compare(adam, start, ours, theirs)
        return ours


def assert_close_results(a, b, **tolerance):
    """Every column of two results."""
    for table in ("metrics", "tokens", "runs"):
        x, y = getattr(a, table), getattr(b, table)
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_allclose(x[name], y[name], err_msg=f"{table}: {name}", **tolerance)
