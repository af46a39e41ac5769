"""The expected update against closed forms, against batches that hold every action as often as expected,
and against samples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.objectives import RECIPES, ImportanceWeighted, Objective, Reinforce, make
from erc_bench.training.expectation import expected_gradient, expected_loss

LOCAL = [name for name, recipe in RECIPES.items() if not recipe.objective.over_batch]
#: Twentieths of probability of two states' actions under the old policy.
COUNTS = torch.tensor([[10, 6, 3, 1], [5, 5, 8, 2]])


def policies(seed, scale=0.6):
    g = torch.Generator().manual_seed(seed)
    old = (COUNTS.double() / 20).log()
    new = old + scale * torch.randn(old.shape, generator=g, dtype=torch.float64)
    return new, old, torch.rand(old.shape, generator=g, dtype=torch.float64)


def gradient_on_batch(objective, new, old, values, state, action, mean, std):
    """The objective's own gradient on responses of one token."""
    leaf = new.clone().requires_grad_()
    p = old.softmax(-1)
    batch = TokenBatch.from_logits(
        leaf[state][:, None],
        old[state][:, None],
        action[:, None],
        ((values - mean) / (std + 1e-6))[state, action][:, None],
        torch.ones(len(state), 1),
        ref_log_probs=p.log()[state][:, None],
        ref_logp=p.log()[state, action][:, None],
        rollout_logp=p.log()[state, action][:, None],
        reward=values[state, action],
    )
    return torch.autograd.grad(objective(batch)[0], leaf)[0]


def moments(old, values):
    p = old.softmax(-1)
    mean = (p * values).sum(-1, keepdim=True)
    return mean, (p * (values - mean).square()).sum(-1, keepdim=True).sqrt()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**16), st.floats(0, 1))
def test_it_is_the_softmax_policy_gradient(seed, weight):
    """REINFORCE, on policy: d(s) p_a (A_a - sum_b p_b A_b); the ratio's surrogate off policy: q for p."""
    new, old, values = policies(seed)
    d = torch.tensor([weight, 1 - weight], dtype=torch.float64)

    def closed_form(q):
        centred = values - (q * values).sum(-1, keepdim=True)
        return -d[:, None] * q * centred

    options = {"state_weights": d, "scaled": False}
    found = expected_gradient(Objective(Reinforce()), old, old, values, **options)
    torch.testing.assert_close(found, closed_form(old.softmax(-1)), rtol=1e-10, atol=1e-14)
    found = expected_gradient(Objective(ImportanceWeighted()), new, old, values, **options)
    torch.testing.assert_close(found, closed_form(new.softmax(-1)), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "objective", [*map(make, LOCAL), make("dapo", positive_nll=0.1)], ids=[*LOCAL, "positive-nll"]
)
def test_it_is_the_objectives_own_gradient_where_every_action_comes_as_often_as_expected(objective):
    """Twenty responses per state, as the probabilities say; every recipe with pieces of single tokens."""
    state, action = (torch.repeat_interleave(x, COUNTS.flatten()) for x in torch.where(COUNTS > 0))
    for seed in range(3):
        new, old, values = policies(seed)
        values = values.round()  # some have reward 1
        args = (new, old, values)
        expected = gradient_on_batch(objective, *args, state, action, *moments(old, values))
        found = expected_gradient(objective, *args)
        factor = getattr(objective.aggregate, "horizon", 1)
        torch.testing.assert_close(found, expected * factor, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["dapo", "erc-directional-dapo", "dppo-tv"])
def test_it_is_what_many_samples_come_to(name):
    """400 batches of 400 sampled responses: every component within five standard errors."""
    new, old, values = policies(1, scale=0.15)
    found, g = [], torch.Generator().manual_seed(0)
    for _ in range(400):
        state = torch.randint(2, (400,), generator=g)
        action = torch.multinomial(old.softmax(-1)[state], 1, generator=g).squeeze(-1)
        args = (new, old, values, state, action, *moments(old, values))
        found.append(gradient_on_batch(make(name), *args))
    sampled = torch.stack(found)
    error = sampled.std(0) / len(found) ** 0.5
    exact = expected_gradient(make(name), new, old, values)
    assert (sampled.mean(0) - exact).abs().le(5 * error + 1e-12).all()
    assert exact.abs().max() > 20 * error.max()


def test_a_grid_of_policies_is_one_batch_of_runs():
    """(R, S, V) gives what R calls give."""
    grid = [policies(seed) for seed in range(3)]
    new, old, values = (torch.stack(x) for x in zip(*grid, strict=True))
    together = expected_gradient(make("erc-dapo"), new, old, values)
    for found, args in zip(together, grid, strict=True):
        torch.testing.assert_close(found, expected_gradient(make("erc-dapo"), *args))


def test_what_has_no_expectation_is_refused():
    """Pieces over a batch, and shapes that do not fit, by name."""
    new, old, values = policies(0)
    with pytest.raises(InputError, match=r"objective: .*compares the tokens of a batch"):
        expected_loss(make("clip-cov"), new, old, values)
    with pytest.raises(InputError, match=r"values: shape \(2, 3\), must be \(2, 4\) like logits"):
        expected_loss(make("dapo"), new, old, values[:, :3])
    with pytest.raises(InputError, match=r"state_weights: shape \(3,\), must end in 2"):
        expected_loss(make("dapo"), new, old, values, state_weights=torch.ones(3))
    with pytest.raises(InputError, match=r"logits: shape \(4,\), must be"):
        expected_loss(make("dapo"), new[0], old[0], values[0])
