"""What the teaching page must show, by the library itself: its recipes, autograd and drift, in float64.

A state is written as in a link, with Python values: ``{"objective": "dapo", "logits": [...], ...}``;
actions count from 1, ``second`` makes two states, ``start`` an old policy that is left already.
"""

import torch

from erc_bench.core import drift
from erc_bench.core.batch import TokenBatch
from erc_bench.core.numerics import entropy_ratio
from erc_bench.objectives import DirectionalEntropyRatio, make, recipe
from erc_bench.presentation.explain import PRESETS

OBJECTIVES = ("reinforce", "ppo-clip", "dapo", "gppo", "erc-dapo", "erc-directional-dapo")
DEFAULT = {
    "objective": "dapo",
    "logits": [1.5, 0.7, 0.0, -0.4],
    "action": 1,
    "advantage": 1.0,
    "step": 0.2,
    "updates": 4,
    "band": 0.05,
    "cosine": 0.8,
    "start": None,
    "second": None,
    "compare": None,
}
DELTA = 0.01


def filled(state):
    """With defaults for what is missing; the clip's are the recipe's own."""
    state = {**DEFAULT, **state}
    known = recipe(state["objective"]).parameters
    clip = [known.get("clip_low", 0.2), known.get("clip_high", 0.2)]
    return {"clip": clip, **state}


def link(state):
    """The fragment that stands for a state."""

    def text(value):
        return ",".join(map(repr, value)) if isinstance(value, list) else str(value)

    return "#" + "&".join(f"{k}={text(v)}" for k, v in state.items() if v is not None)


def claimed(address):
    """``preset[?field=value&...]:key`` as the state and the key."""
    place, _, key = address.partition(":")
    name, _, changes = place.partition("?")
    state = dict(PRESETS[name])
    for change in filter(None, changes.split("&")):
        field, _, value = change.partition("=")
        state[field] = value if field == "objective" else float(value)
        if field == "objective":
            state.pop("clip", None)
    return state, key


def objective_of(state):
    parameters = recipe(state["objective"]).parameters
    given = {
        "clip_low": state["clip"][0],
        "clip_high": state["clip"][1],
        "band_low": state["band"],
        "band_high": state["band"],
    }
    return make(state["objective"], **{k: v for k, v in given.items() if k in parameters})


def features(cosine):
    return torch.tensor([[1.0, 0.0], [cosine, (1 - cosine**2) ** 0.5]], dtype=torch.float64)


def measures(batch, state, suffix=""):
    found = drift.measure(batch, clip_low=state["clip"][0], clip_high=state["clip"][1])
    old, new = batch.old_log_probs.exp().flatten(), batch.log_probs.exp().flatten()
    values = {
        "kl": found["drift/kl_exact"],
        "kl.reverse": found["drift/kl_reverse"],
        "tv": found["drift/tv"],
        "tv.hidden": found["drift/tv_hidden"],
        "entropy.old": batch.old_entropy,
        "entropy.new": batch.entropy,
        "rho": entropy_ratio(batch.entropy, batch.old_entropy),
        **{f"p{suffix}.old.{i}": p for i, p in enumerate(old)},
        **{f"p{suffix}.new.{i}": p for i, p in enumerate(new)},
    }
    return {
        k if k.startswith("p") else k + suffix: float(v.detach()) for k, v in values.items()
    } | {"hidden" + suffix: bool(found["drift/hidden_violation_fraction"])}


def reference(state):
    """Every number that the page may show, by its name there, and the three flags."""
    state = filled(state)
    old = torch.tensor(state["logits"], dtype=torch.float64)
    shared = state["second"] is not None
    old2 = torch.tensor(state["second"] if shared else state["logits"], dtype=torch.float64)
    phi = features(state["cosine"]) if shared else torch.eye(2, dtype=torch.float64)
    W_old = torch.linalg.solve(phi, torch.stack([old, old2])).T  # logits of state s: W phi(s)
    start = torch.tensor(state["start"] or state["logits"], dtype=torch.float64)
    W = W_old + torch.outer(start - old, phi[0])
    action = torch.tensor([[state["action"] - 1]])
    advantage = torch.tensor([[float(state["advantage"])]], dtype=torch.float64)
    objective = objective_of(state)
    low, high = 1 - state["clip"][0], 1 + state["clip"][1]

    def batch(weights, s, was):
        logits = weights @ phi[s]
        return TokenBatch.from_logits(
            logits[None, None], was[None, None], action, advantage, torch.ones(1, 1)
        )

    shown = {
        "set.advantage": state["advantage"],
        "set.step": state["step"],
        "delta": DELTA,
        "set.updates": state["updates"],
        "set.clip.low": state["clip"][0],
        "set.clip.high": state["clip"][1],
        "set.band": state["band"],
        "set.cosine": state["cosine"],
        "set.actions": len(old),
        "bound.clip.low": low,
        "bound.clip.high": high,
        "bound.band.low": 1 - state["band"],
        "bound.band.high": 1 + state["band"],
        **{f"logit.logits.{i}": z for i, z in enumerate(state["logits"])},
        **{f"logit.start.{i}": z for i, z in enumerate(state["start"] or [])},
        **{f"logit.second.{i}": z for i, z in enumerate(state["second"] or [])},
    }
    for k in range(int(state["updates"]) + 1):
        W = W.detach().requires_grad_()
        one = batch(W, 0, old)
        one.log_probs.retain_grad()
        loss, metrics = objective(one)
        (gradient,) = torch.autograd.grad(-loss, W)
        at = measures(one, state)
        if shared:
            at |= measures(batch(W, 1, old2), state, "2")
            at["tv.hidden2"] = at["tv2"]  # nothing was sampled there
        uphill = gradient[:, 0]  # of state 1's logits, as phi_1 = (1, 0)
        direction = -one.log_probs.detach().exp().flatten()
        direction[state["action"] - 1] += 1
        at |= {
            "r": float(one.ratio.detach()),
            "clipped": float(one.ratio.detach().clamp(low, high)),
            "logp": float(one.logp.detach()),
            "value": -float(loss.detach()),
            "weight": float(uphill @ direction / (direction @ direction)),
            "pull": state["step"] * float(uphill[state["action"] - 1]),
            "slope": float(DirectionalEntropyRatio().entropy_change(one).detach()),
            "bound": bool(objective.bound(one)),
            "dropped": bool(metrics["gate/dropped_fraction"]),
        }
        assert torch.allclose(uphill, at["weight"] * direction, atol=1e-12)
        for key in ("r", "rho", "kl", "tv", "rho2", "kl2", "tv2"):
            if key in at:
                shown[f"t.{k}.{key}"] = at[key]
        for flag in ("bound", "dropped"):
            if at[flag]:
                shown.setdefault(f"first.{flag}", k)
        W = W + state["step"] * gradient
    return shown | at | {"kl/delta": at["kl"] / DELTA}
