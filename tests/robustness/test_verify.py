"""The digest of a run, and the command that recomputes it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_bench import api
from erc_bench.studies.digests import run_digests
from erc_bench.studies.records import KEYS, Results

PART = "00-forking_tokens-00000-00004.parquet"


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished folder, which the test may change."""
    shutil.copytree(finished, tmp_path / "mine")
    return tmp_path / "mine"


def edit(file, change):
    """Change a Parquet file's table."""
    schema = pq.read_schema(file).metadata
    pq.write_table(change(pq.read_table(file)).replace_schema_metadata(schema), file)


def nudged(column, row):
    """A function that changes one number of a table by its last bit."""

    def change(table):
        values = table[column].to_numpy().copy()
        values[row] = np.nextafter(values[row], np.inf)
        at = table.column_names.index(column)
        return table.set_column(at, column, pa.array(values, table[column].type))

    return change


def test_what_was_computed_is_computed_again(folder, ends):
    """The exit code is 0, every run is counted, and the folder is only read."""
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    code, out, _ = ends("run", "--verify", folder, "--workers", "1")
    assert code == 0
    assert f"verified        4 runs of {folder}" in out
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_two_workers_and_another_process_give_the_same_digests(folder, small, tmp_path):
    """Digests do not depend on workers, on the process, or on which runs share a part."""
    script = (
        "import sys; from erc_bench.cli import main;"
        "import erc_bench.studies.sizing; sys.modules['erc_bench.studies.sizing'].UPDATE_TOKENS = 192;"
        "main(sys.argv[1:])"
    )
    command = [*small[:-1], "2", "--out", str(tmp_path / "two")]
    subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True)
    two, one = (Results.open(f).read("runs") for f in (tmp_path / "two", folder))
    assert len(list((tmp_path / "two" / "runs").iterdir())) == 2
    assert len(two) == 4
    assert two["digest"].str.len().eq(64).all()
    assert two["digest"].nunique() == 4
    of_two, of_one = (
        {tuple(r[k] for k in KEYS): r["reward/final"] for _, r in f.iterrows()} for f in (two, one)
    )
    assert of_two == pytest.approx(of_one, abs=1e-5)  # parts of other sizes may round otherwise
    again = [*small, "--out", str(tmp_path / "again")]
    subprocess.run([sys.executable, "-m", "erc_bench", *again], check=True, capture_output=True)
    assert Results.open(tmp_path / "again").read("runs")["digest"].equals(one["digest"])
    assert api.verify(tmp_path / "again", workers=2, progress=False).passed


@pytest.mark.parametrize(
    ("table", "column", "row"),
    [("runs", "reward/final", 1), ("metrics", "grad/norm", 7), ("tokens", "entropy/new", 3)],
)
def test_a_changed_number_is_damage(folder, ends, table, column, row):
    """One changed bit in any table gives exit code 1 and the name of the run."""
    edited = pq.read_table(folder / table / PART).slice(row, 1).to_pylist()[0]
    edit(folder / table / PART, nudged(column, row))
    code, out, _ = ends("run", "--verify", folder, "--workers", "1")
    assert code == 1
    (line,) = (x for x in out.splitlines() if x.startswith("damaged"))
    assert "its rows in 00-forking_tokens-00000-00004 are not those that were written" in line
    assert f"{edited['objective']}, seed {edited['seed']}:" in line
    assert "not reproduced" not in out
    assert "verified" not in out


@pytest.mark.parametrize("table", ["runs", "metrics", "tokens"])
@pytest.mark.parametrize("how", ["cut", "gone", "rows gone"])
def test_a_damaged_file_is_damage(folder, ends, table, how):
    """A file that is cut, gone or lacks rows gives exit code 1 and the name of the part or run."""
    file = folder / table / PART
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif how == "gone":
        file.unlink()
    else:
        edit(file, lambda t: t.slice(1))
    code, out, err = ends("run", "--verify", folder, "--workers", "1")
    if (table, how) == ("runs", "gone"):
        assert code == 2
        assert "is not finished (1 of 1 parts are missing); finish it with --resume" in err
    else:
        assert code == 1
        assert "damaged" in out
        assert "forking_tokens" in out


def test_another_computation_is_not_a_reproduction(folder, ends):
    """Rows and digest may be whole and differ from what is computed; a probable cause is named."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["provenance"]["packages"]["torch"] = "2.0.0"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    stored = Results.open(folder)
    frames = {t: stored.read(t) for t in ("runs", "metrics", "tokens")}
    frames["runs"] = frames["runs"].drop(columns="digest")
    frames["metrics"].loc[0, "grad/norm"] *= 1.5  # a run of erc-dapo or ppo-clip on seed 0
    stored.write_part(PART.removesuffix(".parquet"), frames)
    code, out, _ = ends("run", "--verify", folder, "--workers", "1")
    assert code == 1
    assert "damaged" not in out
    (line,) = (x for x in out.splitlines() if x.startswith("not reproduced"))
    assert "forking_tokens, ppo-clip, seed 0: " in line
    assert "probable cause  torch was 2.0.0, now 2." in out


def test_records_of_version_1_are_compared_by_their_rows(folder, ends):
    """They have no digests, so their rows are compared, and the command says so."""
    as_version_1(folder)
    code, out, _ = ends("run", "--verify", folder, "--workers", "1")
    assert code == 0
    assert "4 runs have no stored digest (schema version 1)" in out
    edit(folder / "metrics" / PART, nudged("grad/norm", 0))
    code, out, _ = ends("run", "--verify", folder, "--workers", "1")
    assert code == 1
    assert out.count("not reproduced") == 1


def as_version_1(folder):
    """Turn a folder into what version 1 wrote."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 1}))
    edit(folder / "runs" / PART, lambda t: t.drop_columns(["digest"]))


@pytest.mark.usefixtures("one_seed_per_part")
def test_a_folder_of_version_1_is_read_and_resumed(small, tmp_path, ends):
    """Resuming raises it to the current version, and what is finished stays as it is."""
    out = tmp_path / "out"
    assert ends(*small, "--out", out)[0] == 0
    first, second = sorted((out / "runs").iterdir())
    edit(first, lambda t: t.drop_columns(["digest"]))
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 1}))
    kept = first.read_bytes()
    second.unlink()
    assert len(Results.open(out).read("runs")) == 2
    assert ends(*small, "--out", out, "--resume")[0] == 0
    assert json.loads((out / "manifest.json").read_text())["schema_version"] == 2
    assert first.read_bytes() == kept
    assert Results.open(out).read("runs")["digest"].isna().tolist() == [True, True, False, False]
    code, text, _ = ends("run", "--verify", out, "--workers", "1")
    assert (code, "2 runs have no stored digest" in text) == (0, True)


def test_the_committed_figures_data_is_read(ends, refused, tmp_path):
    """It opens, and verifying it is refused with the reason."""
    results = Results.open("figures/data")
    assert results.schema_version in (1, 2)
    assert len(results.read("runs", ["objective", "seed", "digest"])) == 4000
    line = refused("run", "--verify", "figures/data")
    assert "holds figure data, not whole records" in line


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--seeds", "2"), "takes no option but --workers"),
        (("forking_tokens",), "takes no option"),
        (("--resume",), "takes no option"),
        (("--workers", "0"), "workers: 0 is not allowed"),
    ],
)
def test_verify_stands_alone(folder, refused, more, told):
    """Options that could contradict the folder are refused."""
    assert told in refused("run", "--verify", folder, *more)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("tier",), "huge"),
        (("seed",), None),
        (("experiments",), []),
        (("experiments",), {"nope": {}}),
        (("experiments", "forking_tokens", "train", "prompts"), "4"),
        (("experiments", "forking_tokens", "train", "unheard"), 1),
        (("experiments", "forking_tokens", "environment"), "../x"),
        (("experiments", "forking_tokens", "seeds"), -1),
        (("experiments", "forking_tokens", "seeds"), 10**15),
        (("experiments", "forking_tokens", "objectives"), {"x": {"recipe": "os.system"}}),
    ],
)
def test_a_foreign_configuration_is_refused(folder, refused, at, value):
    """What the manifest says is checked like what a user says."""
    manifest = json.loads((folder / "manifest.json").read_text())
    place = manifest["config"]
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "verify: " in refused("run", "--verify", folder, "--workers", "1")


VALUES = st.one_of(st.none(), st.floats(width=32), st.just(0.0), st.just(-0.0))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), VALUES, st.text(max_size=3)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_a_digest_is_of_values_not_of_their_storage(rows, random):
    """Other widths, encodings, chunks, column orders and neighbours change no digest; a value does."""
    seeds, numbers, texts = (list(column) for column in zip(*rows, strict=True))
    plain = pa.table({"seed": seeds, "x": pa.array(numbers, pa.float64()), "t": texts})
    cut = random.randint(0, len(rows))
    other = pa.concat_tables([plain.slice(0, cut), plain.slice(cut)]).select(["t", "x", "seed"])
    other = other.set_column(1, "x", other["x"].cast(pa.float32()))
    other = other.set_column(0, "t", other["t"].dictionary_encode())
    other = other.append_column("empty", pa.nulls(len(rows), pa.float64()))
    want = run_digests({"t": plain}, ["seed"])
    assert run_digests({"t": other}, ["seed"]) == want
    for seed in set(seeds):
        alone = plain.filter(pa.compute.equal(plain["seed"], seed))
        assert run_digests({"t": alone}, ["seed"]) == {(seed,): want[seed,]}
    row = random.randrange(len(rows))
    texts[row] += "'"
    changed = run_digests({"t": plain.set_column(2, "t", pa.array(texts))}, ["seed"])
    assert {k for k in want if changed[k] != want[k]} == {(seeds[row],)}


def test_nearly_equal_tables_have_other_digests():
    """Digests depend on order, the sign of zero, missing values, and where one text ends."""
    base = {
        "seed": [0, 0],
        "x": [0.0, 1.0],
        "n": [0, 1],
        "t": ["ab", "c"],
        "l": [[1.0], [2.0, 3.0]],
    }
    changes = [
        {"x": [1.0, 0.0]},
        {"x": [-0.0, 1.0]},
        {"x": [None, 1.0]},
        {"n": [None, 1]},
        {"t": ["a", "bc"]},
        {"t": [None, "c"]},
        {"t": ["-\n", "c"]},
        {"l": [[1.0, 2.0], [3.0]]},
        {"l": [None, [2.0, 3.0]]},
        {"l": [[1.0], [2.0, 3.0000000000000004]]},
    ]
    found = {run_digests({"t": pa.table({**base, **c})}, ["seed"])[0,] for c in [{}, *changes]}
    assert len(found) == 1 + len(changes)
