"""Environments that need an optional package, and the tests of them where it is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import pytest

REASONING_GYM = "erc/ReasoningGym-v0"
needs_tasks = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="needs erc-bench[tasks]"
)


def marked(environments: Iterable[str]) -> list[Any]:
    """The ids as parameters, each of which is skipped where its package is missing."""
    return [
        pytest.param(name, marks=needs_tasks) if name == REASONING_GYM else name
        for name in environments
    ]
