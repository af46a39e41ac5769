"""The reward of the paper's runs: 1 if math-verify accepts a response's answer, else 0.

``compute_score`` is verl's custom reward function, ``math_reward`` TRL's. Both judge what follows the
last ``</think>``, where there is one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

__all__ = ["compute_score", "judge", "math_reward"]

THOUGHT = "</think>"


@cache
def _tools() -> tuple[Any, Any, Any, Any]:
    """math-verify, silenced: it warns at every call that its timer is off."""
    from math_verify import (  # noqa: PLC0415
        ExprExtractionConfig,
        LatexExtractionConfig,
        parse,
        verify,
    )

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    gold = (LatexExtractionConfig(), ExprExtractionConfig())
    answer = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    return parse, verify, gold, answer


def judge(response: str, truth: str) -> bool:
    r"""Whether a response's final answer equals the truth, by math-verify.

    A response that only restates the question has an expression in it too: an answer must be boxed,
    as the prompts ask for.

    >>> judge(r"so \\boxed{\\frac{1}{2}}", "0.5"), judge("1 + 1", "2")
    (True, False)
    """
    parse, verify, gold, answer = _tools()
    said = response.rpartition(THOUGHT)[2] if THOUGHT in response else response
    if "\\boxed" not in said:
        return False
    said = said[said.rindex("\\boxed") :]
    # Its own timer needs the main thread, workers have none; lengths are bounded instead.
    said, wanted = said[:2000], truth if "$" in truth else f"${truth}$"
    found = parse(f"${said}$", extraction_config=answer, parsing_timeout=None)
    right = parse(wanted, extraction_config=gold, parsing_timeout=None)
    return bool(right and found and verify(right, found, timeout_seconds=None))


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    **_: Any,
) -> dict[str, float]:
    """verl's: ``score``, ``acc`` (dynamic sampling filters on it), and whether judging failed."""
    try:
        right, failed = judge(solution_str, str(ground_truth)), False
    except Exception:  # a judge's failure must not stop a run of days; it is counted
        right, failed = False, True
    return {"score": float(right), "acc": float(right), "judge_failed": float(failed)}


def math_reward(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float]:
    """TRL's: one reward per completion, text or conversation."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [
        compute_score("", text, truth)["score"] for text, truth in zip(texts, answer, strict=True)
    ]
