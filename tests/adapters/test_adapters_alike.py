"""One fixed batch through the Objective, TRL's path and verl's: loss and gradient to 1e-6."""

from __future__ import annotations

import warnings

import pytest
import torch
from adapters.tiny_trl import make_trainer, require_trl
from adapters.verl_path import verl_loss

from erc_bench.core.batch import TokenBatch
from erc_bench.objectives import PositiveNLL, make

ROWS, LENGTH = 5, 7
OBJECTIVES = ("dapo", "gppo", "erc-dapo", "erc-gppo", "erc-gppo+nll", "dual-clip", "cispo", "gmpo")


def build(name):
    objective = make(name.removesuffix("+nll"))
    return objective.regularized(PositiveNLL(0.1)) if name.endswith("+nll") else objective


def fixed():
    """Ragged, off-policy, with tokens outside clip and band, and rewards."""
    g = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    old_logp = -normal(ROWS, LENGTH).abs() - 0.1
    old_entropy = normal(ROWS, LENGTH).abs() + 0.05
    lengths = torch.tensor([7, 1, 4, 6, 3])
    return {
        "logp": (old_logp + 0.3 * normal(ROWS, LENGTH)).requires_grad_(),
        "entropy": (old_entropy * (0.06 * normal(ROWS, LENGTH)).exp()).requires_grad_(),
        "old_logp": old_logp,
        "old_entropy": old_entropy,
        "advantage": normal(ROWS),
        "mask": torch.arange(LENGTH) < lengths[:, None],
        "reward": torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0], dtype=torch.float64),
    }


def direct(objective, given):
    batch = TokenBatch(
        given["logp"],
        given["old_logp"],
        given["advantage"][:, None].expand(ROWS, LENGTH),
        given["mask"],
        entropy=given["entropy"],
        old_entropy=given["old_entropy"],
        reward=given["reward"],
    )
    return objective(batch)[0]


def through_trl(objective, given, folder, monkeypatch):
    """``_compute_loss``, where TRL would hand over what its forward pass says."""
    trl = require_trl()
    trainer = make_trainer(folder, objective=objective, settings={"steps_per_generation": 1})
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    monkeypatch.setattr(
        trl.GRPOTrainer,
        "_get_per_token_logps_and_entropies",
        lambda *_, **__: (given["logp"], given["entropy"], None),
    )
    mask = given["mask"].long()
    inputs = {
        "prompt_ids": torch.full((ROWS, 2), 2),
        "prompt_mask": torch.ones(ROWS, 2).long(),
        "completion_ids": torch.full((ROWS, LENGTH), 3),
        "completion_mask": mask,
        "advantages": given["advantage"],
        "old_per_token_logps": given["old_logp"],
        "old_entropies": given["old_entropy"],
        "response_reward": given["reward"],
        "num_items_in_batch": mask.sum(),
    }
    return trainer._compute_loss(trainer.model, inputs)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_batch_through_objective_trl_and_verl(name, tmp_path, monkeypatch):
    """The same number and the same gradient of every token's log-probability, to 1e-6."""
    pytest.importorskip("verl", reason="verl is not installed: see docs/verl.md")
    objective = build(name)
    losses, gradients = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested tensors are a prototype
        for path in (direct, lambda o, g: through_trl(o, g, tmp_path, monkeypatch)):
            given = fixed()
            loss = path(objective, given)
            losses.append(loss.item())
            gradients.append(torch.autograd.grad(loss, given["logp"])[0])
        given = fixed()
        fields = given | {"advantage": given["advantage"][:, None].expand(ROWS, LENGTH)}
        nll = 0.1 if name.endswith("+nll") else 0.0
        loss, gradient, _ = verl_loss(fields, name.removesuffix("+nll"), positive_nll=nll)
        losses.append(loss.item())
        gradients.append(gradient)
    assert gradients[0].abs().max() > 1e-3
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert loss == pytest.approx(losses[0], abs=1e-6)
        torch.testing.assert_close(gradient, gradients[0], rtol=0, atol=1e-6)
