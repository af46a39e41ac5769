"""A tiny model from its config, and trainers around it; imports TRL when used."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

WORDS = 13


def require_trl() -> Any:
    return pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[llm]'")


def digits(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs between responses: the share of even tokens."""
    return [float(sum(t % 2 == 0 for t in ids) > len(ids) / 2) for ids in completion_ids]


def make_model(seed: int = 0) -> tuple[Any, Any]:
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(WORDS)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        pad_token="w0",
        eos_token="w1",
        padding_side="left",
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config), tokenizer


def make_trainer(
    folder: Path,
    kind: Any = None,
    model: Any = None,
    settings: dict[str, Any] | None = None,
    **own: Any,
) -> Any:
    """``kind`` (ours where it is None) on 16 prompts, 4 responses each, 8 updates a rollout."""
    trl = require_trl()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL and what it imports
        from datasets import Dataset

        from erc_bench.adapters.trl import ObjectiveGRPOTrainer

        made, tokenizer = make_model()
        defaults: dict[str, Any] = {
            "output_dir": str(folder),
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "gradient_checkpointing": False,
            "num_generations": 4,
            "seed": 3,
            "per_device_train_batch_size": 4,
            "steps_per_generation": 4,
            "max_steps": 8,
            "max_completion_length": 6,
            "learning_rate": 0.05,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
            "max_grad_norm": 1e9,
            "optim": "sgd",
            "weight_decay": 0.0,
        }
        return (kind or ObjectiveGRPOTrainer)(
            model=made if model is None else model,
            reward_funcs=digits,
            args=trl.GRPOConfig(**(defaults | (settings or {}))),
            train_dataset=Dataset.from_list([{"prompt": f"w{2 + i % 9}"} for i in range(16)]),
            processing_class=tokenizer,
            **own,
        )


def train(trainer: Any) -> list[dict[str, float]]:
    """Train; the log, one entry per optimizer step."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
