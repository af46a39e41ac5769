import re

import pandas as pd
import pytest
from small_runs import parquet

from erc_bench.analysis import out_of_band_to_bound
from erc_bench.core.errors import InputError
from erc_bench.studies import execute, plan, total_rollouts
from erc_bench.studies.records import KEYS, REQUIRED, Results

TABLES = ("runs", "metrics", "tokens")


def assert_same_records(a: Results, b: Results) -> None:
    for table in TABLES:
        pd.testing.assert_frame_equal(a.read(table), b.read(table), check_exact=True)


@pytest.fixture
def whole(small, tmp_path):
    """Uninterrupted records."""
    return lambda **kwargs: execute(small(**kwargs), tmp_path / "whole")


def test_the_records_name_every_run_and_update(whole):
    """All tables have the keys and the required columns and rows, and a run's rows are contiguous."""
    results = whole()
    runs, metrics, tokens = (results.read(t) for t in TABLES)
    for name, frame in zip(TABLES, (runs, metrics, tokens), strict=True):
        assert set(REQUIRED[name]) <= set(frame.columns)
    assert len(runs) == 4
    assert len(metrics) == 4 * 3 * 2
    assert (
        len(tokens) == 4 * 4 * 2
    )  # tokens of one update: the next one that is sampled is the fifth
    assert not runs.duplicated(list(KEYS)).any()
    assert not metrics.duplicated([*KEYS, "update"]).any()
    assert metrics["update"].tolist() == list(range(6)) * 4
    assert metrics["staleness"].tolist() == [0, 1] * 12
    assert tokens["update"].tolist() == [0] * 32
    assert tokens["staleness"].tolist() == [0] * 32
    last = metrics.groupby(list(KEYS), sort=False)["tokens"].last().reset_index(drop=True)
    assert last.tolist() == runs["tokens"].tolist()
    assert runs["reward/optimal"].eq(1.0).all()
    fresh = tokens[tokens["staleness"] == 0]
    assert fresh["log_ratio"].abs().max() < 1e-5
    assert not fresh["gate_dropped"].any()


def test_the_folder_holds_nothing_but_records(whole):
    """Checkpoints, progress notes and temporary files are gone when the work is done."""
    results = whole()
    assert {p.name for p in results.path.iterdir()} == {"manifest.json", *TABLES}
    assert all(p.suffix == ".parquet" for t in TABLES for p in (results.path / t).iterdir())


def test_no_sampled_tokens_is_an_empty_table(small, tmp_path):
    """``token_samples=0`` keeps the table readable and the other tables as they were."""
    results = execute(small(settings={"token_samples": 0}), tmp_path / "none")
    assert results.read("tokens").empty
    assert len(results.read("metrics")) == 24


@pytest.mark.usefixtures("one_seed_per_part")
def test_parts_change_neither_rows_nor_numbers_much(small, tmp_path, monkeypatch):
    """A run's records do not depend on which seeds share its population (1e-5)."""
    parted = execute(small(), tmp_path / "parted")
    assert len(parquet(parted.path)) == 6
    monkeypatch.undo()
    joined = execute(small(), tmp_path / "joined")
    assert len(parquet(joined.path)) == 3
    order = [*KEYS, "update"]
    a, b = (r.read("metrics").sort_values(order, ignore_index=True) for r in (parted, joined))
    pd.testing.assert_frame_equal(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("one_seed_per_part")
def test_worker_processes_change_nothing(small, tmp_path):
    """Two workers write byte-identical files, and their progress adds up."""
    one = execute(small(), tmp_path / "one", workers=1)
    advances = []
    two = execute(small(), tmp_path / "two", workers=2, on_progress=lambda _, n: advances.append(n))
    assert parquet(one.path) == parquet(two.path)
    assert sum(advances) == total_rollouts(small()) == 2 * 3
    assert {p.name for p in two.path.iterdir()} == {"manifest.json", *TABLES}


@pytest.mark.usefixtures("one_seed_per_part", "always_checkpoint")
@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 6, 7])
def test_resuming_gives_the_records_of_an_uninterrupted_run(small, whole, tmp_path, after):
    """A run that is interrupted between parts or inside one, and then resumed, has the same records."""
    folder, calls = tmp_path / "cut", 0

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(small(), folder, on_progress=interrupt)
    half = Results.open(folder)
    parts_done = after // 4  # a start and three rollouts each
    if parts_done:
        assert len(half.read("runs")) == 2 * parts_done
    else:
        with pytest.raises(InputError, match="no finished part"):
            half.read("runs")
    advances = []
    resumed = execute(small(), folder, resume=True, on_progress=lambda _, n: advances.append(n))
    assert sum(advances) == 6
    uninterrupted = whole()
    assert_same_records(resumed, uninterrupted)
    assert parquet(resumed.path) == parquet(uninterrupted.path)
    assert {p.name for p in folder.iterdir()} == {"manifest.json", *TABLES}


@pytest.mark.usefixtures("one_seed_per_part")
def test_a_part_whose_last_table_is_missing_is_done_again(small, whole, tmp_path):
    """If a process is killed between the tables of a part, the part is unfinished and is not read."""
    results = execute(small(), tmp_path / "cut")
    lost = sorted((results.path / "runs").iterdir())[0]
    lost.unlink()
    assert len(Results.open(results.path).read("metrics")) == 12
    resumed = execute(small(), results.path, resume=True)
    assert_same_records(resumed, whole())


def test_resuming_finished_work_does_nothing(small, whole):
    """When all parts are there, not a byte changes."""
    results = whole()
    before = {p: p.stat().st_mtime_ns for p in results.path.rglob("*")}
    execute(small(), results.path, resume=True)
    assert before == {p: p.stat().st_mtime_ns for p in results.path.rglob("*")}


@pytest.mark.usefixtures("always_checkpoint")
def test_a_damaged_checkpoint_is_refused_by_name(small, tmp_path):
    """Resuming neither starts over silently nor crashes."""
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(small(), tmp_path / "cut", on_progress=interrupt)
    (checkpoint,) = (tmp_path / "cut" / "checkpoints").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(InputError, match=f"resume: checkpoint .*{checkpoint.name}"):
        execute(small(), tmp_path / "cut", resume=True)


def test_execute_refuses_no_workers_before_it_touches_anything(small, tmp_path):
    """``workers`` is checked before the folder is made."""
    with pytest.raises(InputError, match=r"^workers: 0 is not allowed"):
        execute(small(), tmp_path / "out", workers=0)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_ercs_band_excludes_what_ppos_clip_never_sees(tmp_path):
    """With 8 updates per rollout, the out-of-band share is at least 20 times the clip-bound share."""
    work = plan(
        ["forking_tokens"],
        tier="smoke",
        seeds=10,
        objectives=["dapo", "erc-dapo"],
        settings={"rollouts": 6},
    )
    assert work.experiments[0].config.updates_per_rollout == 8
    found = out_of_band_to_bound(execute(work, tmp_path / "out"), "forking_tokens")
    assert (found.base, found.other) == ("dapo", "erc-dapo")
    assert len(found.per_seed) == 10
    assert found.out_of_band.estimate >= 20 * found.bound.estimate
    assert found.lower_bound >= 20
    assert found.out_of_band.low > 0.01


def test_a_grid_of_hyperparameters_equals_its_points_alone(small, tmp_path):
    """Runs with other rates or bands share a part, with other stalenesses not; each is as if alone."""
    grid = {
        "minibatches": [1, 4],
        "epochs": [1, 2],
        "learning_rate": [1e-3, 1e-2],
        "band": [0.01, 0.5],
    }
    swept = small(objectives=["erc-dapo"], seeds=1, grid=grid)
    (experiment,) = swept.experiments
    assert [len(part.runs) for part in experiment.parts] == [4, 4, 4, 4]
    results = execute(swept, tmp_path / "grid")
    runs, metrics = results.read("runs"), results.read("metrics")
    assert len(runs) == 16
    for number, run in runs.iterrows():
        shape = {"minibatches": int(run["hyper/minibatches"]), "epochs": int(run["hyper/epochs"])}
        rate, band = run["hyper/learning_rate"], run["hyper/band_low"]
        alone = execute(
            small(
                objectives=[f"erc-dapo:band={band}"],
                seeds=1,
                settings={"learning_rate": rate, **shape},
            ),
            tmp_path / str(number),
        )
        mine = metrics[metrics["objective"] == run["objective"]].reset_index(drop=True)
        assert len(mine) == 3 * shape["minibatches"] * shape["epochs"]
        assert mine["staleness"].max() == shape["minibatches"] * shape["epochs"] - 1
        theirs = alone.read("metrics")
        pd.testing.assert_frame_equal(
            mine.drop(columns="objective"), theirs.drop(columns="objective"), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("axis", "values", "message"),
    [
        ("minibatches", [3], "minibatches: 3 is not allowed; must be a divisor of prompts = 4"),
        ("minibatches", [2.5], "minibatches: 2.5 is not allowed; must be an integer"),
        ("epochs", [0], "epochs: 0 is not allowed; must be at least 1"),
        (
            "learning_rate",
            [-1.0],
            "learning_rate: -1.0 is not allowed; must be at least 0 and finite",
        ),
        ("hidden", [8], "grid: 'hidden' is no hyperparameter of these arms"),
    ],
)
def test_a_bad_point_of_a_grid_is_refused_before_any_work(small, axis, values, message):
    """The message names the field, the value and what is allowed."""
    with pytest.raises(InputError, match=re.escape(message)):
        small(grid={axis: values})
