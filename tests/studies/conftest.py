"""Plans small enough to be carried out in a test."""

from __future__ import annotations

import pytest
from small_runs import SETTINGS

from erc_bench.studies import plan
from erc_bench.training import loop


@pytest.fixture
def small():
    """``plan`` of forking_tokens with two arms on two seeds, unless told otherwise."""

    def make(*names, **kwargs):
        settings = {**SETTINGS, **kwargs.pop("settings", {})}
        given = {"objectives": ["ppo-clip", "erc-dapo"], "seeds": 2, **kwargs}
        return plan(names or ("forking_tokens",), settings=settings, **given)

    return make


@pytest.fixture
def always_checkpoint(monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
