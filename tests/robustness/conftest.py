"""Fixtures that run small real work through the command line, and that expect refusals."""

from __future__ import annotations

import time

import pytest
from small_runs import ARMS, options

from erc_bench.cli import main


@pytest.fixture(scope="session")
def small():
    """Arguments of a run of two arms on two seeds."""
    return ("run", "forking_tokens", *ARMS, "--no-report", *options(), "--workers", "1")


@pytest.fixture
def ends(capfd):
    """A function that gives a command's exit code and output; it fails on a traceback or a hang."""

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
    """A function that expects a command to be refused with exit code 2 and one line, which it gives."""

    def run(*arguments):
        code, _, err = ends(*arguments)
        assert code == 2, err
        lines = [line for line in err.splitlines() if line.startswith("erc-bench: ")]
        assert len(lines) == 1, err
        return lines[0]

    return run


@pytest.fixture(scope="session")
def finished(small, tmp_path_factory):
    """The folder of a finished run, which tests must not change."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    main([*small, "--out", str(folder)])
    return folder
