import json
import os
import signal
import subprocess
import sys
import time

import pytest
from small_runs import ARMS, interrupt_after, options, parquet

from erc_bench import cli
from erc_bench.cli import main
from erc_bench.core import storage
from erc_bench.studies.records import Results

SMALL = ["forking_tokens", *ARMS, "--workers", "1", *options()]


def run(out, *more, base=SMALL):
    main(["run", *base, "--out", str(out), "--no-report", *more])


def listing(path):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in path.rglob("*")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run, which tests must not change."""
    folder = tmp_path_factory.mktemp("cli") / "out"
    run(folder)
    return folder


@pytest.fixture
def refused(capfd, tmp_path, monkeypatch):
    """A function that expects exit code 2, one line on stderr with all of ``told``, and no new file."""
    monkeypatch.chdir(tmp_path)

    def check(*arguments, told, folder=tmp_path):
        before = listing(folder)
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert stop.value.code == 2
        assert err.count("\n") == 1, err
        assert err.startswith("erc-bench: ")
        for text in told:
            assert text in err
        assert "Traceback" not in out + err
        assert listing(folder) == before

    return check


def test_the_same_command_gives_the_same_bytes(finished, tmp_path):
    """Two executions give byte-identical Parquet files, and another seed gives other records."""
    run(tmp_path / "again")
    run(tmp_path / "other", "--seed", "1")
    assert parquet(tmp_path / "again") == parquet(finished)
    assert len(parquet(finished)) == 3
    other = parquet(tmp_path / "other")
    assert other.keys() == parquet(finished).keys()
    assert all(other[name] != content for name, content in parquet(finished).items())


def test_run_prints_a_table_and_where_the_records_are(tmp_path, capfd):
    """The summary on standard output includes the names of arms."""
    run(tmp_path / "out")
    out = capfd.readouterr().out
    assert f"records  {tmp_path / 'out'}" in out
    assert "ppo-clip" in out
    assert "erc-dapo" in out


def test_the_whole_main_job(tmp_path, capfd):
    """One command gives records, figures and a report, which the records alone give again."""
    out = tmp_path / "out"
    main(["run", *SMALL, "--out", str(out)])
    assert (out / "report.html").is_file()
    assert list((out / "figures").glob("*.png"))
    capfd.readouterr()
    main(["report", str(out), "--out", str(tmp_path / "r.html")])
    assert capfd.readouterr().out.split() == [str(tmp_path / "r.html")]
    assert (tmp_path / "r.html").stat().st_size == pytest.approx(
        (out / "report.html").stat().st_size, rel=0.05
    )


REFUSED = [
    (["--objectives", "dappo"], ["objective: 'dappo' is unknown", "did you mean"]),
    (["--objectives", "dapo:nothing=1"], ["dapo has no parameter 'nothing'"]),
    (["--set", "nothing=1"], ["set: 'nothing=1'", "known: rollouts"]),
    (["--set", "rollouts=x"], ["rollouts='x'", "int"]),
    (["--set", "rollouts=1e999"], ["rollouts='1e999'", "int"]),
    (["--set", "minibatches=3"], ["minibatches: 3 is not allowed", "1, 2, 4"]),
    (["--set", "group_size=1"], ["group_size: 1 is not allowed", "group-zscore"]),
    (["--band", "0"], ["band: 0.0 is not allowed"]),
    (["--band", "-1"], ["band: -1.0 is not allowed"]),
    (["--band", "nan"], ["band: nan is not allowed"]),
    (["--seeds", "0"], ["seeds: 0 is not allowed"]),
    (["--seed", "-1"], ["seed: -1 is not allowed"]),
    (["--workers", "0"], ["workers: 0 is not allowed"]),
    (["--environment", "TokenForks"], ["environment: give either"]),
    (["--out", "/proc/nowhere/out"], ["out: /proc/nowhere/out cannot be written to"]),
]


@pytest.mark.parametrize(("more", "told"), REFUSED, ids=lambda x: " ".join(x)[:40])
def test_bad_input_is_one_line_and_no_trace(refused, tmp_path, more, told):
    """The line names field, value and what is allowed, before anything is done."""
    refused("run", *SMALL, "--out", tmp_path / "out", *more, told=told)


def test_unknown_names_are_refused(refused, tmp_path):
    """Unknown experiments and environments are refused by name."""
    out = ("--out", tmp_path / "out")
    refused("run", "nothing", *out, told=["experiment: 'nothing' is unknown", "forking_tokens"])
    refused(
        "run", "--environment", "TokenFork", *out, told=["'TokenFork'", "did you mean TokenForks"]
    )
    refused("run", "--environment", "CartPole-v1", *out, told=["CartPole-v1", "dynamics"])


def test_an_out_that_is_not_free_is_refused(refused, tmp_path, finished):
    """Foreign files, a plain file, and finished results without ``--resume`` are refused."""
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    refused("run", *SMALL, "--out", foreign, told=["out: ", "not empty"])
    refused("run", *SMALL, "--out", foreign, "--resume", told=["out: ", "not empty"])
    refused("run", *SMALL, "--out", foreign / "thesis.txt", told=["out: ", "is a file"])
    told = [str(finished), "already holds results", "--resume"]
    refused("run", *SMALL, "--out", finished, told=told, folder=finished)


def test_an_out_that_cannot_be_written_is_refused(refused, tmp_path, monkeypatch):
    """A read-only folder is refused before any work."""

    def read_only(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage.tempfile, "TemporaryFile", read_only)
    refused("run", *SMALL, "--out", tmp_path / "out", told=["out: ", "Permission denied"])


def test_resume_with_another_configuration_is_refused(refused, finished):
    """The differing field is named with both values."""
    command = ["run", *SMALL, "--out", finished, "--resume"]
    refused(*command, "--seed", "3", told=["resume: ", "seed was 0, now 3"], folder=finished)
    told = ["train.hidden was 16, now 8"]
    refused(*command, "--set", "hidden=8", told=told, folder=finished)
    refused(*command, "--band", "0.1", told=["0.05", "0.1"], folder=finished)


@pytest.mark.parametrize("command", ["report", "figures"])
def test_reading_what_is_no_result_is_refused(refused, command, tmp_path):
    """Folders that are missing, foreign, garbled or without a finished part are refused."""
    refused(command, tmp_path / "none", told=["results: ", "is not a folder"])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    refused(command, foreign, told=["results: ", "no manifest.json"])
    (foreign / "manifest.json").write_text("{")
    refused(command, foreign, told=["results: ", "is not a manifest"])
    Results.create(tmp_path / "empty", {})
    refused(command, tmp_path / "empty", told=["no finished part yet", "--resume"])


@pytest.mark.parametrize("command", ["report", "figures"])
def test_a_place_that_cannot_be_written_is_refused(refused, command, finished):
    """Reports and figures cannot be written below a path that cannot exist."""
    told = ["/proc/nowhere"]
    refused(command, finished, "--out", "/proc/nowhere/x.html", told=told, folder=finished)


def test_an_infinite_band_is_allowed_and_gates_nothing(tmp_path):
    """``--band inf`` gives the base objective, and the manifest is strict JSON."""
    run(tmp_path / "out", "--band", "inf")
    manifest = json.loads(
        (tmp_path / "out" / "manifest.json").read_text(), parse_constant=pytest.fail
    )
    assert manifest["config"]["experiments"]["forking_tokens"]["band"]["low"] == "inf"
    metrics = Results.open(tmp_path / "out").read("metrics")
    assert (metrics["gate/dropped_fraction"] == 0).all()
    run(tmp_path / "out", "--band", "inf", "--resume")


def test_an_interruption_says_how_to_go_on(tmp_path, monkeypatch, capfd, finished):
    """Ctrl-C gives exit code 130, a hint and no traceback; ``--resume`` gives the same records."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(SystemExit) as stop:
            run(tmp_path / "out")
    assert stop.value.code == 130
    err = capfd.readouterr().err
    assert "interrupted" in err
    assert "--resume" in err
    assert "Traceback" not in err
    assert list((tmp_path / "out" / "checkpoints").iterdir())
    run(tmp_path / "out", "--resume")
    assert parquet(tmp_path / "out") == parquet(finished)


CHILD = """
import sys
from erc_bench.training import loop
import erc_bench.studies.sizing
from erc_bench.cli import main
loop.CHECKPOINT_SECONDS = -1.0
sys.modules["erc_bench.studies.sizing"].UPDATE_TOKENS = 2 * 96
main(sys.argv[1:])
"""


def test_a_killed_process_can_be_resumed(tmp_path, monkeypatch):
    """After SIGKILL in the middle of a part the folder opens, and resuming gives the same records."""
    long = ["run", *SMALL, "--set=rollouts=25", "--no-report", "--out", str(tmp_path / "cut")]
    command = [sys.executable, "-c", CHILD, *long]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    checkpoints = tmp_path / "cut" / "checkpoints"
    deadline = time.monotonic() + 60
    while not (checkpoints.is_dir() and any(checkpoints.glob("*.safetensors"))):
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stderr.close()
    Results.open(tmp_path / "cut")
    assert len(list((tmp_path / "cut").glob("runs/*.parquet"))) < 2, "done before it was killed"
    monkeypatch.setattr("erc_bench.studies.sizing.UPDATE_TOKENS", 2 * 96)
    run(tmp_path / "cut", "--set", "rollouts=25", "--resume")
    run(tmp_path / "whole", "--set", "rollouts=25")
    assert len(parquet(tmp_path / "whole")) == 6
    assert parquet(tmp_path / "cut") == parquet(tmp_path / "whole")
    assert not checkpoints.exists()


@pytest.mark.parametrize(
    "command", [[], ["run"], ["list"], ["report"], ["figures"], ["claims"], ["check"]]
)
def test_help_works(capfd, command):
    """The program and every command print their help on standard output and exit with 0."""
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: erc-bench" in capfd.readouterr().out


def test_every_command_of_the_parser_has_an_action():
    """Each command can be run, and ``--help`` can describe it."""
    for name in ("Run", "List", "Report", "Figures", "Claims", "Check"):
        assert getattr(cli, name).__doc__
        assert callable(getattr(cli, name).run)


def test_list_shows_everything_registered(capfd):
    """The list names experiments, objectives, environments and settings."""
    main(["list"])
    out = capfd.readouterr().out
    for text in ("forking_tokens", "erc-dapo", "erc/TokenForks-v0", "violation_delta"):
        assert text in out
    main(["list", "objectives"])
    out = capfd.readouterr().out
    assert "erc-dapo" in out
    assert "erc/TokenForks-v0" not in out


def test_the_module_is_the_program():
    """``python -m erc_bench`` works, with the name of the script in its help."""
    done = subprocess.run(
        [sys.executable, "-m", "erc_bench", "--help"], capture_output=True, text=True, check=True
    )
    assert "usage: erc-bench" in done.stdout
    assert done.stderr == ""
