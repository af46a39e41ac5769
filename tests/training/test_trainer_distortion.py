"""The engine that samples: rounding, noise, and whose probabilities the ratios divide by."""

import dataclasses
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_runs import StopToken, arm, forks, trainer

from erc_bench.training.distortion import round_to_bits
from erc_bench.training.evaluation import pass_at_k


@pytest.mark.parametrize(
    ("bits", "dtype"), [(8, torch.bfloat16), (11, torch.float16), (24, torch.float32)]
)
@given(
    st.lists(
        st.sampled_from([-1.0, 0.0, 1.0]).flatmap(
            lambda sign: st.floats(2**-10, 6e4, width=32).map(lambda size: sign * size)
        ),
        min_size=1,
    )
)
@settings(max_examples=50, deadline=None)
def test_rounding_is_that_of_the_formats(bits, dtype, values):
    """A significand of 8, 11 and 24 bits, ties to even, is torch's own conversion.

    The numbers are float32: torch converts others by way of it, and so rounds them twice.
    """
    x = torch.tensor(values, dtype=torch.float64)
    assert torch.equal(round_to_bits(x, torch.tensor(bits)), x.to(dtype).double())


def test_rounding_with_every_bit_is_the_identity():
    """53 bits keep a float64, whatever its exponent, and every float32."""
    x = torch.randn(100, dtype=torch.float64) * 10.0 ** torch.arange(-50, 50)
    assert torch.equal(round_to_bits(x, torch.tensor(53)), x)
    assert torch.equal(round_to_bits(x[30:80].float(), torch.tensor(53)), x[30:80].float())


def test_without_an_update_only_the_distortion_moves_the_entropy_ratio():
    """Learning rate 0: rho is 1 for an exact engine, and is spread by rounding and by noise."""
    still = {"learning_rate": 0.0, "old_policy": "rollout"}
    exact = trainer([arm("erc-dapo")], forks(), **still).run().metrics
    assert (exact["drift/out_of_band_fraction"] == 0).all()
    assert (exact["drift/kl_exact"] == 0).all()
    for distorted in ({"rollout_bits": 4}, {"rollout_jitter": 0.1}):
        found = trainer([arm("erc-dapo")], forks(), **still, **distorted).run().metrics
        assert (found["drift/kl_exact"] > 0).all()
        assert found["gate/dropped_fraction"].mean() > 0


def test_a_run_has_its_own_distortion():
    """Rounding and noise per run: a run equals itself in a population of one."""
    own = {
        "rollout_bits": torch.tensor([53, 6]),
        "rollout_jitter": torch.tensor([0.2, 0.0]),
    }
    both = [arm("dapo", [0, 0], **own)]
    together = trainer(both, forks(), old_policy="rollout").run()
    for run in range(2):
        alone = arm("dapo", [0], **{name: value[run : run + 1] for name, value in own.items()})
        single = trainer([alone], forks(), old_policy="rollout").run()
        for name, value in single.metrics.items():
            np.testing.assert_array_equal(value[:, 0], together.metrics[name][:, run], name)


def test_the_correction_sees_the_engine_and_the_ratio_the_old_policy():
    """Old policy the trainer's: ratio 1 on the first minibatch, and only dapo-tis reads the engine."""
    jittered = {"rollout_jitter": 0.3, "old_policy": "trainer"}
    metrics = trainer([arm("dapo"), arm("dapo-tis")], forks(), **jittered).run().metrics
    first = metrics["staleness"] == 0
    assert np.abs(metrics["drift/kl_exact"][first]).max() < 1e-12
    norm = metrics["grad/norm"][0]
    assert abs(norm[0] - norm[2]) > 1e-6  # same rollout, corrected weights
    exact = trainer([arm("dapo"), arm("dapo-tis")], forks()).run().metrics["grad/norm"]
    np.testing.assert_array_equal(exact[:, :2], exact[:, 2:])


@dataclasses.dataclass(frozen=True)
class Moving(StopToken):
    """Stopping pays after half of training only; 10 is paid for anything in evaluations."""

    def at(self, progress):
        assert 0 <= progress <= 1
        return dataclasses.replace(self, stopping=float(progress >= 0.5))

    def held_out(self):
        return dataclasses.replace(self, constant=10.0)


def test_the_task_moves_with_progress_and_is_evaluated_on_its_held_out_part():
    """Rollout k of n is made at progress k / n; evaluations at 0 and 1."""
    result = trainer([arm("grpo")], Moving(), rollouts=4).run()
    returns = result.metrics["reward/mean"]
    rollout = result.metrics["rollout"]
    assert (returns[rollout < 2] == 0).all()
    assert (returns[rollout >= 2] > 0).all()
    assert (result.runs["reward/initial"] >= 10).all()
    assert (result.runs["reward/final"] > result.runs["reward/initial"]).all()


@pytest.mark.parametrize("n", [1, 4, 6])
def test_pass_at_k_counts_subsets(n):
    """The share of k-subsets of n answers that hold a right one."""
    for k in range(1, n + 1):
        found = pass_at_k(torch.arange(n + 1), n, k)
        for c in range(n + 1):
            answers = [True] * c + [False] * (n - c)
            hit = sum(any(chosen) for chosen in combinations(answers, k)) / comb(n, k)
            assert float(found[c]) == pytest.approx(hit, abs=1e-6)


def test_several_answers_per_prompt_record_pass_at_k():
    """pass@1 is the mean return of a 0/1 task; more answers only help."""
    runs = trainer([arm("grpo")], forks(), evaluation_episodes=32, evaluation_answers=4).run().runs
    np.testing.assert_allclose(runs["pass@1/final"], runs["reward/final"], atol=1e-6)
    assert (runs["pass@4/final"] >= runs["pass@2/final"]).all()
    assert (runs["pass@2/final"] >= runs["pass@1/final"]).all()
    assert "pass@8/final" not in runs
