"""Warm-started networks on disk: the same numbers with and without them."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium import spaces
from trainer_runs import arm, assert_same_result, trainer

from erc_bench.trainer import warmstart
from erc_bench.trainer.warmcache import WarmCache, cache_folder
from erc_bench.trainer.warmstart import fingerprint


@dataclasses.dataclass(frozen=True)
class Echo:
    """Say the prompt's token twice; a context of one prompt token and two of the response."""

    num_prompts: int = 4
    num_actions: int = 4
    horizon: int = 2
    right: float = 0.5
    optimal_return: float = 1.0
    observation_space = spaces.MultiDiscrete([5, 5, 5])

    def at(self, progress):
        return self

    def held_out(self):
        return self

    def initial_state(self, prompt):
        return np.stack([prompt + 1, 0 * prompt, 0 * prompt], axis=1)

    def observe(self, state):
        return state.copy()

    def step(self, state, action, noise):
        after = state.copy()
        at = (state[:, 1] > 0) + 1
        after[np.arange(len(state)), at] = action + 1
        ended = at == 2
        won = ended & (after[:, 1:] == after[:, :1]).all(axis=1)
        return after, won.astype(float), ended

    def prior(self, state):
        rest = (1 - self.right) / (self.num_actions - 1)
        rows = np.full((len(state), self.num_actions), rest)
        rows[np.arange(len(state)), state[:, 0] - 1] = self.right
        return rows


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
    alone = make(seeds=(1,)).policy.params
    calls = []
    original = warmstart.warm_start
    monkeypatch.setattr(
        warmstart, "warm_start", lambda *a, **k: calls.append(k["seeds"]) or original(*a, **k)
    )
    both = make().policy.params
    assert calls == [[0]]
    for name, p in alone.items():
        assert torch.equal(p[0], both[name][1])


@pytest.mark.parametrize(
    "changed",
    [{"hidden": 16}, {"warm_start_steps": 41}, {"warm_start_learning_rate": 0.01},
     {"dtype": "float32"}],
)  # fmt: skip
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


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", "other"])
def test_a_damaged_or_foreign_file_is_made_anew(folder, content):
    """Never used, never an error."""
    made = make(seeds=(0,)).policy.params
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    if content == "other":
        WarmCache(folder, ()).store(0, {"x": torch.zeros(3)})
        (other,) = set(folder.iterdir()) - {file}
        content = other.read_bytes()
        other.unlink()
    file.write_bytes(content)
    again = make(seeds=(0,)).policy.params
    assert all(torch.equal(p, again[name]) for name, p in made.items())
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    """A file where the folder should be."""
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setenv("ERC_BENCH_CACHE", str(tmp_path / "cache"))
    make(seeds=(0,))
    assert (tmp_path / "cache").read_text() == "in the way"
