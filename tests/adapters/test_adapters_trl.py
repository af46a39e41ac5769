"""TRL's trainer with our objectives: gradients, micro-batches, old entropies, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from adapters import tiny_trl
from adapters.tiny_trl import make_model, make_trainer, train, weights

from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.objectives import EntropyRatio, PositiveNLL, make

pytestmark = pytest.mark.usefixtures("trl")


@pytest.fixture(scope="module", name="trl")
def _trl():
    return tiny_trl.require_trl()


def test_a_step_is_the_objective_on_the_steps_tokens(tmp_path):
    """One optimizer step of the trainer is one of SGD on the objective, by a plain forward pass."""
    trainer = make_trainer(tmp_path, objective="erc-dapo", settings={"max_steps": 2})
    steps = []
    inner = trainer._compute_loss

    def spy(model, inputs):
        steps.append((weights(trainer).clone(), dict(inputs)))
        return inner(model, inputs)

    trainer._compute_loss = spy
    train(trainer)
    (_, _), (before, inputs) = steps  # the second step: off-policy, its old policy is stored
    reference, _ = make_model()
    torch.nn.utils.vector_to_parameters(before, reference.parameters())
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    length = inputs["completion_ids"].shape[1]
    logits = reference(input_ids=ids, attention_mask=attention).logits[:, -length - 1 : -1]
    log_probs = logits.log_softmax(-1)
    batch = TokenBatch(
        logp=log_probs.gather(-1, inputs["completion_ids"][..., None])[..., 0],
        old_logp=inputs["old_per_token_logps"],
        advantage=inputs["advantages"][:, None].expand(-1, length),
        mask=inputs["completion_mask"],
        entropy=-(log_probs.exp() * log_probs).sum(-1),
        old_entropy=inputs["old_entropies"],
    )
    loss, metrics = make("erc-dapo")(batch)
    assert 0 < metrics["gate/dropped_fraction"] < 1
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, reference.parameters())])
    # to a unit in the last place of weights between 1 and 2
    torch.testing.assert_close(weights(trainer), before - 0.05 * gradient, rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("name", ["dapo", "erc-dapo", "grpo", "dr-grpo", "gspo"])
def test_gradient_accumulation_changes_nothing(tmp_path, name):
    """Two micro-batches per step give the weights of one: sums and denominators add up."""
    kwargs = {"objective": name, "parameters": {"horizon": 6} if name == "dr-grpo" else {}}
    scale = {"scale_rewards": "none"} if name == "dr-grpo" else {}
    shapes = [
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 8, "steps_per_generation": 2},
    ]
    found, logs = [], []
    for shape in shapes:
        trainer = make_trainer(tmp_path, settings=shape | scale | {"max_steps": 4}, **kwargs)
        start = weights(trainer)
        logs.append(train(trainer))
        found.append(weights(trainer))
    assert (found[0] - start).abs().max() > 1e-3
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-6)
    for ours, whole in zip(*logs, strict=True):
        for metric in ("gate/dropped_fraction", "drift/kl_k3", "loss/surrogate", "staleness"):
            assert ours[metric] == pytest.approx(whole[metric], abs=1e-5), metric


def test_dapo_is_trls_dapo_where_responses_are_equally_long(tmp_path, trl):
    """Else TRL divides by the rollout's mean length, not by the step's own tokens."""
    long = {"generation_kwargs": {"min_new_tokens": 6}}
    ours = make_trainer(
        tmp_path, objective="dapo", settings=long
    )  # seeds the samples: train at once
    start = weights(ours)
    train(ours)
    stock = make_trainer(tmp_path, trl.GRPOTrainer, settings=long | {"epsilon_high": 0.28})
    train(stock)
    assert (weights(ours) - start).abs().max() > 1e-2
    torch.testing.assert_close(weights(ours), weights(stock), rtol=0, atol=1e-7)


def test_infinite_band_is_the_objective_without_a_gate(tmp_path):
    """Bit for bit, after two rollouts."""
    wide = {"band_low": math.inf, "band_high": math.inf}
    found = []
    for name, parameters in (("dapo", {}), ("erc-dapo", wide), ("erc-dapo", {})):
        trainer = make_trainer(tmp_path, objective=name, parameters=parameters)
        train(trainer)
        found.append(weights(trainer))
    plain, infinite, gated = found
    assert torch.equal(plain, infinite)
    assert not torch.equal(plain, gated)


def test_log_has_our_metrics_and_trls_agree(tmp_path):
    """At the first update of a rollout nothing has drifted; TRL counts the same clipped tokens."""
    log = train(make_trainer(tmp_path, objective="erc-dapo", settings={"learning_rate": 0.5}))
    assert [entry["staleness"] for entry in log] == [0, 1, 2, 3] * 2
    assert [entry["rollout"] for entry in log] == [0] * 4 + [1] * 4
    for entry in log:
        if entry["staleness"] == 0:
            assert entry["drift/out_of_band_fraction"] == entry["gate/dropped_fraction"] == 0
            assert abs(entry["drift/kl_k3"]) < 1e-9
        assert entry["clip/ratio_bound_fraction"] == pytest.approx(entry["clip_ratio/region_mean"])
        assert entry["drift/entropy_new"] == pytest.approx(entry["entropy"], rel=1e-5)
        assert entry["gate/dropped_fraction"] == entry["drift/out_of_band_fraction"]
    assert max(entry["gate/dropped_fraction"] for entry in log) > 0.1
    assert max(entry["clip/ratio_bound_fraction"] for entry in log) > 0


def test_old_entropies_stay_with_their_tokens(tmp_path):
    """TRL shuffles and splits the batch: the stored entropies are those of a pass over the same tokens."""
    trainer = make_trainer(tmp_path, objective="erc-dapo", settings={"max_steps": 1})
    kept = []
    inner = trainer._compute_loss

    def spy(model, inputs):
        with torch.no_grad(), trainer._recording() as scored:
            super(type(trainer), trainer)._compute_loss(model, inputs)
        mask = inputs["completion_mask"].bool()
        kept.append((inputs["old_entropies"][mask], scored[0].entropy[mask]))
        return inner(model, inputs)

    trainer._compute_loss = spy
    train(trainer)
    (stored, again), *_ = kept
    assert stored.std() > 0.01
    torch.testing.assert_close(stored, again, rtol=1e-5, atol=1e-6)


def test_positive_nll_sees_each_responses_reward(tmp_path):
    """The term of ERC's release, on the tokens of responses with reward 1."""
    objective = make("erc-gppo").regularized(PositiveNLL(0.1))
    log = train(
        make_trainer(tmp_path, objective=objective, settings={"gradient_accumulation_steps": 2})
    )
    assert all(0 < entry["loss/positive_nll"] < 1 for entry in log)


def test_reference_kl_uses_trls_reference_model(tmp_path):
    """GRPO with beta: zero at the first step, as the policy is its reference; not later."""
    model, _ = make_model()
    model.save_pretrained(tmp_path / "model")
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    settings = {"learning_rate": 0.5}
    parameters = {"beta": 0.04}
    log = train(
        make_trainer(
            tmp_path, model=loaded, settings=settings, objective="grpo", parameters=parameters
        )
    )
    terms = [entry["loss/kl_k3_ref"] for entry in log]
    assert abs(terms[0]) < 1e-8
    assert max(terms) > 1e-4
    assert log[-1]["kl"] > 0  # TRL's own estimate


@pytest.mark.parametrize(
    ("own", "settings", "message"),
    [
        (
            {"objective": "kl-gate-dapo"},
            {},
            "reads log_probs, old_log_probs, which TRL does not keep",
        ),
        ({"objective": "erc-directional-dapo"}, {}, "which TRL does not keep"),
        ({"objective": "erc-dap"}, {}, "did you mean"),
        ({"objective": "dapo"}, {"epsilon": 0.1}, "GRPOConfig.epsilon: 0.1 has no effect"),
        ({"objective": "dapo"}, {"loss_type": "grpo"}, "GRPOConfig.loss_type"),
        ({"objective": "dapo"}, {"beta": 0.1}, "GRPOConfig.beta: 0.1 differs"),
        ({"objective": "dr-grpo", "parameters": {"horizon": 6}}, {}, "scale_rewards: 'group'"),
        (
            {"objective": "dapo"},
            {"gradient_accumulation_steps": 3, "steps_per_generation": 4},
            "must be a multiple of",
        ),
        ({"objective": "clip-cov"}, {"gradient_accumulation_steps": 2}, "must be 1"),
    ],
)
def test_what_would_have_no_effect_is_refused(tmp_path, own, settings, message):
    """Before any model is touched."""
    with pytest.raises(InputError, match=message):
        make_trainer(tmp_path, settings=settings, **own)


def test_composed_objectives_are_taken_as_they_are(tmp_path):
    """An Objective in place of a name; parameters belong to names only."""
    objective = make("gppo").gated(EntropyRatio(0.1, 0.2))
    assert make_trainer(tmp_path, objective=objective).objective is objective
    with pytest.raises(InputError, match="only for an objective given by name"):
        make_trainer(tmp_path, objective=objective, parameters={"band_low": 0.1})
