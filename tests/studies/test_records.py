import json
import os

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from erc_bench.core import storage
from erc_bench.core.errors import InputError
from erc_bench.core.storage import atomic_write
from erc_bench.studies import records
from erc_bench.studies.records import KEYS, REQUIRED, SCHEMA_VERSION, Results, provenance

CONFIG = {"seed": 0, "nested": {"rate": 1e-3, "names": ["a", "b"]}}


def tables(*seeds, **extra):
    """The smallest frames that ``write_part`` takes."""
    frames = {}
    for name, columns in REQUIRED.items():
        data = {c: np.full(len(seeds), 0.5) for c in columns if not c.startswith("probs/")}
        data |= {k: ["x"] * len(seeds) for k in KEYS[:3]} | {"seed": list(seeds)}
        frames[name] = pd.DataFrame({**data, **extra})
    return frames


@pytest.fixture
def results(tmp_path):
    return Results.create(tmp_path / "r", CONFIG)


def everything(path):
    return {p: p.read_bytes() if p.is_file() else None for p in path.rglob("*")}


def test_atomic_write_makes_folders_and_leaves_only_the_file(tmp_path):
    """The file has the whole new content, others can read it, and no temporary file is left."""
    path = tmp_path / "a" / "b.txt"
    atomic_write(path, lambda stream: stream.write(b"one"))
    atomic_write(path, lambda stream: stream.write(b"two"))
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_atomic_write_keeps_the_old_content_on_failure(tmp_path, monkeypatch, error, where):
    """Whatever goes wrong, the old content stays, no temporary file is left, and the error is raised."""
    path = tmp_path / "b.txt"
    path.write_bytes(b"old")

    def fail(*_):
        raise error

    def write(stream):
        stream.write(b"half")
        if where == "write":
            fail()

    if where != "write":
        monkeypatch.setattr(os, where, fail)
    with pytest.raises(error):
        atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["b.txt"]


def test_a_part_written_is_read_back_with_its_types(results):
    """Parquet keeps columns, types and lists, and the file holds the schema version."""
    frames = tables(0, 1)
    frames["tokens"]["probs/old"] = [[0.5, 0.5], [0.25, 0.75]]
    frames["runs"]["diverged"] = [True, False]
    results.write_part("p", frames)
    again = Results.open(results.path)
    assert again.done("p")
    assert not again.done("q")
    for name, frame in frames.items():
        read = again.read(name)
        added = ["digest"] if name == "runs" else []
        assert list(read.columns) == [*frame.columns, *added]
        assert read["seed"].tolist() == [0, 1]
    assert again.read("runs")["diverged"].dtype == np.bool_
    assert [list(p) for p in again.read("tokens")["probs/old"]] == [[0.5, 0.5], [0.25, 0.75]]
    meta = pq.read_schema(results.path / "runs" / "p.parquet").metadata
    assert meta == {b"erc-bench schema": str(SCHEMA_VERSION).encode()}
    assert again.read("metrics", columns=["seed", "tokens"]).columns.tolist() == ["seed", "tokens"]


def test_equal_frames_give_equal_bytes(tmp_path):
    """The files contain neither time stamps nor paths."""
    written = []
    for name in "ab":
        r = Results.create(tmp_path / name, CONFIG)
        r.write_part("p", tables(0, 1))
        written.append([(r.path / t / "p.parquet").read_bytes() for t in REQUIRED])
    assert written[0] == written[1]


def test_parts_are_read_in_their_names_order(results):
    """The order in which they were finished does not matter."""
    for part, seed in (("e--0002-0003", 2), ("e--0000-0001", 0), ("e--0001-0002", 1)):
        results.write_part(part, tables(seed))
    for table in REQUIRED:
        assert results.read(table)["seed"].tolist() == [0, 1, 2]


def test_a_part_counts_when_its_runs_table_is_there(results):
    """Half-written parts and temporary files are ignored, and a folder without parts is refused."""
    with pytest.raises(InputError, match="no finished part yet; finish it with --resume"):
        results.read("runs")
    results.write_part("p", tables(0))
    results.write_part("q", tables(1))
    (results.path / "runs" / "q.parquet").unlink()
    (results.path / "runs" / ".q.parquet.abc.tmp").write_bytes(b"half")
    (results.path / "runs" / ".hidden.parquet").write_bytes(b"half")
    for table in REQUIRED:
        assert results.read(table)["seed"].tolist() == [0]


def test_runs_is_written_last(results, monkeypatch):
    """An interruption at any table leaves the part unfinished."""
    order = []
    real = records.atomic_write
    monkeypatch.setattr(
        records,
        "atomic_write",
        lambda path, write, **how: (order.append(path.parent.name), real(path, write, **how)),
    )
    results.write_part("p", tables(0))
    assert order[-1] == "runs"
    assert sorted(order) == sorted(REQUIRED)


@pytest.mark.parametrize("table", list(REQUIRED))
def test_missing_columns_are_refused_before_the_part_counts(results, table):
    """The message names the table and the columns; the part is not done."""
    frames = tables(0)
    gone = REQUIRED[table][-3]
    frames[table] = frames[table].drop(columns=[gone], errors="ignore")
    with pytest.raises(ValueError, match=f"table {table}: columns missing: .*{gone}"):
        results.write_part("p", frames)
    assert not results.done("p")


@pytest.mark.parametrize("table", list(REQUIRED))
@pytest.mark.parametrize("damage", ["truncated", "text", "gone"])
def test_a_damaged_file_is_named(results, table, damage):
    """The InputError is one line with the file's path."""
    results.write_part("p", tables(0))
    file = results.path / table / "p.parquet"
    if damage == "gone":
        if table == "runs":
            return
        file.unlink()
    else:
        file.write_bytes(b"hello" if damage == "text" else file.read_bytes()[:50])
    with pytest.raises(InputError, match=r"results: .*p\.parquet cannot be read") as caught:
        results.read(table)
    assert "\n" not in str(caught.value)


def test_create_writes_a_manifest_that_opens(results):
    """The manifest keeps configuration and provenance."""
    again = Results.open(results.path)
    assert again.config == CONFIG
    assert again.provenance == results.provenance
    manifest = json.loads((results.path / "manifest.json").read_text())
    assert manifest["schema_version"] == SCHEMA_VERSION


def test_create_takes_an_empty_folder_but_no_other(tmp_path):
    """Foreign files, a file of that name and finished results are refused, and nothing changes."""
    empty = tmp_path / "empty"
    empty.mkdir()
    Results.create(empty, CONFIG)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("x")
    before = everything(tmp_path)
    with pytest.raises(InputError, match="is not empty and is not a results folder"):
        Results.create(foreign, CONFIG)
    with pytest.raises(InputError, match="is not empty"):
        Results.create(foreign, CONFIG, resume=True)
    with pytest.raises(InputError, match="is a file; a folder is needed"):
        Results.create(tmp_path / "file", CONFIG)
    with pytest.raises(InputError, match="cannot be written to"):
        Results.create(tmp_path / "file" / "below", CONFIG)
    with pytest.raises(InputError, match="already holds results; add --resume"):
        Results.create(empty, CONFIG)
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"nested": {"rate": 2e-3, "names": ["a", "b"]}}, "nested.rate was 0.001, now 0.002"),
        ({"nested": {"rate": 1e-3, "names": ["a"]}}, r"nested.names was \['a', 'b'\], now \['a'\]"),
        ({"more": 1}, "more was None, now 1"),
    ],
)
def test_resume_needs_the_same_configuration(results, change, told):
    """The first differing field is named with both values."""
    assert Results.create(results.path, CONFIG, resume=True).provenance == results.provenance
    before = everything(results.path)
    with pytest.raises(InputError, match=f"resume: .*another configuration: {told}"):
        Results.create(results.path, {**CONFIG, **change}, resume=True)
    assert everything(results.path) == before


def test_a_folder_that_cannot_be_written_to_leaves_no_trace(tmp_path, monkeypatch):
    """It is refused before any work, and folders that were made for the attempt are removed."""

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage.tempfile, "TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"out: .* cannot be written to .Permission denied."):
        Results.create(tmp_path / "a" / "b", CONFIG)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff\xfe",
        b"{}",
        b'{"kind": "other"}',
        b'{"kind": "erc-bench results"}',
        b'{"kind": "erc-bench results", "schema_version": 1, "config": {}}',
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, manifest):
    """Reading and resuming both raise an InputError of one line."""
    (tmp_path / "manifest.json").write_bytes(manifest)
    for action in (Results.open, lambda p: Results.create(p, CONFIG, resume=True)):
        with pytest.raises(InputError, match="is not a manifest of erc-bench") as caught:
            action(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, None, "1"])
def test_another_schema_version_is_refused(results, version):
    """The message says which version is there and which versions can be read."""
    path = results.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(
        InputError, match=f"schema version {version!r}, .* reads 1 and {SCHEMA_VERSION}"
    ):
        Results.open(results.path)


def test_what_is_no_results_folder_is_named(tmp_path):
    """The error names a missing folder, a file and an empty folder."""
    (tmp_path / "file").write_text("x")
    for name, told in (
        ("none", "is not a folder"),
        ("file", "is not a folder"),
        (".", "no manifest.json"),
    ):
        with pytest.raises(InputError, match=told):
            Results.open(tmp_path / name)


def test_provenance_says_with_what_the_records_were_made():
    """It has versions, revision or None, machine and time, as plain JSON."""
    made = provenance()
    json.dumps(made, allow_nan=False)
    assert made["packages"].keys() >= {"erc-bench", "torch", "numpy", "gymnasium", "pyarrow"}
    assert made["packages"]["torch"]
    revision = made["git_revision"]
    assert revision is None or len(revision.removesuffix("+dirty")) == 40
    assert pd.Timestamp(made["created"]).tz is not None


def test_provenance_without_git(monkeypatch):
    """Without git the revision is None, and nothing fails."""
    monkeypatch.setenv("PATH", "")
    assert provenance()["git_revision"] is None


def test_provenance_without_a_package(monkeypatch):
    """A package that is not installed has no version."""

    def missing(name):
        raise records.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(records.metadata, "version", missing)
    assert set(provenance()["packages"].values()) == {None}
