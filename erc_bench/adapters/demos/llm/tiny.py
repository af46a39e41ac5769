"""A small Llama made here. Its tokens are characters, and a teacher who errs has taught it sums."""

from __future__ import annotations

import copy
import functools
import random
import string

import torch

from erc_bench.adapters.demos.llm.loaded import Loaded
from erc_bench.adapters.demos.llm.task import Addition

__all__ = ["tiny"]

PAD, END = "<pad>", "<eos>"
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }}"
    "{% endif %}{% endfor %}"
)

#: The share of the taught answers that are right; the others are off by at most three.
RIGHT = 0.6


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
