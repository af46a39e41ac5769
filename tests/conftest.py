"""What every test starts from."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """Nothing is read from, or left in, the user's cache of warm-started networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ERC_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def one_seed_per_part(monkeypatch):
    """Cut the runs of ``small_runs`` into parts of one seed each: two runs, which update on 96 tokens."""
    monkeypatch.setattr("erc_bench.studies.sizing.UPDATE_TOKENS", 2 * 96)
