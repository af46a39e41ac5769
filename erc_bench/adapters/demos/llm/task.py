"""Addition, judged with math-verify: a reward that can be verified."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Addition", "final_number", "judge"]

SYSTEM = "Answer with the number only."
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def final_number(text: str) -> str | None:
    """The last number of a response, so that a restated question is not taken for the answer.

    >>> final_number("3 + 4 = 7."), final_number("The sum of three and four")
    ('7', None)
    """
    found = _NUMBER.findall(text)
    return found[-1] if found else None


def judge(text: str, answer: int) -> float:
    """1 if the response's final number equals the answer, by math-verify; else 0."""
    from math_verify import parse, verify  # noqa: PLC0415

    number = final_number(text)
    if number is None:
        return 0.0
    options = {"parsing_timeout": None}  # these are short; its timer needs the main thread
    return float(
        verify(parse(str(answer), **options), parse(number, **options), timeout_seconds=None)
    )


@dataclass(frozen=True)
class Addition:
    """Sums ``a + b`` with both numbers in 1..largest; a fifth of the pairs is held out.

    Zero is left out, because with it the last number of the question would be its answer.

    Attributes:
        largest: the largest number to add.
    """

    largest: int = 20

    def pairs(self, *, held_out: bool) -> list[tuple[int, int]]:
        """Every pair of one of the two parts, in an order that is always the same."""
        numbers = range(1, self.largest + 1)
        pairs = [(a, b) for a in numbers for b in numbers]
        random.Random(0).shuffle(pairs)
        fifth = len(pairs) // 5
        return pairs[:fifth] if held_out else pairs[fifth:]

    def messages(self, pair: tuple[int, int]) -> list[dict[str, str]]:
        """The conversation that asks for a sum."""
        a, b = pair
        return [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"What is {a} + {b}?"},
        ]

    def prompts(self, count: int, seed: int) -> list[tuple[int, int]]:
        """Pairs to train on, drawn with replacement."""
        return random.Random(seed).choices(self.pairs(held_out=False), k=count)


def reward(completions: Sequence[object], answer: Sequence[int], **_: object) -> list[float]:
    """Reward function as TRL calls it: completions are conversations or strings."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]  # type: ignore[index]
    return [judge(text, right) for text, right in zip(texts, answer, strict=True)]
