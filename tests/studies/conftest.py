"""Plans small enough to be carried out in a test."""

from __future__ import annotations

import sys

import pytest

from erc_bench.studies import plan
from erc_bench.training import loop

SMALL = {
    "rollouts": 3,
    "prompts": 4,
    "group_size": 4,
    "minibatches": 2,
    "warm_start_steps": 5,
    "evaluation_episodes": 16,
    "hidden": 16,
}


@pytest.fixture
def small():
    """``plan`` of forking_tokens with two arms on two seeds, unless told otherwise."""

    def make(*names, **kwargs):
        settings = {**SMALL, **kwargs.pop("settings", {})}
        given = {"objectives": ["ppo-clip", "erc-dapo"], "seeds": 2, **kwargs}
        return plan(names or ("forking_tokens",), settings=settings, **given)

    return make


@pytest.fixture
def one_seed_per_part(monkeypatch):
    """Parts of two runs, which is one seed of both arms; a run updates on 96 tokens here."""
    monkeypatch.setattr(sys.modules["erc_bench.studies.sizing"], "UPDATE_TOKENS", 2 * 96)


@pytest.fixture
def always_checkpoint(monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
