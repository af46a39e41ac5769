"""A language model with its tokenizer, and how responses are sampled from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Loaded", "Sampled"]


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
    """A causal language model in float32 with its tokenizer; both have a padding token."""

    model: Any
    tokenizer: Any

    @torch.no_grad()
    def sample(
        self, conversations: Sequence[list[dict[str, str]]], length: int, copies: int = 1
    ) -> Sampled:
        """Sample ``copies`` responses to each conversation at temperature 1, at most ``length`` tokens."""
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
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=copies,
        )
        return Sampled(made, inputs["attention_mask"].repeat_interleave(copies, 0))
