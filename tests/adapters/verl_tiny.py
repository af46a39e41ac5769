"""A model, a data set and a reward small enough for verl on one processor."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd

TOKENS = 261  # five special ones and every byte


def write_model(folder: Path, seed: int = 0) -> Path:
    """A Qwen2 of 100 thousand parameters with a byte tokenizer, from its configuration alone."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    special = ["<pad>", "<eos>", "<unk>", "<start>", "<end>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    raw = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}="
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=TOKENS,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def write_data(path: Path) -> Path:
    """Sixty-four sums as verl's Parquet rows."""

    rng = random.Random(0)
    rows = []
    for index in range(64):
        a, b = rng.randint(0, 99), rng.randint(0, 99)
        rows.append(
            {
                "data_source": "sums",
                "prompt": [{"role": "user", "content": f"{a}+{b}"}],
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": str(a + b)},
                "extra_info": {"index": index},
            }
        )
    pd.DataFrame(rows).to_parquet(path)
    return path


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """Share of printable characters: a reward that a tiny model can learn in ten steps."""
    printable = sum(32 <= ord(c) < 127 for c in solution_str) / max(len(solution_str), 1)
    return {"score": printable, "acc": printable}
