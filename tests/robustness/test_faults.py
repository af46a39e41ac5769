"""Tests of full disks, lost folders, two runs at once, killed workers and jumping clocks."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_runs import parquet

from erc_bench.cli import main
from erc_bench.core import storage
from erc_bench.core.errors import InputError
from erc_bench.studies.records import Results
from erc_bench.training import loop

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def wholes(path):
    """Files under their final names that are not whole Parquet files."""
    return [p for p in Path(path).rglob("[!.]*.parquet") if p.read_bytes()[-4:] != b"PAR1"]


@pytest.fixture
def tiny_disk(tmp_path):
    """A function that mounts a file system of so many KiB."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(kib, *options):
        how = ",".join([f"size={kib}k", *options])
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", how, "tmpfs", place], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip("this system lets us mount nothing")
        return place

    yield mount
    subprocess.run(["umount", "-l", place], capture_output=True, check=False)


@pytest.mark.skipif(not ROOT, reason="only root may mount a small disk")
@pytest.mark.usefixtures("one_seed_per_part")
@pytest.mark.parametrize("kib", [4, 12, 24, 40, 64, 80])
def test_a_full_disk(kib, tiny_disk, refused, ends, small, finished_parts, tmp_path):
    """Whenever it fills, there are one line and only whole files, and --resume elsewhere finishes."""
    out = tiny_disk(kib) / "out"
    line = refused(*small, "--out", out)
    assert "No space left on device" in line
    assert not wholes(out)
    moved = tmp_path / "moved"
    shutil.copytree(out, moved) if out.exists() else moved.mkdir()
    resume = ["--resume"] if (moved / "manifest.json").exists() else []
    assert ends(*small, "--out", moved, *resume)[0] == 0
    assert parquet(moved) == finished_parts
    assert {p.name for p in moved.iterdir()} == {"manifest.json", "metrics", "runs", "tokens"}


@pytest.fixture(scope="module")
def finished_parts(small, tmp_path_factory):
    """Records of the run in two parts."""
    folder = tmp_path_factory.mktemp("parts") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("erc_bench.studies.sizing.UPDATE_TOKENS", 2 * 96)
        main([*small, "--out", str(folder)])
    return parquet(folder)


@pytest.mark.parametrize("size", [0, 3000, 10_000])
def test_a_write_that_is_refused(size, ends, small, finished, tmp_path):
    """A limit on the size of files, which needs no root, has the effect of a full disk."""
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "erc_bench", *small, "--out", out],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert done.returncode == 2
    (line,) = (x for x in done.stderr.splitlines() if x.startswith("erc-bench: "))
    assert "File too large" in line
    assert "Traceback" not in done.stderr
    assert not wholes(out)
    resume = ["--resume"] if (out / "manifest.json").exists() else []
    assert ends(*small, "--out", out, *resume)[0] == 0
    assert parquet(out) == parquet(finished)


@pytest.fixture
def only_readable(tmp_path, request):
    """A function that makes a folder read-only by its mode, or for root by a read-only mount."""

    def make(fill):
        place = tmp_path / "disk"
        if not ROOT:
            fill(place)
            place.chmod(0o555)
            request.addfinalizer(lambda: place.chmod(0o755))
            return place
        place = request.getfixturevalue("tiny_disk")(10_000) / "out"
        fill(place)
        subprocess.run(["mount", "-o", "remount,ro", place.parent], check=True)
        return place

    return make


@pytest.mark.parametrize("command", ["run", "resume", "report", "figures"])
def test_a_folder_that_may_only_be_read(command, small, finished, refused, only_readable):
    """The exit code is 2 with one line, not a byte changes, and reading still works."""
    out = only_readable(lambda p: p.mkdir() if command == "run" else shutil.copytree(finished, p))
    before = {p: p.stat().st_mtime_ns for p in [out, *out.rglob("*")]}
    asked = {
        "run": [*small, "--out", out],
        "resume": [*small, "--out", out, "--resume"],
        "report": ["report", out],
        "figures": ["figures", out],
    }
    line = refused(*asked[command])
    assert f"{out}" in line
    assert "cannot be written to (" in line
    assert "Read-only file system" in line or "Permission denied" in line
    assert {p: p.stat().st_mtime_ns for p in [out, *out.rglob("*")]} == before
    if command != "run":
        assert len(Results.open(out).read("runs")) == 4


@pytest.mark.usefixtures("one_seed_per_part")
@pytest.mark.parametrize(
    ("how", "workers"), [("gone", "1"), ("moved", "1"), ("replaced", "1"), ("gone", "2")]
)
def test_a_folder_that_vanishes(how, workers, small, refused, tmp_path, monkeypatch):
    """If it is deleted, moved or replaced during a run, one line says so, and nothing is made there."""
    out, real = tmp_path / "out", Results.write_part

    def vanish():
        while not (out / "manifest.json").exists():
            time.sleep(0.001)
        if how == "moved":
            out.rename(tmp_path / "elsewhere")
            return
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        if how == "replaced":
            out.mkdir()
            (out / "thesis.txt").write_text("precious")

    def write(self, *arguments):
        vanishing.join()
        real(self, *arguments)

    monkeypatch.setattr(Results, "write_part", write)
    vanishing = threading.Thread(target=vanish)
    vanishing.start()
    line = refused(*small[:-1], workers, "--out", out)
    assert "was removed while it was written to" in line or "can no longer be written to" in line
    left = {p.name for p in out.rglob("*")} if out.exists() else set()
    assert left == ({"thesis.txt"} if how == "replaced" else set())


HOLD = """
import sys, time
from pathlib import Path
from erc_bench.core.storage import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def another_process_in(folder):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    try:
        yield holder
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_two_processes_on_one_folder(small, refused, ends, finished, tmp_path):
    """The second is told which process has it; reports of what is finished still work; kill -9 frees it."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    new = tmp_path / "new"
    with another_process_in(out) as holder, another_process_in(new):
        line = refused(*small, "--out", out, "--resume")
        assert f"is in use by process {holder.pid} on " in line
        assert "wait for it, or choose another folder" in line
        assert "is in use by process" in refused(*small, "--out", new)
        assert ends("report", out)[0] == 0
    assert (out / ".lock").exists()  # what the killed one left holds nothing
    assert ends(*small, "--out", out, "--resume")[0] == 0
    assert not (out / ".lock").exists()
    assert ends(*small, "--out", new)[0] == 0
    assert parquet(new) == parquet(finished)


def test_two_demos_on_one_folder(refused, tmp_path):
    """`sb3 demo` and `llm demo` hold their folders likewise."""
    arguments = ["--environments", "CartPole-v1", "--steps", "2048", "--seeds", "2"]
    with another_process_in(tmp_path / "demo"):
        line = refused("sb3", "demo", "--out", tmp_path / "demo", *arguments)
        assert "is in use by process" in line


def test_many_at_once_and_one_gets_it(tmp_path):
    """Of many threads that want one folder, only one at a time holds it, however often it changes."""
    inside, most, entered = 0, 0, 0
    guard = threading.Lock()

    def attempt():
        nonlocal inside, most, entered
        for _ in range(40):
            with contextlib.suppress(InputError), storage.exclusive(tmp_path / "out"):
                with guard:
                    inside, entered = inside + 1, entered + 1
                    most = max(most, inside)
                time.sleep(0.0005)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert entered > 6


def test_a_killed_early_process_leaves_a_folder_that_can_be_used(small, ends, tmp_path):
    """Between the lock and the manifest there is nothing of value: the folder counts as empty."""
    out = tmp_path / "out"
    out.mkdir()
    for name in (".lock", ".holder", ".manifest.json.abcd1234.tmp"):
        (out / name).write_text("{")
    assert ends(*small, "--out", out)[0] == 0
    assert {p.name for p in out.iterdir()} == {"manifest.json", "metrics", "runs", "tokens"}


def test_only_what_a_write_left_aside_is_swept(small, ends, tmp_path):
    """A user's own hidden or temporary files are not ours to remove."""
    out = tmp_path / "out"
    assert ends(*small, "--out", out)[0] == 0
    mine = [out / n for n in (".notes.tmp", "a.tmp", ".x.ABCD1234.tmp")]
    left = [out / "figures" / ".fig1.png.abcd1234.tmp", out / "runs" / ".p.parquet._bcd12_4.tmp"]
    (out / "figures").mkdir()
    for path in [*mine, *left]:
        path.write_text("x")
    assert ends("report", out)[0] == 0
    assert all(p.exists() for p in mine)
    assert not any(p.exists() for p in left)


@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
@pytest.mark.usefixtures("one_seed_per_part")
def test_a_killed_worker(small, refused, ends, finished_parts, tmp_path):
    """The kernel kills a worker when memory runs out: one line says so, and --resume finishes."""
    out = tmp_path / "out"
    slow = [*small[:-1], "2", "--set=rollouts=60"]

    def kill():
        while not any((out / "progress").glob("*")):
            time.sleep(0.01)
        mine = Path(f"/proc/{os.getpid()}/task")
        children = {int(c) for t in mine.glob("*/children") for c in t.read_text().split()}
        for child in children:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"popen_loky_posix" in command:
                os.kill(child, signal.SIGKILL)
                return

    killer = threading.Thread(target=kill)
    killer.start()
    line = refused(*slow, "--out", out)
    killer.join()
    assert "workers: one was killed" in line
    assert "--resume" in line
    assert not wholes(out)
    assert ends(*slow, "--out", out, "--resume")[0] == 0
    assert len(Results.open(out).read("runs")) == 4


@pytest.mark.parametrize("jump", [1e9, -1e9])
def test_a_clock_that_jumps(jump, small, ends, finished, tmp_path, monkeypatch):
    """If the clock jumps at every call, checkpoints, progress and records are as before."""
    saved = []
    real, save = time.time, loop.checkpoint.save_state
    leaps = itertools.cycle([0.0, jump])
    monkeypatch.setattr(time, "time", lambda: real() + next(leaps))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * (real() + next(leaps))))
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 1e-9)
    monkeypatch.setattr(loop.checkpoint, "save_state", lambda *a: (saved.append(1), save(*a)))
    assert ends(*small, "--out", tmp_path / "out")[0] == 0
    assert len(saved) == 3
    assert parquet(tmp_path / "out") == parquet(finished)


def test_no_room_in_memory_is_one_line(small, refused, tmp_path):
    """Needing more than the machine has is refused early, and an unforeseen lack ends in one line."""
    line = refused(*small, "--set=hidden=2000000000", "--out", tmp_path / "a")
    assert "this machine has" in line
    assert not (tmp_path / "a").exists()
    line = refused(*small, "--set=token_samples=2000000000", "--out", tmp_path / "b")
    assert "memory: this machine has too little for these settings" in line
