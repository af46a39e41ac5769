"""Tests of Ray as the backend of the workers, on a local cluster of two."""

from __future__ import annotations

import importlib.util

import pytest
from small_runs import SETTINGS, parquet

import erc_bench as eb
from erc_bench.studies import runner


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'erc-bench[cluster]'"
)
@pytest.mark.filterwarnings("default")  # Ray gives warnings of its own
def test_a_ray_cluster_gives_the_records_of_one_process(tmp_path, monkeypatch):
    """Records do not depend on where the parts were computed."""
    monkeypatch.setattr("erc_bench.studies.sizing.UPDATE_TOKENS", 200)  # several parts
    how = {"objectives": ["grpo", "erc-dapo"], "seeds": 2, "settings": SETTINGS, "progress": False}
    alone = eb.run("forking_tokens", out=tmp_path / "one", workers=1, **how)
    spread = eb.run("forking_tokens", out=tmp_path / "ray", workers=2, backend="ray", **how)
    assert len(parquet(alone.path)) > 3
    assert parquet(alone.path) == parquet(spread.path)


def test_a_missing_ray_is_said_before_any_work(tmp_path, monkeypatch):
    """Without Ray, its backend is refused and nothing is written."""
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(eb.InputError, match=r"backend: ray is not installed"):
        eb.run("entropy_null", out=tmp_path / "x", backend="ray", seeds=1, progress=False)
    assert not (tmp_path / "x").exists()
