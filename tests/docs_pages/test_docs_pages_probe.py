"""What the probes measure: against autograd at log-probabilities, closed forms, and expectations."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.core.numerics import entropy
from erc_bench.objectives import RECIPES, make
from tools.docs_pages.constraints import PROBES, cell, facts
from tools.docs_pages.curves import measure
from tools.docs_pages.probe import SAMPLED, Token, distribution, gradient_weights

#: recipes whose loss reaches the policy through more than the sampled action's log-probability
#: Whose gradient goes through the other actions too.
PENALISED = {"ppo-kl", "ppo-kl-adaptive", "ppo-entropy", "dapo-kl", "dapo-entropy", "troll"}
BY_NAME = {probe.name: probe for probe in PROBES}


@cache
def policy(probability: float, nats: float) -> torch.Tensor:
    return distribution(tensor(probability), tensor(nats))


def tensor(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.7])
@pytest.mark.parametrize("nats", [0.9, 1.2])
def test_distribution_has_the_probability_and_the_entropy(probability, nats):
    """Both, to rounding, and it is normalised."""
    p = distribution(tensor(probability), tensor(nats))
    assert p[SAMPLED].exp().item() == pytest.approx(probability, abs=1e-12)
    assert entropy(p).item() == pytest.approx(nats, abs=1e-8)
    assert p.exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("probability", "nats"), [(0.99, 2.0), (0.5, 0.1)])
def test_distribution_that_cannot_be_raises(probability, nats):
    """More entropy than the other actions can hold, or less than the sampled one makes."""
    with pytest.raises(InputError, match="no policy"):
        distribution(tensor(probability), tensor(nats))


@pytest.mark.parametrize("name", sorted(set(RECIPES) - PENALISED))
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.1, 2.5])
def test_weight_is_the_derivative_by_the_log_probability(name, advantage, ratio):
    """Where nothing but the sampled action's log-probability carries a gradient."""
    old, new = (policy(p, 1.2) for p in (0.1, 0.1 * ratio))
    objective = make(name)
    found = gradient_weights(objective, [[Token(old, new, advantage)]])
    logp = new[SAMPLED].clone().view(1, 1).requires_grad_()
    batch = TokenBatch(
        logp=logp,
        old_logp=old[SAMPLED].view(1, 1),
        advantage=torch.full_like(logp, advantage),
        mask=torch.ones(1, 1),
        entropy=entropy(new).view(1, 1),
        old_entropy=entropy(old).view(1, 1),
        log_probs=new.view(1, 1, -1),
        old_log_probs=old.view(1, 1, -1),
    )
    loss, _ = objective(batch)
    share = objective.aggregate(torch.ones_like(logp), batch.mask)
    (gradient,) = torch.autograd.grad(loss / share, logp)
    assert found.weight.item() == pytest.approx(-gradient.item(), abs=1e-9)
    assert found.beyond.item() < 1e-9


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_weight_of_a_penalty_equals_its_closed_form(ratio):
    """``r A - beta (pi - pi_old) / (1 - pi)`` for the exact divergence from the old policy."""
    old, new = (policy(p, 1.2) for p in (0.3, 0.3 * ratio))
    found = gradient_weights(make("ppo-kl", beta=3.0), [[Token(old, new, 1.0)]])
    expected = ratio - 3.0 * 0.3 * (ratio - 1) / (1 - 0.3 * ratio)
    assert found.weight.item() == pytest.approx(expected, abs=1e-9)
    assert (found.beyond.item() > 1e-3) == (ratio != 1)


@pytest.mark.parametrize("name", RECIPES)
def test_on_policy_gradient_is_the_policy_gradient(name):
    """Of an ordinary token, whatever the objective; an entropy bonus alone is felt there."""
    assert cell(make(name), BY_NAME["usual"]).active == (name in ("ppo-entropy", "dapo-entropy"))


@pytest.mark.parametrize(
    ("name", "stopped"),
    {
        "ppo-clip": {"ratio out"},
        "dual-clip": {"ratio out", "ratio far"},
        "cispo": {"ratio far"},
        "clip-cov": {"covariance", "covariance moved"},
        "kl-cov": {"covariance moved"},
        "pg-is": {"rollout mismatch"},
        "dppo-tv": {"rollout mismatch", "probability"},
        "dppo-kl": {"rollout mismatch", "probability"},
        "high-entropy-only": {"low entropy", "ratio out"},
        "dapo-tis": {"rollout mismatch", "ratio out"},
        "erc-dapo": {"ratio out", "entropy out", "entropy back"},
        "erc-directional-dapo": {"ratio out", "entropy out"},
        "kl-gate-dapo": {"ratio out", "small swap", "large swap", "probability"},
        "tv-gate-dapo": {"ratio out", "large swap", "probability"},
    }.items(),
)
def test_each_constraint_is_found_by_the_move_that_it_is_made_for(name, stopped):
    """And by no other: the moves are apart from each other."""
    assert {p.name for p in PROBES if cell(make(name), p).active} == stopped


def test_moves_are_what_their_names_say():
    """Ratios, entropies and divergences lie on the sides of the defaults' bounds that they must."""
    known = {p.name: {k: v.split(" / ") for k, v in facts(p).items()} for p in PROBES}
    for name, values in known.items():
        numbers = {k: [float(x) for x in v] for k, v in values.items()}
        inside = all(0.95 < x < 1.05 for x in numbers["rho"])
        assert inside == (not name.startswith("entropy")), name
        small_kl, small_tv = max(numbers["KL"]) < 0.01, max(numbers["TV"]) < 0.07
        assert small_kl == (name not in {"small swap", "large swap", "probability"}), name
        assert small_tv == (name not in {"large swap", "probability"}), name
        in_clip = all(0.8 <= x <= 1.2 for x in numbers["r"])
        assert in_clip == (not name.startswith("ratio ")), name
        covered = max(numbers["cov"]) > 1
        assert covered == name.startswith("covariance"), name


def test_axis_of_entropy_is_there_for_what_reads_it():
    """Gates on entropy or on whole distributions have a panel over rho, a clip has none."""
    axes = {name: {panel.axis for panel in measure(name)} for name in ("dapo", "erc-dapo")}
    assert axes == {"dapo": {"r"}, "erc-dapo": {"r", "rho"}}
