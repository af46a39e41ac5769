"""Small real work through the command line, and what must follow from bad input."""

from __future__ import annotations

import sys
import time

import pytest

from erc_bench.cli import main

SMALL = (
    "--objectives",
    "ppo-clip",
    "erc-dapo",
    "--seeds",
    "2",
    "--no-report",
    *(
        f"--set={s}"
        for s in (
            "rollouts=3",
            "prompts=4",
            "group_size=4",
            "minibatches=2",
            "warm_start_steps=5",
            "evaluation_episodes=16",
            "hidden=16",
        )
    ),
)


@pytest.fixture(scope="session")
def small():
    """Arguments of a run of two arms on two seeds."""
    return ("run", "forking_tokens", *SMALL, "--workers", "1")


@pytest.fixture
def one_seed_per_part(monkeypatch):
    """Two parts of two runs: a run updates on 96 tokens here."""
    monkeypatch.setattr(sys.modules["erc_bench.studies.sizing"], "UPDATE_TOKENS", 2 * 96)


@pytest.fixture
def ends(capfd):
    """Run a command; its exit code, what it printed, and never a traceback or a hang."""

    def run(*arguments):
        capfd.readouterr()
        began, code = time.monotonic(), 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code or 0
        said = capfd.readouterr()
        assert "Traceback" not in said.out + said.err
        assert time.monotonic() - began < 60
        return code, said.out, said.err

    return run


@pytest.fixture
def refused(ends):
    """Run a command that must be refused: exit code 2 and one line; the line."""

    def run(*arguments):
        code, _, err = ends(*arguments)
        assert code == 2, err
        lines = [line for line in err.splitlines() if line.startswith("erc-bench: ")]
        assert len(lines) == 1, err
        return lines[0]

    return run


@pytest.fixture(scope="session")
def finished(small, tmp_path_factory):
    """A finished run's folder; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    main([*small, "--out", str(folder)])
    return folder
