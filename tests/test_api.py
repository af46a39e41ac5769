import math

import pytest
from small_runs import SETTINGS

import erc_bench
from erc_bench import InputError, Results, TrainConfig, api
from erc_bench.studies import EXPERIMENTS

SMALL = {**SETTINGS, "rollouts": 2, "warm_start_steps": 0}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return api.run(
        "forking_tokens",
        out=tmp_path_factory.mktemp("api") / "out",
        objectives=["dapo", "erc-dapo"],
        seeds=2,
        settings=SMALL,
        workers=1,
        progress=False,
    )


def test_the_package_offers_what_it_names():
    """Everything in ``__all__`` exists and the version is that of the distribution."""
    assert all(hasattr(erc_bench, name) for name in erc_bench.__all__)
    assert erc_bench.__version__[0].isdigit()


def test_run_returns_open_results(results):
    """They are the records of what was asked for, with the whole configuration."""
    assert isinstance(results, Results)
    entry = results.config["experiments"]["forking_tokens"]
    assert entry["train"]["hidden"] == 16
    assert set(entry["train"]) == set(TrainConfig.names())
    assert list(entry["objectives"]) == ["dapo", "erc-dapo"]


def test_summary_takes_results_or_a_path(results):
    """Both give the same table, with one row per arm."""
    rows = api.summary(results)
    assert rows["objective"].tolist() == ["dapo", "erc-dapo"]
    assert rows["seeds"].tolist() == [2, 2]
    assert api.summary(str(results.path)).equals(rows)
    assert rows["final_reward/estimate"].map(math.isfinite).all()


def test_run_takes_experiments_of_ones_own_and_environments(tmp_path):
    """Experiments may be objects as well as names, and an environment may stand alone."""
    options = {
        "objectives": ["grpo"],
        "seeds": 1,
        "settings": SMALL,
        "workers": 1,
        "progress": False,
    }
    mine = EXPERIMENTS["entropy_null"]
    assert (
        api.run(mine, out=tmp_path / "a", **options).read("runs")["experiment"].eq(mine.name).all()
    )
    custom = api.run(out=tmp_path / "b", environment="DriftBandit", **options)
    assert custom.read("runs")["environment"].eq("erc/DriftBandit-v0").all()


def test_progress_goes_to_standard_error_and_can_be_silenced(tmp_path, capfd):
    """The bar never touches standard output, and ``progress=False`` prints nothing at all."""
    options = {"objectives": ["grpo"], "seeds": 1, "settings": SMALL, "workers": 1}
    api.run("forking_tokens", out=tmp_path / "a", **options)
    out, err = capfd.readouterr()
    assert out == ""
    assert "rollouts" in err
    api.run("forking_tokens", out=tmp_path / "b", progress=False, **options)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "asked",
    [
        {"seeds": 0},
        {"workers": 0},
        {"band": 0.0},
        {"objectives": ["x"]},
        {"settings": {"x": 1}},
        {"settings": {"rollouts": "2"}},
        {"environment": "x"},
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, asked, capfd):
    """An InputError is raised, no folder is made, and nothing is printed."""
    names = () if "environment" in asked else ("forking_tokens",)
    with pytest.raises(InputError):
        api.run(*names, out=tmp_path / "out", **{"workers": 1, **asked})
    assert not any(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
