import sys
import warnings
from importlib import metadata

import gymnasium as gym
import pytest
from small_runs import options

from erc_bench import plugins
from erc_bench.cli import main
from erc_bench.core.errors import InputError
from erc_bench.objectives import RECIPES, Objective, PPOClip, Recipe, make, recipe
from erc_bench.objectives.registry import load_plugins
from erc_bench.plugins import PluginWarning
from erc_bench.presentation import listing
from erc_bench.studies.planning import training_environment

CODE = '''
import gymnasium as gym
from erc_bench.objectives import Objective, PPOClip, Recipe

def narrow(clip: float = 0.05) -> Objective:
    """A narrow clip.

    min(r A, clip(r, 1 - clip, 1 + clip) A)
    """
    return Objective(PPOClip(clip, clip))

wide = Recipe("other", lambda: Objective(PPOClip(0.5, 0.5)), "gae", False, False, "here", "r A")

def no_objective():
    return 3

def environments():
    spec = gym.spec("erc/NullReward-v0")
    gym.register("plugged/Null-v0", entry_point=spec.entry_point, kwargs=spec.kwargs)
    gym.register("plugged/Bare-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv")

def crash():
    raise RuntimeError("out of order")

def shadow():
    gym.register("erc/NullReward-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv")

number = 3
'''

ENTRY_POINTS = """
[erc_bench.objectives]
narrow = plugged_code:narrow
wide = plugged_code:wide
dapo = plugged_code:narrow
none = plugged_code:no_objective
number = plugged_code:number
missing = plugged_code:nothing
unfound = no_module_of_this_name:x

[erc_bench.environments]
some = plugged_code:environments
crash = plugged_code:crash
shadow = plugged_code:shadow
"""


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    """A distribution with good and bad entry points, which is gone after the test."""
    info = tmp_path / "plugged_pack-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged-pack\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "plugged_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    before, registry = dict(RECIPES), dict(gym.registry)
    caches = (load_plugins, plugins.load_environments)
    for cached in caches:
        cached.cache_clear()
    yield
    for kept, now in ((before, RECIPES), (registry, gym.registry)):
        now.clear()
        now.update(kept)
    for cached in caches:
        cached.cache_clear()
    sys.modules.pop("plugged_code", None)
    assert metadata.entry_points(group=plugins.OBJECTIVES) is not None


def collected():
    return warnings.catch_warnings(record=True, action="always")


def test_objectives_are_found_by_name(plugged):
    """Builders and recipes of plug-ins can be used like any recipe, with their parameters."""
    with collected() as seen:
        assert make("narrow", clip=0.1) == Objective(PPOClip(0.1, 0.1))
    assert recipe("narrow").description == "A narrow clip."
    assert recipe("narrow").equation == "min(r A, clip(r, 1 - clip, 1 + clip) A)"
    assert recipe("narrow").parameters == {"clip": 0.05}
    assert recipe("wide").advantage == "gae"
    assert recipe("wide").name == "wide"
    assert isinstance(recipe("wide"), Recipe)
    told = {str(w.message).split("'")[1]: str(w.message) for w in seen}
    assert set(told) == {"dapo", "number", "missing", "unfound"}
    assert all("of plugged-pack 1.2 is left out" in text for text in told.values())
    assert all(w.category is PluginWarning for w in seen)
    assert "the name is taken" in told["dapo"]
    assert "neither a Recipe nor a function" in told["number"]
    assert "no_module_of_this_name" in told["unfound"]
    assert make("dapo").surrogate == PPOClip(0.2, 0.28)


def test_a_builder_that_makes_no_objective_is_bad_input(plugged):
    """The error names its distribution, and is raised when the name is used."""
    with collected(), pytest.raises(InputError, match="none of plugged-pack made a int"):
        make("none")


def test_known_names_need_no_plugin(plugged):
    """Plug-ins are not even looked for."""
    with warnings.catch_warnings(action="error"):
        assert make("dapo")
        assert training_environment("TokenForks", {})


def test_environments_are_found_by_name(plugged):
    """Plug-ins add new ids only: a built-in one that is registered again stays what it was."""
    spec = gym.registry["erc/NullReward-v0"]
    with collected() as seen:
        made = training_environment("plugged/Null-v0", {})
        assert made.get_wrapper_attr("dynamics").horizon > 0
        with pytest.raises(InputError, match="has no `dynamics`"):
            training_environment("plugged/Bare-v0", {})
        with pytest.raises(InputError, match="plugged/Null-v0"):
            training_environment("plugged/Nothing-v0", {})
    assert gym.registry["erc/NullReward-v0"] is spec
    told = [str(w.message) for w in seen if w.category is PluginWarning]
    assert any("'crash'" in t and "RuntimeError: out of order" in t for t in told)
    assert any("'shadow'" in t and "erc/NullReward-v0 has a name that is taken" in t for t in told)


def test_they_are_listed_and_can_be_trained(plugged, capfd, tmp_path):
    """``erc-bench list`` shows them, and a plug-in's arm is trained on a plug-in's environment."""
    with collected():
        main(["list", "objectives"])
        main(["list", "environments"])
        out = capfd.readouterr().out
        for text in ("narrow", "plugged-pack", "plugged/Null-v0", "plugged/Bare-v0"):
            assert text in out
        what = [
            "--environment",
            "plugged/Null-v0",
            "--objectives",
            "narrow",
            "dapo",
            "--seeds",
            "2",
        ]
        how = ["--workers", "1", "--no-report", "--out", str(tmp_path / "out")]
        main(["run", *what, *how, *options(rollouts=2)])
    assert "narrow" in capfd.readouterr().out


def test_without_plugins_there_is_nothing_to_load():
    """Without entry points there are no warnings."""
    for cached in (load_plugins, plugins.load_environments):
        cached.cache_clear()
    assert load_plugins() == ()
    assert plugins.load_environments() == ()
    assert listing.environments().row_count == len(
        [i for i in gym.registry if i.startswith("erc/")]
    )
