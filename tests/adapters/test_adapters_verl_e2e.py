"""verl's ``main_ppo`` with Ray, unmodified, trains with our objectives; minutes, so only on request."""

from __future__ import annotations

import os
import subprocess

import pytest

from erc_bench.adapters.logs import read_verl

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        os.environ.get("ERC_BENCH_E2E") != "1", reason="takes minutes; ERC_BENCH_E2E=1 runs it"
    ),
]


@pytest.mark.parametrize("objective", ["dapo", "erc-dapo"])
def test_main_ppo_learns_and_logs_our_metrics(tmp_path, objective):
    """Twelve steps end to end: the reward rises, and the log is read back."""
    import verl_e2e

    metrics = read_verl(verl_e2e.run(tmp_path, objective, 12)).metrics
    assert len(metrics) == 12
    assert metrics["reward/mean"].tail(3).mean() > metrics["reward/mean"].head(3).mean() + 0.1
    assert metrics["clip/ratio_bound_fraction"].max() > 0
    assert metrics["drift/entropy_new"].notna().all()
    assert (metrics["gate/dropped_fraction"] > 0).any() == (objective == "erc-dapo")


def test_a_bad_configuration_stops_before_training(tmp_path):
    """The plug-in's message is the end of verl's output; no step was made."""
    import verl_e2e

    with pytest.raises(subprocess.CalledProcessError):
        verl_e2e.run(
            tmp_path,
            "dapo",
            1,
            "actor_rollout_ref.actor.calculate_entropy=False",
        )
    said = (tmp_path / "dapo.log").read_text()
    assert "calculate_entropy: False, must be True" in said
    assert "step:1" not in said
