"""kill -9 at random moments; ``PYTHONPATH=tests python -m robustness`` is the long version."""

from __future__ import annotations

import sys

import pytest
from robustness.storm import Server, whole

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for orphans in /proc"),
]


@pytest.fixture(scope="module")
def server():
    return Server()


@pytest.mark.parametrize(
    ("name", "kills"), [("run", 4), ("sweep, two workers", 2), ("report", 2), ("figures", 2)]
)
def test_nothing_is_lost_torn_or_left_running(name, kills, tmp_path, server):
    """The folder opens after every kill, no process stays, and the last try gives the same bytes."""
    found = whole(name, tmp_path, kills, seed=1, server=server)
    assert found.kills == kills
    assert not found.faults
