"""Warm-started networks on disk: the same numbers with and without them."""

import numpy as np
import pytest
import torch
from trainer_runs import Echo, arm, assert_same_result, trainer

from erc_bench.core.storage import cache_folder
from erc_bench.training import tensorfile, warmstart
from erc_bench.training.warmstart import fingerprint

SMALL = {"policy": "transformer", "hidden": 8, "warm_start_steps": 40, "rollouts": 3}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("ERC_BENCH_CACHE", str(tmp_path / "cache"))
    return cache_folder()


def make(seeds=(0, 1), **settings):
    return trainer([arm("grpo", seeds)], Echo(), **{**SMALL, **settings})


def test_the_transformer_learns_the_corpus_and_then_the_reward(folder):
    """After the warm start near the prior's return 0.25, and above it after training."""
    runs = make(warm_start_steps=200, rollouts=15, evaluation_episodes=512).run().runs
    assert np.abs(runs["reward/initial"] - 0.25).max() < 0.1
    assert (runs["reward/final"] > runs["reward/initial"] + 0.2).all()


def test_records_are_the_same_from_the_cache(folder):
    """Made, then read: exactly the same; one file per seed, none half written."""
    made = make().run()
    files = sorted(folder.iterdir())
    assert len(files) == 2
    assert all(f.name.startswith("warm-") for f in files)
    read = make().run()
    assert_same_result(made, read)
    assert sorted(folder.iterdir()) == files


def test_a_network_does_not_depend_on_which_others_are_missing(folder, monkeypatch):
    """Seed 1 alone first, then with seed 0: the parameters that seed 1 gets are the same."""
    alone = make(seeds=(1,)).state.policy.params
    calls = []
    original = warmstart.warm_start
    monkeypatch.setattr(
        warmstart,
        "warm_start",
        lambda *a, **k: calls.append((k["seeds"], k["steps"])) or original(*a, **k),
    )
    both = make().state.policy.params
    begun, whole = warmstart.FIRST_STEPS, SMALL["warm_start_steps"]
    assert calls == [([0], begun), ([0], whole), ([1], begun)]
    for name, p in alone.items():
        assert torch.equal(p[0], both[name][1])


@pytest.mark.parametrize(
    "changed",
    [
        {"hidden": 16},
        {"warm_start_steps": 41},
        {"warm_start_learning_rate": 0.01},
        {"dtype": "float32"},
    ],
)
def test_what_changes_the_network_changes_its_file(folder, changed):
    """No setting that matters is missing from the key."""
    make(seeds=(0,))
    make(seeds=(0,), **changed)
    assert len(list(folder.iterdir())) == 2


def test_another_corpus_or_seed_has_another_file(folder):
    """Nor the task, nor the root seed."""
    assert fingerprint(Echo()) == fingerprint(Echo())
    assert (
        len({fingerprint(Echo()), fingerprint(Echo(right=0.6)), fingerprint(Echo(num_prompts=3))})
        == 3
    )
    make(seeds=(0,))
    trainer([arm("grpo", [0])], Echo(), seed=8, **SMALL)
    assert len(list(folder.iterdir())) == 2


def test_code_that_trains_otherwise_finds_nothing(folder, monkeypatch):
    """Another initialisation or arithmetic under the same settings is another network."""
    make(seeds=(0,))
    scale = torch.nn.functional.embedding
    monkeypatch.setattr(
        torch.nn.functional, "embedding", lambda x, table: scale(x, table) * (1 + 1e-9)
    )
    make(seeds=(0,))
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", "flipped bit", "other"])
def test_a_damaged_or_foreign_file_is_made_anew(folder, content):
    """Never used, never an error."""
    made = make(seeds=(0,)).state.policy.params
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    if content == "flipped bit":
        content = whole[:-1] + bytes([whole[-1] ^ 1])
    if content == "other":  # a whole file of a network with the same shapes, under this one's name
        other = folder / "other"
        tensorfile.write(other, {name: p[0] + 1 for name, p in made.items()}, of=other.name)
        content = other.read_bytes()
        other.unlink()
    file.write_bytes(content)
    again = make(seeds=(0,)).state.policy.params
    assert all(torch.equal(p, again[name]) for name, p in made.items())
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    """A file where the folder should be."""
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setenv("ERC_BENCH_CACHE", str(tmp_path / "cache"))
    make(seeds=(0,))
    assert (tmp_path / "cache").read_text() == "in the way"
