"""The benchmarks' own bookkeeping: equal work is checked, ratios and fits mean what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import run, scaling
from benchmarks.contenders import ours, plain_torch, sb3
from benchmarks.harness import Clock, measure
from benchmarks.workload import WORKLOADS, Outcome, corpus, workload

SMALL = {
    "seeds": 2,
    "rollouts": 2,
    "prompts": 4,
    "group": 2,
    "minibatches": 2,
    "warm_start_steps": 2,
}


@pytest.fixture(autouse=True)
def threads_as_before():
    """A contender sets the process's number of threads."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_counts_tokens_and_updates(name):
    """Tokens are seeds x rollouts x responses x horizon; one update per minibatch."""
    work = workload(name, **SMALL)
    assert work.tokens == 2 * 2 * 8 * work.horizon
    assert work.updates == 2 * 2 * 2


@pytest.mark.parametrize("wrong", ["tokens", "updates", "rewards"])
def test_other_work_than_asked_is_an_error(wrong):
    """No contender can do less, or more, unnoticed."""
    work = workload("token", **SMALL)
    done = {"tokens": work.tokens, "updates": work.updates, "rewards": (0.0, 0.0)}
    Outcome(**done, parameters=1).check(work)
    done[wrong] = done[wrong][:-1] if wrong == "rewards" else done[wrong] - 1
    with pytest.raises(ValueError, match="the workload has"):
        Outcome(**done, parameters=1).check(work)


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("contender", [ours, plain_torch, sb3])
@pytest.mark.filterwarnings("ignore")  # of peers
def test_contenders_do_the_same_work_with_policies_of_one_size(contender, name):
    """Equal tokens and updates (measure checks them), and parameters within 3 % of 20,000."""
    result = measure(contender.prepare, workload(name, **SMALL))
    assert result["parameters"] == pytest.approx(20_000, rel=0.03)
    assert result["seconds"] > 0
    json.dumps(result)


def test_the_corpus_follows_the_prior():
    """Actions of the warm start's corpus have the prior's frequencies."""
    dynamics = WORKLOADS["bandit"].dynamics
    data = corpus(dynamics, 40_000)
    drawn = np.bincount(data.action[:, 0], minlength=dynamics.num_actions) / len(data.prompt)
    np.testing.assert_allclose(drawn, data.target[:, 0].mean(0), atol=0.02)


def result_of(contender: str, number: int, seconds: float) -> dict:
    """What one measurement looks like."""
    return {
        "contender": contender,
        "round": number,
        "tokens": 1000,
        "updates": 8,
        "parameters": 1,
        "processes": 1,
        "seconds": seconds,
        "cpu_seconds": seconds,
        "peak_mib": 1.0,
        "process_seconds": seconds + 3,
        "rewards": [0.0, 1.0],
        "setup": {"import": 9.0, "warm_start": 9.0, "compile": 2.0 * (contender == "jax")},
    }


def test_ratios_are_taken_within_rounds_and_say_how_much_faster_we_are():
    """A slow round slows both sides; compilation counts end to end only."""
    results = [result_of("ours", r, slow) for r, slow in enumerate((1.0, 4.0, 1.0))]
    results += [result_of("jax", r, 0.5 * slow) for r, slow in enumerate((1.0, 4.0, 1.0))]
    summary = run.summarise(results)
    assert summary["jax"]["ours_over_it"]["throughput"] == [0.5, 0.5, 0.5]
    assert summary["jax"]["ours_over_it"]["end_to_end"] == pytest.approx([2.5, 1.0, 2.5])
    assert summary["ours"]["ours_over_it"]["process"] == [1.0, 1.0, 1.0]
    assert summary["ours"]["median"]["throughput"] == 1000
    assert "**0.50** (0.50 to 0.50)" in run.table(summary)


def test_contenders_take_turns(monkeypatch):
    """Every round has every contender once, each time from another start."""
    monkeypatch.setattr(run, "measure", lambda contender, _: {"contender": contender})
    suite = run.Suite("token", 1, ("ours", "jax", "trl"))
    done = run.interleave(suite, 2)
    assert [d["contender"] for d in done] == ["ours", "jax", "trl", "jax", "trl", "ours"]
    assert [d["round"] for d in done] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_a_fit_finds_floor_and_exponent(exponent):
    """Costs with a known floor and power give both back."""
    x = 2.0 ** np.arange(11)
    found = scaling.fit(x, 3 + 0.2 * x**exponent)
    assert found.exponent == pytest.approx(exponent, rel=1e-3)
    assert found.floor == pytest.approx(3, rel=1e-2)


def test_a_clock_adds_phases_up():
    """The same phase twice is one entry."""
    clock = Clock()
    for _ in range(2):
        with clock("build"):
            pass
    assert list(clock.seconds) == ["build"]
