"""What others call in their continuous integration: the GitHub action and the pre-commit hook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import erc_bench
from erc_bench import cli

yaml = pytest.importorskip("yaml")
ROOT = Path(erc_bench.__file__).parents[1]

LOSSES = """
def right(logp, advantages, mask):
    clean = [x.masked_fill(~mask, 0.0) for x in (logp, advantages.detach())]
    return -(clean[0] * clean[1]).sum() / mask.sum().clamp(min=1)

def wrong(logp, advantages, mask):
    return -right(logp, advantages, mask)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(LOSSES)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "erc-bench"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m erc_bench "$@"\n')
    command.chmod(0o755)
    return tmp_path


def act(folder, **inputs):
    """The action's own script, with its inputs where GitHub puts them."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert set(inputs) <= set(action["inputs"])
    given = {name: entry.get("default", "") for name, entry in action["inputs"].items()} | inputs
    step = action["runs"]["steps"][-1]
    assert set(step["env"].values()) == {f"${{{{ inputs.{name} }}}}" for name in given}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env={
            **os.environ,
            **{name.upper(): value for name, value in given.items()},
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "envs")]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_action_reports_every_loss_and_fails_with_the_command(folder):
    """Several losses, arguments with blanks, and a summary even where a loss is wrong."""
    code, out = act(
        folder,
        losses="mine.py:right\nmine.py:wrong\n",
        arguments="--no-drift\n--strict\n--waive=extreme_log_ratios=we clip elsewhere\n",
        report="out",
    )
    assert code == 1, out
    found = json.loads((folder / "out/check.json").read_text())
    assert [one["passed"] for one in found] == [True, False]
    assert (folder / "summary.md").read_text().count("## erc-bench check: ") == 2
    assert (folder / "out/check.xml").exists()
    code, out = act(folder, losses="mine.py:right")
    assert code == 0, out


def test_the_action_says_what_cannot_be_checked(folder):
    """Exit code 2, and no summary."""
    code, out = act(folder, losses="mine.py:nothing")
    assert code == 2
    assert "mine.py has no 'nothing'" in out
    assert not (folder / "summary.md").exists()


def test_the_pre_commit_hook_is_a_command(folder, capfd):
    """pre-commit appends what the user writes under args."""
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    program, *words = hook["entry"].split()
    assert (program, hook["pass_filenames"]) == ("erc-bench", False)
    for loss, expected in (("mine.py:right", 0), ("mine.py:wrong", 1)):
        code = 0
        try:
            cli.main([*words, loss])
        except SystemExit as stopped:
            code = stopped.code
        assert (code, capfd.readouterr().out.count("objective ")) == (expected, 1)
