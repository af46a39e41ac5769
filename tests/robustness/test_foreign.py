"""Tests of input that we did not write: it may end in an InputError, but never crash, hang or run code."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_runs import interrupt_after

from erc_bench.adapters.demos.commands_import import parsed
from erc_bench.adapters.demos.folder import claim
from erc_bench.adapters.demos.sb3 import demo as sb3
from erc_bench.adapters.logs import read_log, write_records
from erc_bench.analysis import scores, summary
from erc_bench.conformance.loading import load, pairs, value
from erc_bench.core.errors import InputError
from erc_bench.presentation.plots import read
from erc_bench.presentation.reporting import open_data
from erc_bench.studies import grid_axis, plan, setting
from erc_bench.studies.records import Results
from erc_bench.studies.verifying import stored_plan
from paper_repro.comparing import _scores as read_evaluation
from paper_repro.evaluation import read_generations
from paper_repro.targets import targets

FUZZ = settings(
    deadline=None, max_examples=80, derandomize=True, suppress_health_check=list(HealthCheck)
)
FEW = settings(FUZZ, max_examples=25)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@contextlib.contextmanager
def only_input_errors():
    """Anything but an InputError of one line fails the test."""
    try:
        yield
    except InputError as error:
        text = " ".join(str(error).split())
    else:
        return
    assert 0 < len(text) < 4000


def replaced(draw, tree, depth=0):
    """A JSON value with something at a random place replaced or removed."""
    if depth < 6 and isinstance(tree, dict) and tree and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(tree)))
        if not draw(st.integers(0, 5)):
            return {k: v for k, v in tree.items() if k != key}
        return {**tree, key: replaced(draw, tree[key], depth + 1)}
    if depth < 6 and isinstance(tree, list) and tree and draw(st.integers(0, 5)):
        at = draw(st.integers(0, len(tree) - 1))
        return [*tree[:at], replaced(draw, tree[at], depth + 1), *tree[at + 1 :]]
    return draw(JSON)


def damaged(draw, content):
    """Bytes cut, flipped, or with a piece put in."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(["cut", "flip", "insert", "swap"]))
        if how == "cut":
            content = content[:at]
        elif how == "flip":
            content = content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
        elif how == "insert":
            content = content[:at] + draw(st.binary(max_size=8)) + content[at:]
        else:
            content = content[at:] + content[:at]
    return content


@pytest.fixture
def folder(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "mine")
    return tmp_path / "mine"


def everything(path):
    """What report, figures, claims and verify read of a folder."""
    results = Results.open(path)
    read(results)
    summary(results)
    with contextlib.suppress(LookupError):
        scores(results)
    with contextlib.suppress(InputError):
        stored_plan(results)


@FUZZ
@given(data=st.data())
def test_manifests(data, finished, tmp_path_factory):
    """Any JSON in place of any piece of the manifest, and any damage to its bytes."""
    path = tmp_path_factory.mktemp("manifest") / "x"
    shutil.copytree(finished, path)
    content = (path / "manifest.json").read_bytes()
    if data.draw(st.booleans()):
        tree = replaced(data.draw, json.loads(content))
        content = json.dumps(tree, allow_nan=True).encode("utf-8", "replace")
    else:
        content = damaged(data.draw, content)
    (path / "manifest.json").write_bytes(content)
    with only_input_errors():
        everything(path)
    shutil.rmtree(path)


@FUZZ
@given(data=st.data())
def test_damaged_records(data, finished, tmp_path_factory):
    """Bytes of a table that are cut, flipped or moved: found, and never other numbers."""
    path = tmp_path_factory.mktemp("records") / "x"
    shutil.copytree(finished, path)
    whole = {t: Results.open(path).read(t) for t in ("runs", "metrics", "tokens")}
    table = data.draw(st.sampled_from(["runs", "metrics", "tokens"]))
    (file,) = (path / table).iterdir()
    content = damaged(data.draw, file.read_bytes())
    file.write_bytes(content)
    with only_input_errors():
        found = Results.open(path).read(table)
        # what is not covered by a page's checksum tells names and types, and the digest covers the rest
        if not found.equals(whole[table]):
            stored = Results.open(path).digests("00-forking_tokens-00000-00004")
            assert any(told != held for told, held in stored.values())
    shutil.rmtree(path)


@settings(FUZZ, max_examples=40)
@given(data=st.data())
def test_foreign_tables(data, finished, tmp_path_factory):
    """A whole Parquet file with other columns, types or values than ours."""
    path = tmp_path_factory.mktemp("tables") / "x"
    shutil.copytree(finished, path)
    name = data.draw(st.sampled_from(["runs", "metrics", "tokens"]))
    (file,) = (path / name).iterdir()
    table = pq.read_table(file)
    column = data.draw(st.sampled_from(table.column_names))
    at = table.column_names.index(column)
    how = data.draw(
        st.sampled_from(["drop", "text", "null", "nan", "list", "huge", "empty", "twice"])
    )
    rows = table.num_rows
    if how == "drop":
        table = table.drop_columns([column])
    elif how == "empty":
        table = table.slice(0, 0)
    elif how == "twice":
        table = pa.concat_tables([table, table])
    else:
        values = {
            "text": pa.array(["<script>"] * rows),
            "null": pa.nulls(rows),
            "list": pa.array([[1]] * rows),
            "nan": pa.array([math.nan] * rows),
            "huge": pa.array([1e30] * rows),
        }
        table = table.set_column(at, column, values[how])
    pq.write_table(table, file)
    with only_input_errors():
        everything(path)
    shutil.rmtree(path)


@FEW
@given(data=st.data())
def test_figure_data(data, tmp_path_factory):
    """The manifest of a folder for `figures --from`."""
    path = tmp_path_factory.mktemp("data")
    manifest = json.loads(Path("figures/data/manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(replaced(data.draw, manifest)))
    with only_input_errors():
        open_data(path).read("runs")


def test_a_manifest_leads_nowhere_else(folder, refused, tmp_path):
    """Paths in a configuration never name files: experiments are looked up, and we name the parts."""
    manifest = json.loads((folder / "manifest.json").read_text())
    about = manifest["config"]["experiments"].pop("forking_tokens")
    for name in ("../../evil", "/etc/passwd", "custom/../x"):
        manifest["config"]["experiments"] = {name: about}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        assert "is unknown" in refused("run", "--verify", folder)
    assert {p.name for p in tmp_path.iterdir()} == {"mine"}


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "a\nb", ".hidden"])
def test_an_experiments_name_is_a_file_name(name, tmp_path):
    """The name of a user's own experiment may not lead out of the results folder."""
    from dataclasses import replace  # noqa: PLC0415

    from erc_bench.studies.base import experiment  # noqa: PLC0415

    with pytest.raises(InputError, match=r"experiments: .* is not allowed"):
        plan([replace(experiment("forking_tokens"), name=name)])


@pytest.fixture(scope="session")
def checkpoint(small, tmp_path_factory):
    """An interrupted run's folder, with its checkpoint."""
    from erc_bench.cli import main  # noqa: PLC0415

    out = tmp_path_factory.mktemp("cut") / "out"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(SystemExit):
            main([*small, "--out", str(out)])
    return out


@settings(FUZZ, max_examples=25)
@given(data=st.data())
def test_damaged_checkpoints(data, checkpoint, tmp_path_factory):
    """A checkpoint that differs in any byte is refused by name: it is never gone on from."""
    from erc_bench.studies.runner import build_trainer  # noqa: PLC0415
    from erc_bench.training import checkpoint as stored  # noqa: PLC0415

    (file,) = (checkpoint / "checkpoints").iterdir()
    content = file.read_bytes()
    changed = damaged(data.draw, content)
    copy = tmp_path_factory.mktemp("checkpoint") / "x.safetensors"
    copy.write_bytes(changed)
    work = stored_plan(Results.open(checkpoint))
    (experiment,) = work.experiments
    trainer = build_trainer(experiment, experiment.parts[0], work.seed)
    before = {k: v.clone() for k, v in trainer.state.policy.params.items()}
    if changed == content:
        return
    try:
        found = stored.load(copy, trainer.setup, trainer.state)
    except InputError as error:
        assert "resume: checkpoint" in str(error)  # noqa: PT017
        assert all(v.equal(trainer.state.policy.params[k]) for k, v in before.items())
    else:  # padding and the order of names in its header are free
        whole = stored.load(file, trainer.setup, trainer.state)
        assert all(v.equal(found.policy.params[k]) for k, v in whole.policy.params.items())


TEXT = st.text(max_size=30) | st.from_regex(
    r"[a-z_]{1,12}[:=][-0-9.e,a-z_=()\[\]]{0,20}", fullmatch=True
)


@FUZZ
@given(TEXT)
def test_settings_grids_and_pairs(text):
    """--set, --grid, --waive and the logs of an import."""
    for parse in (setting, grid_axis, value, lambda t: pairs("set", [t]), lambda t: parsed((t,))):
        with only_input_errors():
            parse(text)


@FUZZ
@given(
    st.sampled_from(
        [
            "learning_rate",
            "rollouts",
            "prompts",
            "hidden",
            "temperature",
            "dtype",
            "policy",
            "group_size",
            "seed",
        ]
    ),
    st.sampled_from(
        [
            "inf",
            "nan",
            "-1",
            "0",
            "1e400",
            "10**10",
            "9" * 400,
            "[",
            "(" * 2000,
            "0x10",
            "1_000",
            " 2",
            "2147483648",
            "999999999999",
            "'; import os",
            "None",
            "\x00",
        ]
    ),
)
def test_extreme_settings(name, text):
    """They are refused before any endless loop, allocation or overflow."""
    with only_input_errors():
        plan(["forking_tokens"], settings=dict([setting(f"{name}={text}")]))


@FUZZ
@given(
    TEXT
    | st.from_regex(
        r"(erc-dapo|dapo|ppo-clip|\.\./x):[a-z_]{0,9}=[-0-9.einfa]{0,6}", fullmatch=True
    )
)
def test_arms(text):
    """A specification of an objective loads no plug-in of that name, no file and no code."""
    with only_input_errors():
        plan(["forking_tokens"], objectives=[text])


@FUZZ
@given(
    st.one_of(
        st.text(max_size=300).filter(lambda t: "this" not in t and "antigravity" not in t),
        st.from_regex(
            r"(json|math|os\.path|erc_bench|no_such|\.|\.\.|/tmp/x\.py|a\.py):[A-Za-z_.]{0,12}",
            fullmatch=True,
        ),
    )
)
def test_specifications_of_losses(text):
    """`erc-bench check SPEC`: names of nothing are refused, whatever characters they have."""
    with only_input_errors():
        load(text)


def test_check_says_that_it_runs_code(ends, tmp_path, monkeypatch):
    """It says so on standard error before the import."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("print('RAN'); raise SystemExit(3)")
    code, out, err = ends("check", "mine.py:loss", "--no-drift")
    assert code == 2
    assert "importing and running the code of mine.py:loss" in err.splitlines()[0]
    assert "RAN" in out
    assert "SystemExit" in err
    assert "imports and runs the code it is given" in ends("check", "--help")[1]


LOGS = Path(__file__).parents[1] / "adapters" / "data"
NAMES = (
    "trl_trainer_state.json",
    "verl_dapo.jsonl",
    "verl_erc-dapo.jsonl",
    "verl_erc-dapo_console.log",
)


@FUZZ
@given(data=st.data())
def test_logs(data, tmp_path_factory):
    """What is read from logs of TRL and verl becomes records that can be opened."""
    name = data.draw(st.sampled_from(NAMES))
    path = tmp_path_factory.mktemp("logs") / name
    content = (LOGS / name).read_bytes()
    if name.endswith(".json") and data.draw(st.booleans()):
        content = json.dumps(replaced(data.draw, json.loads(content))).encode()
    elif name.endswith(".jsonl") and data.draw(st.booleans()):
        lines = [json.loads(line) for line in content.splitlines()]
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = replaced(data.draw, lines[at])
        content = "\n".join(map(json.dumps, lines)).encode()
    else:
        content = damaged(data.draw, content)
    path.write_bytes(content)
    with only_input_errors():
        run = read_log(path)
        results = write_records(path.parent / "out", {("dapo", 0): run}, experiment="x")
        everything(results.path)


def test_a_step_logged_twice_counts_as_its_last_entry(tmp_path):
    """Found by fuzzing: a metric that only the overwritten entry had is absent, not a KeyError."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "reward": 1, "grad_norm": 2}\n{"step": 1, "reward": 0.5}\n')
    run = read_log(path)
    assert run.metrics["reward/mean"].tolist() == [0.5]
    assert run.metrics["grad/norm"].isna().all()
    assert run.names == {"reward/mean": "reward"}


@settings(FUZZ, max_examples=25)
@given(data=st.data())
def test_event_files(data, tmp_path_factory):
    """Event files of TensorBoard whose bytes are damaged."""
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    place = tmp_path_factory.mktemp("events")
    writer = tensorboard.SummaryWriter(str(place))
    for step in range(1, 4):
        writer.add_scalar("train/reward", 0.5, step)
        writer.add_scalar("train/grad_norm", 1.0, step)
    writer.close()
    (file,) = place.iterdir()
    file.write_bytes(damaged(data.draw, file.read_bytes()))
    with only_input_errors():
        read_log(file)


@FUZZ
@given(data=st.data())
def test_demo_folders(data, tmp_path_factory):
    """settings.json and the runs of `llm demo` and `sb3 demo`."""
    out = tmp_path_factory.mktemp("demo")
    content = data.draw(st.binary(max_size=30) | JSON.map(lambda v: json.dumps(v).encode()))
    (out / "settings.json").write_bytes(content)
    with only_input_errors():
        claim(out, {"environments": {"CartPole-v1": 4096}}, resume=True)
    (out / "runs").mkdir()
    run = Path("paper_repro/results/sb3/runs/CartPole-v1-erc-ppo-0.parquet").read_bytes()
    (out / "runs" / "a.parquet").write_bytes(damaged(data.draw, run))
    with only_input_errors():
        sb3.redraw(out)


@FUZZ
@given(data=st.data())
def test_evaluation_files(data, tmp_path_factory):
    """Generations, evaluations and targets of paper_repro."""
    path = tmp_path_factory.mktemp("evaluation")
    line = {"benchmark": "aime24", "problem": 0, "answer": "3", "responses": ["3", "4"]}
    made = data.draw(st.sampled_from(["tree", "bytes"]))
    content = (
        json.dumps(replaced(data.draw, line)).encode()
        if made == "tree"
        else damaged(data.draw, json.dumps(line).encode())
    )
    (path / "g.jsonl").write_bytes(content)
    with only_input_errors():
        list(read_generations(path / "g.jsonl"))
    whole = {
        "benchmarks": {
            "aime24": {"avg": 0.5, "low": 0.1, "high": None, "samples": 2, "correct": {"0": 1}}
        }
    }
    (path / "e.json").write_text(json.dumps(replaced(data.draw, whole)))
    with only_input_errors():
        read_evaluation(path / "e.json")
    (path / "t.toml").write_bytes(damaged(data.draw, Path("paper_repro/targets.toml").read_bytes()))
    with only_input_errors():
        targets(path / "t.toml")
