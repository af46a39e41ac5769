import json

import pandas as pd
import pytest
from matplotlib.figure import Figure
from plots.gallery import make_gallery

from erc_bench import api
from erc_bench.analysis import per_seed
from erc_bench.cli import main
from erc_bench.core.errors import InputError
from erc_bench.presentation.plots import read
from erc_bench.presentation.reporting import open_data, write_data, write_figures
from erc_bench.presentation.reporting.files import CSV_ROWS, figure_bytes, settle, table_bytes
from erc_bench.studies.records import Results


def everything(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A real run of the smoke tier, a grid of two points among it."""
    out = tmp_path_factory.mktemp("records") / "r"
    return api.run(
        "unsampled_shift",
        "forking_tokens",
        out=out,
        tier="smoke",
        seeds=2,
        workers=1,
        objectives=("ppo-clip", "dapo", "erc-dapo"),
        progress=False,
    )


@pytest.fixture(scope="module")
def gallery(whole, tmp_path_factory):
    out = tmp_path_factory.mktemp("figures") / "figures"
    write_figures(whole, out, data=True)
    return out


def test_figures_of_the_data_are_those_of_the_whole_records_byte_for_byte(gallery, tmp_path):
    write_figures(open_data(gallery / "data"), tmp_path / "again", data=True)
    first, again = everything(gallery), everything(tmp_path / "again")
    assert set(first) == set(again)
    assert sum(p.suffix == ".png" for p in first) >= 5
    for path, content in first.items():
        assert again[path] == content, path


def test_the_data_is_small_and_its_runs_are_whole(whole, gallery):
    data = open_data(gallery / "data")
    pd.testing.assert_frame_equal(data.read("runs"), whole.read("runs"))
    size = sum(len(c) for c in everything(data.path).values())
    assert size < 0.3 * sum(len(c) for c in everything(whole.path).values())
    tokens = data.read("tokens")
    assert tokens["probs/old"].notna().sum() == 1
    assert (tokens["staleness"] > 0).all()


def test_the_statistics_of_claims_on_tokens_can_be_made_from_the_data(whole, gallery):
    """C2 and C5 need these, for every stale token of dapo and its gated arms; entropy of the latter."""
    arms = ["dapo", "erc-dapo"]
    full, data = whole.read("tokens"), open_data(gallery / "data").read("tokens")
    full = full[(full["staleness"] > 0) & full["objective"].isin(arms)].reset_index(drop=True)
    data = data[data["objective"].isin(arms)].reset_index(drop=True)
    assert len(data)
    for name in ("objective", "seed", "staleness", "gate_dropped"):
        assert (data[name].astype(full[name].dtype) == full[name]).all(), name
    for name in ("log_ratio", "log_entropy_ratio", "kl_exact"):
        error = (data[name] - full[name]).abs()
        assert (error <= 2.0**-14 * full[name].abs() + 1e-12).all(), name
    gated = data["objective"] == "erc-dapo"
    assert data.loc[gated, "entropy/old"].notna().all()


def test_the_command_remakes_the_gallery_in_its_place(gallery, capfd):
    before = everything(gallery)
    main(["figures", "--from", str(gallery / "data")])
    assert str(gallery / "figures.json") in capfd.readouterr().out
    assert everything(gallery) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give either a results folder or --from"),
        (["{whole}", "--from", "{data}"], "give either a results folder or --from"),
        (["--from", "{whole}"], "whole records"),
        (["--from", "{data}", "--data"], "is the folder read from"),
        (["--from", "{data}/runs"], "no manifest.json"),
        (["{whole}", "--out", "{whole}/..", "--data"], "holds something else"),
    ],
)
def test_what_cannot_be_meant_is_refused(whole, gallery, tmp_path, arguments, told, capfd):
    (whole.path.parent / "data").mkdir(exist_ok=True)
    (whole.path.parent / "data" / "mine.txt").write_text("mine")
    before = everything(gallery)
    paths = {"whole": whole.path, "data": gallery / "data"}
    with pytest.raises(SystemExit) as stop:
        main(["figures", *(a.format(**paths) for a in arguments)])
    assert stop.value.code == 2
    assert told in capfd.readouterr().err
    assert everything(gallery) == before


def test_data_over_older_data_replaces_it_and_over_a_file_is_refused(whole, gallery, tmp_path):
    frames = read(whole)
    for _ in range(2):
        write_data(whole, frames, tmp_path / "data")
    assert everything(tmp_path / "data") == everything(gallery / "data")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        write_data(whole, frames, tmp_path / "file")


def test_all_15_experiments_survive_the_way_through_the_data(tmp_path):
    whole = make_gallery(tmp_path / "r", seeds=2, tokens=30)
    frames = read(whole)
    write_data(whole, frames, tmp_path / "data")
    data = open_data(tmp_path / "data")
    assert isinstance(data, Results)
    again = read(data)
    for table in ("runs", "metrics", "tokens"):
        pd.testing.assert_frame_equal(getattr(again, table), getattr(frames, table))
    assert len(per_seed(data)) == len(frames.runs)


def test_places_that_differ_in_their_last_digits_give_the_same_bytes():
    """The layout's solver is not reproducible from process to process."""
    drawn = []
    for shift in (0.0, 3e-13):
        figure = Figure()
        upper, lower = figure.subfigures(2, 1)
        upper.add_axes((0.1 + shift, 0.2, 0.3, 0.4)).plot([0, 1])
        points = lower.bbox_relative.get_points() + shift
        lower.bbox_relative.set_points(points)
        lower.add_axes((0.1, 0.2, 0.3, 0.4)).plot([1, 0])
        settle(figure)
        drawn.append(figure_bytes(figure, "svg"))
    assert drawn[0] == drawn[1]


def test_long_tables_are_parquet_and_short_ones_six_digits_of_csv():
    kind, content = table_bytes(pd.DataFrame({"x": [1 / 3, 2e-7 / 3]}))
    assert (kind, content) == ("csv", b"x\n0.333333\n6.66667e-08\n")
    kind, content = table_bytes(pd.DataFrame({"x": [1 / 3] * (CSV_ROWS + 1)}))
    assert kind == "parquet"
    assert content == table_bytes(pd.DataFrame({"x": [1 / 3] * (CSV_ROWS + 1)}))[1]


def test_the_index_names_the_files_that_are_there(gallery):
    index = json.loads((gallery / "figures.json").read_text())
    for figure in index["figures"]:
        for file in figure["files"]:
            assert (gallery / file).is_file()
