"""TRL's GRPO losses: a real trainer around a tiny model on the CPU; imports TRL when used."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from differential.batches import Fields, gradients
from erc_bench.core.batch import TokenBatch

VOCABULARY = 13
PROMPTS, LENGTH, PROMPT_LENGTH, HORIZON = 6, 8, 3, 11


@dataclass(frozen=True)
class Case:
    """One recipe beside one loss type.

    Attributes:
        recipe: name in RECIPES.
        loss_type: TRL's.
        parameters: of the recipe.
        settings: attributes of the trainer, or ``args.<name>`` of its arguments.
        value: False where the values differ by design (the differences page says how).
        tolerance: relative.
    """

    recipe: str
    loss_type: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    value: bool = True
    tolerance: float = 1e-10

    def __str__(self) -> str:
        changed = "".join(f"-{k}={v:g}" for k, v in self.parameters.items())
        return f"{self.loss_type}-{self.recipe}{changed}"


def clip(low: float, high: float) -> dict[str, float]:
    """TRL's clip range."""
    return {"epsilon_low": low, "epsilon_high": high}


SEQUENCE = {"importance_sampling_level": "sequence"}

CASES = (
    Case("grpo", "grpo", {}, clip(0.2, 0.2)),
    Case("grpo", "grpo", {"beta": 0.04}, clip(0.2, 0.2) | {"beta": 0.04}),
    Case("dr-grpo", "dr_grpo", {"horizon": HORIZON}, clip(0.2, 0.2)),
    Case("dapo", "dapo", {}, clip(0.2, 0.28)),
    Case("ppo-clip", "bnpo", {}, clip(0.2, 0.2)),
    Case("dual-clip", "bnpo", {"c": 1.5}, clip(0.2, 0.2) | {"args.delta": 1.5}),
    Case("dapo-entropy", "bnpo", {}, clip(0.2, 0.28) | {"entropy_coef": 0.01}),
    Case("ppo-entropy", "bnpo", {}, clip(0.2, 0.2) | {"entropy_coef": 0.01}),
    Case("gspo", "grpo", {}, clip(3e-4, 4e-4) | SEQUENCE),
    Case("gspo", "grpo", {"clip_low": 0.1, "clip_high": 0.1}, clip(0.1, 0.1) | SEQUENCE),
    Case("luspo", "luspo", {}, clip(3e-4, 4e-4) | SEQUENCE),
    Case("luspo", "luspo", {"clip_low": 0.1, "clip_high": 0.1}, clip(0.1, 0.1) | SEQUENCE),
    # TRL makes its exponents a float32 tensor, which rounds the numbers of the second case
    Case("vespo", "vespo"),
    Case(
        "vespo",
        "vespo",
        {"k_positive": 1.5, "lambda_positive": 0.7, "k_negative": 0.4, "lambda_negative": 1.1},
        {
            "args.vespo_k_pos": 1.5,
            "args.vespo_lambda_pos": 0.7,
            "args.vespo_k_neg": 0.4,
            "args.vespo_lambda_neg": 1.1,
        },
        tolerance=1e-6,
    ),
    Case("cispo", "cispo", {}, {"epsilon_high": 5.0}),
    Case("cispo", "cispo", {"clip_high": 0.2}, {"epsilon_high": 1.2}),
    # TRL makes the temperature a float32 tensor, which rounds 1.05
    Case("sapo", "sapo", tolerance=1e-7),
    Case("sapo", "sapo", {"tau_negative": 1.5}, {"args.sapo_temperature_neg": 1.5}),
    Case(
        "high-entropy-only",
        "dapo",
        {},
        clip(0.2, 0.28) | {"top_entropy_quantile": 0.2},
        value=False,
    ),
)

#: loss types that no recipe is
WITHOUT_RECIPE: dict[str, str] = {}

_STOCK = {
    "importance_sampling_level": "token",
    "beta": 0.0,
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "entropy_coef": 0.0,
    "top_entropy_quantile": 1.0,
    "max_completion_length": HORIZON,
    "current_gradient_accumulation_steps": 1,
    "args.delta": None,
    "args.sapo_temperature_neg": 1.05,
    "args.use_bias_correction_kl": False,
    "args.steps_per_generation": 1,
    "args.vespo_k_pos": 2.0,
    "args.vespo_lambda_pos": 3.0,
    "args.vespo_k_neg": 3.0,
    "args.vespo_lambda_neg": 2.0,
}


def require_trl() -> Any:
    """``trl``; skips the test where it is not installed."""
    return pytest.importorskip(
        "trl", reason="TRL is not installed: see tests/differential/README.md"
    )


def make_trainer(folder: Path) -> Any:
    """A GRPOTrainer on a two-layer Llama made from its config, in float64."""
    trl = require_trl()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL and what it imports
        from datasets import Dataset  # noqa: PLC0415
        from tokenizers import Tokenizer, models  # noqa: PLC0415
        from transformers import (  # noqa: PLC0415
            LlamaConfig,
            LlamaForCausalLM,
            PreTrainedTokenizerFast,
        )

        words = {f"w{i}": i for i in range(VOCABULARY)}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
            pad_token="w0",
            eos_token="w1",
        )
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                pad_token_id=0,
                eos_token_id=1,
                initializer_range=0.5,
            )
        )
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=trl.GRPOConfig(
                output_dir=str(folder),
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                num_generations=2,
                per_device_train_batch_size=2,
            ),
            train_dataset=Dataset.from_list([{"prompt": "w2"}] * 4),
            processing_class=tokenizer,
        )
    trainer.model.double().train()
    return trainer


def make_inputs(trainer: Any, seed: int, drift: float = 0.3) -> dict[str, Tensor]:
    """What the trainer's loss is called with: old and reference log-probabilities near the model's."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (PROMPTS, PROMPT_LENGTH + LENGTH), generator=g)
    lengths = torch.randint(1, LENGTH + 1, (PROMPTS,), generator=g)
    mask = torch.arange(LENGTH) < lengths.unsqueeze(-1)
    noise = torch.randn(2, PROMPTS, LENGTH, generator=g, dtype=torch.float64)
    with torch.no_grad():
        logp = _log_probs(trainer.model, ids).gather(-1, ids[:, PROMPT_LENGTH:, None]).squeeze(-1)
    return {
        "prompt_ids": ids[:, :PROMPT_LENGTH],
        "prompt_mask": torch.ones(PROMPTS, PROMPT_LENGTH, dtype=torch.long),
        "completion_ids": ids[:, PROMPT_LENGTH:],
        "completion_mask": mask.long(),
        "advantages": torch.randn(PROMPTS, generator=g, dtype=torch.float64),
        "old_per_token_logps": logp + drift * noise[0],
        "ref_per_token_logps": logp + 0.3 * noise[1],
        "num_items_in_batch": mask.sum(),
    }


def _log_probs(model: Any, ids: Tensor) -> Tensor:
    """Of the completion's tokens, by a plain forward pass."""
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits[:, PROMPT_LENGTH - 1 : -1].log_softmax(-1)


def _entropy(log_probs: Tensor) -> Tensor:
    """Rounded to float32, in which TRL compares them with their quantile; the gradient is exact."""
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return entropy + (entropy.float().double() - entropy).detach()


def _gradient(loss: Tensor, model: Any) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def _float64_forward(model: Any, ids: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
    """In the place of TRL's log-probabilities and entropies, whose kernel works in float32."""
    log_probs = _log_probs(model, ids)
    action = ids[:, PROMPT_LENGTH:].unsqueeze(-1)
    return log_probs.gather(-1, action).squeeze(-1), _entropy(log_probs), None


#: an attribute that only exists inside ``train``
_SET_BY_TRAIN = "current_gradient_accumulation_steps"


def _configure(trainer: Any, loss_type: str, settings: Mapping[str, Any]) -> None:
    for name, value in ({"loss_type": loss_type} | _STOCK | dict(settings)).items():
        owner = trainer.args if name.startswith("args.") else trainer
        assert hasattr(owner, name.removeprefix("args.")) or name == _SET_BY_TRAIN, name
        setattr(owner, name.removeprefix("args."), value)
    trainer._entropy_bonus_enabled = trainer.entropy_coef != 0.0


def theirs(
    trainer: Any,
    inputs: Mapping[str, Tensor],
    loss_type: str,
    settings: Mapping[str, Any],
    *,
    stock_forward: bool = False,
) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the model's parameters by ``GRPOTrainer._compute_loss``.

    With ``stock_forward`` TRL computes the log-probabilities too, in float32.
    """
    stock = type(trainer)._get_per_token_logps_and_entropies.__get__(trainer)
    trainer._get_per_token_logps_and_entropies = stock if stock_forward else _float64_forward
    _configure(trainer, loss_type, settings)
    loss = trainer._compute_loss(trainer.model, dict(inputs))
    return loss.detach(), _gradient(loss, trainer.model)


def ours(trainer: Any, inputs: Mapping[str, Tensor], objective: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the same parameters, from plain logits and our batch."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    log_probs = _log_probs(trainer.model, ids)
    action = inputs["completion_ids"]
    old_logp = inputs["old_per_token_logps"]
    batch = TokenBatch(
        logp=log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1),
        old_logp=old_logp,
        advantage=inputs["advantages"].unsqueeze(-1).expand_as(old_logp),
        mask=inputs["completion_mask"],
        entropy=_entropy(log_probs),
        action=action,
        log_probs=log_probs,
        ref_logp=inputs["ref_per_token_logps"],
    )
    loss, _ = objective(batch)
    return loss.detach(), _gradient(loss, trainer.model)


def on_fields(
    trainer: Any, given: Fields, loss_type: str, settings: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients with respect to given log-probabilities and entropies, without a model."""
    settings = dict(settings)
    mask = given["mask"].long()
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
        "completion_ids": torch.zeros_like(mask),
        "completion_mask": mask,
        "advantages": given["advantage"],
        "old_per_token_logps": given["old_logp"],
        "ref_per_token_logps": given["ref_logp"],
        "num_items_in_batch": settings.pop("num_items_in_batch", mask.sum()),
    }
    _configure(trainer, loss_type, settings)
    leaves = given["logp"], given["entropy"], None
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: leaves
    loss = trainer._compute_loss(trainer.model, inputs)
    return loss.detach(), gradients(loss, given)
