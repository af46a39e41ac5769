"""Ray as the backend of the workers, on a local cluster of two."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

import erc_bench as eb
from erc_bench.studies import runner

SMALL = {
    "rollouts": 3,
    "prompts": 4,
    "group_size": 4,
    "minibatches": 2,
    "hidden": 16,
    "warm_start_steps": 3,
    "evaluation_episodes": 16,
}


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'erc-bench[cluster]'"
)
@pytest.mark.filterwarnings("default")  # Ray's own
def test_a_ray_cluster_gives_the_records_of_one_process(tmp_path, monkeypatch):
    """Records do not depend on where the parts were computed."""
    planning = importlib.import_module("erc_bench.studies.sizing")
    monkeypatch.setattr(planning, "UPDATE_TOKENS", 200)  # several parts
    how = {"objectives": ["grpo", "erc-dapo"], "seeds": 2, "settings": SMALL, "progress": False}
    alone = eb.run("forking_tokens", out=tmp_path / "one", workers=1, **how)
    spread = eb.run("forking_tokens", out=tmp_path / "ray", workers=2, backend="ray", **how)
    files = sorted(p.relative_to(alone.path) for p in alone.path.rglob("*.parquet"))
    assert len(files) > 3
    for file in files:
        assert (alone.path / file).read_bytes() == (spread.path / file).read_bytes()


def test_a_missing_ray_is_said_before_any_work(tmp_path, monkeypatch):
    """Without Ray, its backend is refused and nothing is written."""
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(eb.InputError, match=r"backend: ray is not installed"):
        eb.run("entropy_null", out=tmp_path / "x", backend="ray", seeds=1, progress=False)
    assert not (tmp_path / "x").exists()
