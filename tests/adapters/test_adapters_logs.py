"""Logs of other trainers become records that the figures are drawn from; bad ones are refused."""

from __future__ import annotations

import json
import math
import re
import warnings
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from erc_bench import api
from erc_bench.adapters.demos.commands_import import Import
from erc_bench.adapters.logs import (
    COLUMNS,
    read_log,
    read_tensorboard,
    read_trl,
    read_verl,
    write_records,
)
from erc_bench.core.errors import InputError
from erc_bench.studies.records import REQUIRED, Results

DATA = Path(__file__).parent / "data"
TRL = DATA / "trl_trainer_state.json"  # stock GRPOTrainer, 2 iterations per rollout
VERL = {name: DATA / f"verl_{name}.jsonl" for name in ("dapo", "erc-dapo")}  # our plug-in
CONSOLE = DATA / "verl_erc-dapo_console.log"
with_tensorboard = pytest.mark.skipif(
    find_spec("tensorboard") is None, reason="tensorboard is not installed"
)


def test_a_stock_grpo_trainer_s_state():
    """Values are TRL's; an entry without a reward goes on with the rollout before it."""
    run = read_trl(TRL)
    logged = json.loads(TRL.read_text())["log_history"][:3]
    metrics = run.metrics
    assert [*metrics.columns[: len(COLUMNS)]] == [*COLUMNS]
    assert [*metrics["update"]] == [0, 1, 2]
    assert [*metrics["rollout"]] == [0, 0, 1]
    assert [*metrics["grad/norm"]] == [e["grad_norm"] for e in logged]
    assert [*metrics["drift/entropy_new"]] == [e["entropy"] for e in logged]
    bound = [e["clip_ratio/region_mean"] for e in logged]
    assert [*metrics["clip/ratio_bound_fraction"]] == bound
    assert max(bound) > 0
    first, third = logged[0], logged[2]
    assert [*metrics["reward/mean"]] == [first["reward"], first["reward"], third["reward"]]
    assert [*metrics["tokens"]] == [first["num_tokens"]] * 2 + [third["num_tokens"]]
    assert metrics["staleness"].isna().all()
    assert metrics["gate/dropped_fraction"].isna().all()
    assert run.names["clip/ratio_bound_fraction"] == "clip_ratio/region_mean"
    assert not metrics["diverged"].any()


def test_our_trainer_s_entries_keep_their_own_columns(tmp_path):
    """Rollout, staleness and our metrics are taken as logged, from a JSONL of log_history."""
    entries = [
        {
            "step": i + 1,
            "rollout": i // 2,
            "staleness": i % 2,
            "reward": 0.25,
            "num_tokens": 50.0,
            "grad_norm": 0.5,
            "entropy": 1.0,
            "drift/entropy_new": 1.5,
            "clip_ratio/region_mean": 0.5,
            "clip/ratio_bound_fraction": 0.125,
            "gate/dropped_fraction": 0.25,
            "drift/out_of_band_fraction": 0.375,
            "loss/surrogate": -0.1,
        }
        for i in range(4)
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(e) + "\n" for e in entries))
    metrics = read_log(path).metrics
    assert [*metrics["rollout"]] == [0, 0, 1, 1]
    assert [*metrics["staleness"]] == [0, 1, 0, 1]
    assert (metrics["drift/entropy_new"] == 1.5).all()
    assert (metrics["clip/ratio_bound_fraction"] == 0.125).all()
    assert (metrics["gate/dropped_fraction"] == 0.25).all()
    assert (metrics["loss/surrogate"] == -0.1).all()


@pytest.mark.parametrize("name", VERL)
def test_verl_s_file_logger(name):
    """A step is a rollout; our metrics lose verl's prefix; tokens add up the responses'."""
    run = read_verl(VERL[name])
    logged = [json.loads(line)["data"] for line in VERL[name].read_text().splitlines()]
    metrics = run.metrics
    assert [*metrics["rollout"]] == [*metrics["update"]] == [*range(len(logged))]
    assert [*metrics["grad/norm"]] == [e["actor/grad_norm"] for e in logged]
    assert [*metrics["reward/mean"]] == [e["critic/score/mean"] for e in logged]
    for column in ("gate/dropped_fraction", "drift/out_of_band_fraction", "drift/entropy_new"):
        assert [*metrics[column]] == [e[f"actor/{column}"] for e in logged]
    rows = 64  # 16 prompts, 4 responses each
    expected = pd.Series([rows * e["response_length/mean"] for e in logged]).cumsum()
    assert [*metrics["tokens"]] == pytest.approx([*expected])
    assert (metrics["gate/dropped_fraction"] > 0).any() == (name == "erc-dapo")


def test_verl_s_console_says_what_its_file_says():
    """The same run, as printed through Ray, to the digits that are printed."""
    printed, filed = read_log(CONSOLE).metrics, read_log(VERL["erc-dapo"]).metrics
    pd.testing.assert_frame_equal(printed, filed.head(len(printed)), rtol=1e-6)


@with_tensorboard
@pytest.mark.parametrize("kind", ["trl", "verl"])
def test_tensorboard_says_what_the_log_says(tmp_path, kind):
    """The same scalars through event files, to float32."""
    path = TRL if kind == "trl" else VERL["erc-dapo"]
    write_events(tmp_path, path)
    expected = read_log(path)
    for found in (read_log(tmp_path), read_tensorboard(next(tmp_path.iterdir()))):
        pd.testing.assert_frame_equal(found.metrics, expected.metrics, rtol=1e-5)
        assert found.environment == kind


def write_events(folder, path):
    """As transformers' callback and verl's adapter write them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.utils.tensorboard import SummaryWriter
    writer = SummaryWriter(str(folder))
    if path == TRL:
        for entry in json.loads(path.read_text())["log_history"][:3]:
            step = entry.pop("step")
            for name, value in entry.items():
                writer.add_scalar(f"train/{name}", value, step)
    else:
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            for name, value in entry["data"].items():
                writer.add_scalar(name, value, entry["step"])
    writer.close()


def test_figures_2_to_4_are_drawn_and_the_others_say_why_not(tmp_path):
    """By the code that draws toy runs, from a folder that Results.open reads."""
    runs = {(name, seed): read_log(path) for name, path in VERL.items() for seed in (0, 1)}
    results = write_records(
        tmp_path / "out", runs, experiment="llm", settings={"band": {"low": 0.05, "high": 0.05}}
    )
    opened = Results.open(tmp_path / "out")
    assert {*REQUIRED["metrics"]} <= {*opened.read("metrics").columns}
    assert {*REQUIRED["runs"]} <= {*opened.read("runs").columns}
    assert len(opened.read("tokens")) == 0
    written = {path.name for path in api.figures(results, tmp_path / "figures", data=True)}
    drawn = {n.removesuffix(".png") for n in written if n.endswith(".png")}
    wanted = {"fig2_entropy_gradient", "fig3_learning_curves", "fig4_clip_fractions"}
    assert drawn == wanted
    index = json.loads((tmp_path / "figures" / "figures.json").read_text())
    assert all(index["not_drawn"].values())
    captions = {figure["name"]: figure["caption"] for figure in index["figures"]}
    assert "Last rollout, llm" in captions["fig3_learning_curves"]
    assert "evaluation" not in captions["fig3_learning_curves"]
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert str(DATA) not in text, "no machine path in records"


def test_figures_of_a_long_log_without_tokens_and_staleness(tmp_path):
    """What was not logged leaves a figure out; it stops none."""
    path = tmp_path / "log.jsonl"
    lines = (
        {"step": i, "data": {"actor/grad_norm": 1.0, "actor/entropy": 2.0 / i}}
        for i in range(1, 200)
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = write_records(tmp_path / "out", {("dapo", 0): read_log(path)}, experiment="long")
    api.figures(results, tmp_path / "figures")
    index = json.loads((tmp_path / "figures" / "figures.json").read_text())
    assert [figure["name"] for figure in index["figures"]] == ["fig2_entropy_gradient"]
    assert "tokens" in index["not_drawn"]["fig3_learning_curves"]
    assert "clip/ratio_bound_fraction" in index["not_drawn"]["fig4_clip_fractions"]


def test_a_diverged_run_is_kept_and_marked(tmp_path):
    """A gradient norm that is not finite marks it from there on; JSON writes it as NaN or null."""
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"step": 1, "reward": 0.5, "grad_norm": 1.0}\n'
        '{"step": 2, "reward": 0.5, "grad_norm": NaN}\n'
        '{"step": 3, "reward": 0.5, "grad_norm": null}\n'
        '{"step": 4, "reward": 0.5, "grad_norm": 1.0}\n'
    )
    run = read_log(path)
    assert [*run.metrics["diverged"]] == [False, True, True, True]
    results = write_records(tmp_path / "out", {("dapo", 0): run}, experiment="llm")
    assert [*results.read("runs")["diverged"]] == [True]


def test_a_resumed_run_counts_its_repeated_steps_once(tmp_path):
    """The later entry of a step is the one that the run went on from."""
    path = tmp_path / "log.jsonl"
    rows = [(1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25), (3, 0.35)]
    path.write_text(
        "".join(json.dumps({"step": s, "reward": r, "grad_norm": 1.0}) + "\n" for s, r in rows)
    )
    assert [*read_log(path).metrics["reward/mean"]] == [0.1, 0.25, 0.35]


VERL_LINE = '{"step": 1, "data": {"actor/grad_norm": 1.0}}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", ": empty"),
        ("a.json", "  \n", ": empty"),
        ("a.json", b"\x80\x00\xff", "not text"),
        ("a.json", "hello", "no log that is known"),
        ("a.json", "[1, 2]", "no log that is known"),
        ("a.json", '{"log_history": [{"step": 1,', r"a.json:1: no JSON"),
        ("a.json", '{"log_history": 3}', "no log_history"),
        ("a.json", '{"log_history": [3]}', r"log_history\[0\]: int"),
        ("a.json", '{"log_history": []}', "no known metric"),
        ("a.json", '{"log_history": [{"step": 1, "loss": 1}]}', "no known metric"),
        ("a.json", '{"log_history": [{"step": "1", "reward": 1}]}', r"step is 1, must be a whole"),
        ("a.json", '{"log_history": [{"step": NaN, "reward": 1}]}', "step is nan"),
        ("a.json", '{"log_history": [{"step": 0, "reward": 1}]}', "step 0, must be 1"),
        (
            "a.json",
            '{"log_history": [{"step": 1, "reward": "x"}]}',
            "reward is 'x', must be a number",
        ),
        ("a.json", '{"log_history": [{"step": 1, "reward": true}]}', "reward is True"),
        ("a.json", '{"log_history": [{"step": 1, "num_tokens": NaN}]}', "num_tokens is nan"),
        (
            "a.json",
            '{"log_history": [{"step": 1, "clip_ratio": 2}]}',
            "clip_ratio is 2.0, must lie",
        ),
        ("a.jsonl", VERL_LINE + '{"step": 2, "da', r"a.jsonl:2: no JSON"),
        ("a.jsonl", VERL_LINE + "3\n", r"a.jsonl:2: int, must be an object"),
        ("a.jsonl", VERL_LINE + '{"step": 2}\n', r"a.jsonl:2: no step and data"),
        ("a.jsonl", VERL_LINE + '{"step": 2, "data": 1}\n', r"a.jsonl:2: int"),
        ("a.jsonl", '{"step": 1, "data": {"actor/grad_norm": "1"}}\n', "grad_norm is '1'"),
        ("a.jsonl", '{"step": 1, "data": {"epoch": 1}}\n', "no known metric"),
        ("a.log", "step:1 - actor/grad_norm:x\n", r"a.log:1: actor/grad_norm is 'x'"),
        ("a.log", "step:1 - actor/grad_norm:1.0 - foo\n", "'foo' is not name:value"),
    ],
)
def test_a_bad_log_is_one_line_that_says_where(tmp_path, name, content, message):
    """InputError with path, line and what is wrong; nothing else."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as raised:
        read_log(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_what_is_not_there_is_refused(tmp_path):
    """A missing file, a folder without a log, and a log without an experiment's name."""
    with pytest.raises(InputError, match="cannot be read"):
        read_log(tmp_path / "missing.json")
    with pytest.raises(InputError, match="neither"):
        read_log(tmp_path)
    with pytest.raises(InputError, match="no event file"):
        read_tensorboard(tmp_path)
    run = read_log(TRL)
    for runs, name, more in (
        ({}, "llm", {}),
        ({("", 0): run}, "llm", {}),
        ({("dapo", -1): run}, "llm", {}),
        ({("dapo", 0): run}, " ", {}),
        ({("dapo", 0): run}, "llm", {"x": math.nan}),
        ({("dapo", 0): run}, "llm", {"x": object()}),
    ):
        with pytest.raises(InputError):
            write_records(tmp_path / "out", runs, experiment=name, settings=more)
    assert not (tmp_path / "out").exists()


@with_tensorboard
def test_damaged_events_are_refused(tmp_path):
    """Cut off, overwritten or of another kind."""
    write_events(tmp_path / "good", TRL)
    good = next((tmp_path / "good").iterdir()).read_bytes()
    for number, content in enumerate((b"", b"hello", good[:20], b"\xff" * 200)):
        path = tmp_path / f"events.out.tfevents.{number}"
        path.write_bytes(content)
        with pytest.raises(InputError) as raised:
            read_log(path)
        assert "\n" not in str(raised.value)


def test_tensorboard_missing_names_the_command(tmp_path, monkeypatch):
    """Where tensorboard is not installed, the message says how to install it."""
    monkeypatch.setitem(__import__("sys").modules, "tensorboard.backend.event_processing", None)
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=re.escape("pip install tensorboard")):
        read_log(path)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    which=st.sampled_from([TRL, VERL["erc-dapo"], CONSOLE]),
    edits=st.lists(st.tuples(st.integers(0, 2**20), st.binary(max_size=6)), max_size=4),
    keep=st.floats(0, 1),
)
@example(which=TRL, edits=[(0, b"[" * 6)], keep=1.0)
def test_mutated_logs_are_read_or_refused(tmp_path, which, edits, keep):
    """Overwritten and cut-off bytes give a run or an InputError, and nothing else."""
    content = bytearray(which.read_bytes())
    for place, new in edits:
        at = place % len(content)
        content[at : at + len(new)] = new
    path = tmp_path / which.name
    path.write_bytes(content[: math.ceil(keep * len(content))])
    assert_read_or_refused(path)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["step", "data", "reward", "actor/grad_norm", "log_history", "tokens"]
                ),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_json_is_read_or_refused(tmp_path, value):
    """Whatever types stand where numbers should."""
    path = tmp_path / "log.json"
    path.write_text(json.dumps(value))
    assert_read_or_refused(path)


def assert_read_or_refused(path):
    """A run with rows, or one line that says what is wrong; any other exception fails the test."""
    try:
        found = len(read_log(path).metrics)
    except InputError as error:
        refusal = str(error)
    else:
        refusal = "" if found else "no rows\n"
    assert "\n" not in refusal


def test_the_command_imports_and_draws(tmp_path, capsys):
    """`erc-bench llm import` in one call; a run given twice or in another form is refused."""
    logs = tuple(f"{name}:0={path}" for name, path in VERL.items())
    Import(logs=logs, out=tmp_path / "out").run()
    assert (tmp_path / "out" / "figures" / "fig4_clip_fractions.png").exists()
    assert "fig2_entropy_gradient.png" in capsys.readouterr().out
    for bad in (("dapo=x",), ("dapo:x=y",), ("dapo:0",), (":0=x",), (logs[0], logs[0])):
        with pytest.raises(InputError, match="logs:"):
            Import(logs=bad, out=tmp_path / "other").run()
    assert not (tmp_path / "other").exists()
