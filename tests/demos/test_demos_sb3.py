"""The classic-control demo: trains, resumes, draws, refuses."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from erc_bench.adapters.demos.sb3.figure import compared, difference_text
from erc_bench.cli import main

SMALL = ["sb3", "demo", "--environments", "CartPole-v1", "--steps", "2048", "--seeds", "2"]


def test_demo_ends_in_a_figure_and_goes_on(tmp_path, capsys):
    main([*SMALL, "--out", str(tmp_path)])
    assert (tmp_path / "sb3_control.png").stat().st_size > 5000
    assert "| CartPole-v1 | erc-ppo | 2 |" in (tmp_path / "table.md").read_text()
    parts = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*.parquet")}
    assert len(parts) == 4
    main([*SMALL, "--out", str(tmp_path), "--resume"])
    assert {p: p.stat().st_mtime_ns for p in parts} == parts
    next(iter(parts)).unlink()
    main(["sb3", "redraw", "--out", str(tmp_path)])  # of the seed that both arms have
    assert "| CartPole-v1 | erc-ppo | 1 |" in (tmp_path / "table.md").read_text()
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["environments"] == {"CartPole-v1": 2048}
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*SMALL, "--out", str(tmp_path)])
    assert "add --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--environments", "Cart-v7"], "'Cart-v7' cannot be made"),
        (["--steps", "100"], "steps: 100"),
        (["--seeds", "1"], "seeds: 1"),
        (["--workers", "0"], "workers: 0"),
    ],
)
def test_bad_input_is_named_before_any_work(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main([*SMALL, *options, "--out", str(tmp_path / "new")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_differences_are_paired():
    """By seed: arms that differ by 5 in every seed differ by 5 without doubt."""
    rows = [
        {
            "environment": "e",
            "objective": arm,
            "seed": seed,
            "final": 10.0**seed + more,
            "clip/ratio_bound_fraction": 0.1,
            "drift/out_of_band_fraction": 0.2,
            "gate/dropped_fraction": 0.0,
        }
        for seed in range(6)
        for arm, more in (("ppo-clip", 0.0), ("erc-ppo", 5.0))
    ]
    row = compared(pd.DataFrame(rows)).set_index("objective").loc["erc-ppo"]
    assert row["difference"] == pytest.approx(5)
    assert row["difference_high"] - row["difference_low"] == pytest.approx(0, abs=1e-9)
    assert difference_text(row) == "+5.0 [+5.0, +5.0]"
    assert difference_text(dict(row) | {"difference_low": math.nan}) == "+5.0"
