import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import pytest

import erc_bench
from erc_bench.cli import Check
from erc_bench.conformance import PROPERTIES
from erc_bench.conformance.testing import conformance_tests
from erc_bench.core.errors import InputError
from erc_bench_pytest import OPTIONS

ROOT = pathlib.Path(erc_bench.__file__).parents[1]

test_dapo = conformance_tests("dapo")
test_a_function = conformance_tests(
    lambda logp, advantage, mask: -(logp.masked_fill(~mask, 0.0) * advantage.detach()),
    waive={"masked_nan": "advantages are ours and clean"},
)

LOSS = """
import torch
def mine(logp, old_logp, advantages, mask, clip=0.2):
    raise_at = None
    r = (logp - old_logp.detach()).clamp(-20, 20).exp()
    a = advantages.detach()
    return -torch.minimum(r * a, r.clamp(1 - clip, 1 + clip) * a)
"""

LIGHT = """
import sys
def test_light():
    assert not {"torch", "erc_bench"} & set(sys.modules)
"""


def run_pytest(folder, *arguments):
    """pytest in a process of its own, in a folder of its own."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "envs"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "erc_bench_pytest",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:hypothesispytest",
            "-p",
            "no:jaxtyping",
            *arguments,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(LOSS)
    return tmp_path


def test_the_option_adds_one_test_per_property(folder):
    """Failures show the number measured, the rule and how to mend it; robustness counts if strict."""
    code, out = run_pytest(folder, "-rx", "--erc-check", "mine:mine")
    assert code == 0
    assert "robustness: log r = " in out
    code, out = run_pytest(folder, "-rfs", "--erc-check", "mine:mine", "--erc-strict")
    assert code == 1
    counts = dict(re.findall(r"(\d+) (failed|passed|skipped)", out.splitlines()[-1]))
    assert sum(map(int, counts)) == len(PROPERTIES)
    assert "mine:mine: half_precision: log r = " in out
    assert "rule: In float16 and bfloat16" in out
    assert f"mend: {PROPERTIES['half_precision'].mend}" in out
    assert "erc_bench_pytest.py" not in out
    failed = re.findall(r"^FAILED .*\]::(\w+)", out, re.M)
    waivers = [f"--erc-waive={name}=we train in float32" for name in failed]
    code, out = run_pytest(folder, "-rs", "--erc-check=mine:mine", "--erc-strict", *waivers)
    assert code == 0
    assert "waived: we train in float32" in out


def test_every_option_of_the_command_reaches_the_loss(folder):
    """The plug-in has those of ``erc-bench check`` that say how a loss is called and judged."""
    files = {"json", "junit", "markdown", "traceback", "losses", "drift", "baseline", "seeds"}
    assert {f.name for f in dataclasses.fields(Check)} - files == set(OPTIONS)
    (folder / "other.py").write_text(LOSS.replace("old_logp", "before"))
    called = ["--erc-check=other.py:mine", "--erc-bind=before=old_logp"]
    code, out = run_pytest(folder, *called, "--erc-clip", "0.3", "0.2", "-k", "clip_bounds")
    assert code == 1
    assert "instead of 0.7 and 1.2" in out
    more = ["--erc-aggregate=sequence-mean", "--erc-like=openrlhf", "--erc-set=clip=0.3"]
    code, out = run_pytest(folder, *called, *more, "--erc-band", "0.1", "0.1", "-k", "clip_bounds")
    assert code == 0, out


def test_settings_reach_the_loss(folder):
    """A clip of 1 % is too narrow."""
    code, out = run_pytest(
        folder, "--erc-check=mine.py:mine", "--erc-set=clip=0.01", "-k", "clip_near_policy"
    )
    assert code == 1
    assert "1 failed" in out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--erc-check=mine:nothing"], "mine has no 'nothing'"),
        (["--erc-check=mine:mine", "--erc-waive=nothing=x"], "property: 'nothing' is unknown"),
        (["--erc-waive=dual_clip=x"], "need --erc-check"),
    ],
)
def test_what_cannot_be_checked_is_a_usage_error(folder, options, told):
    """Exit code 4, as pytest has it for its own options."""
    code, out = run_pytest(folder, *options)
    assert code == 4
    assert told in out
    assert "Traceback" not in out


def test_without_the_option_nothing_is_imported(folder):
    """The plug-in is in everyone's pytest."""
    (folder / "test_light.py").write_text(LIGHT)
    code, out = run_pytest(folder)
    assert code == 0, out


def test_an_unknown_waiver_is_refused_where_the_test_is_made():
    """At import of the test module."""
    with pytest.raises(InputError, match="property: 'nothing' is unknown"):
        conformance_tests("dapo", waive={"nothing": "x"})
