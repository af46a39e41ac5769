"""The reward of the paper's runs: 1 if math-verify accepts a response's boxed answer, else 0.

``compute_score`` is verl's custom reward function, ``math_reward`` TRL's. Both judge what follows the
last ``</think>``, where there is one. ERC's release gives -1 in place of 0: the advantage, standardised
within a group, is the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from erc_bench.core.errors import InputError
from paper_repro.judging import shared_judges

__all__ = ["answer_of", "compute_score", "judge", "math_reward"]

THOUGHT = "</think>"
#: An answer that is longer, or nested deeper, counts as wrong: only a stuck model writes such.
LONGEST, DEEPEST = 2000, 50


def answer_of(response: str) -> str | None:
    r"""What stands in the last ``\boxed`` after the thoughts; None without a complete one.

    >>> answer_of(r"<think>\boxed{3}</think> so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> answer_of(r"\boxed 7"), answer_of(r"\boxed{7"), answer_of("7")
    ('7', None, None)
    """
    _, box, rest = response.rpartition(THOUGHT)[2].rpartition("\\boxed")
    rest = rest[: LONGEST + 1].lstrip()
    if not box or not rest:
        return None
    if not rest.startswith("{"):
        bare = re.match(r"[\w.,/+-]*\w", rest)
        return bare[0] if bare else None
    depth = 0
    for place, letter in enumerate(rest):
        escaped = place > 0 and rest[place - 1] == "\\"
        depth += 0 if escaped else (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[1:place].strip() or None
    return None


def _depth(answer: str) -> int:
    """How deep brackets are nested, of all kinds together."""
    depth = deepest = 0
    for letter in answer:
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth)
    return deepest


def judge(response: str, truth: str) -> bool:
    r"""Whether a response's final answer equals the truth, by math-verify.

    A response that only restates the question has an expression in it too: an answer must be boxed,
    as the prompts ask for.

    Raises:
        JudgeError: the answer could not be judged in time, or at all.
        InputError: math-verify is not installed.
    """
    answer = answer_of(response)
    if answer is None or _depth(answer) > DEEPEST:
        return False
    return shared_judges()(answer, truth)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: dict[str, Any] | None = None,
    **_: Any,
) -> dict[str, float]:
    """verl's: ``score``, ``acc`` (dynamic sampling filters on it), and whether judging failed.

    Args:
        data_source: of the row; not used.
        solution_str: response.
        ground_truth: the answer, or several of which one must be met.
        extra_info: of the row; not used.

    Raises:
        InputError: math-verify is not installed: a run without a judge would learn nothing.
    """
    truths = [ground_truth] if isinstance(ground_truth, str | int | float) else list(ground_truth)
    right = failed = False
    for truth in truths:
        try:
            right = judge(solution_str, str(truth))
        except InputError:
            raise
        except Exception:  # a judge's failure must not stop a run of days; it is counted
            failed = True
        if right:
            break
    return {"score": float(right), "acc": float(right), "judge_failed": float(failed and not right)}


def math_reward(
    completions: Sequence[Any],
    answer: Sequence[Any],
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float]:
    """TRL's: one reward per completion, text or conversation; logs the share that could not be judged."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    scores = [compute_score("", text, truth) for text, truth in zip(texts, answer, strict=True)]
    if log_metric is not None and scores:
        log_metric("reward/judge_failed", sum(s["judge_failed"] for s in scores) / len(scores))
    return [score["score"] for score in scores]
