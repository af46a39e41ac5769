import ast
import pathlib
import subprocess
import sys

import pytest

import erc_bench

PACKAGE = pathlib.Path(erc_bench.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imported_by(statement: str) -> set[str]:
    """Modules loaded after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_command_lines_help_waits_for_nothing():
    """Neither the package nor its command line loads torch, tables, plots or an adapter."""
    loaded = imported_by("import erc_bench, erc_bench.cli")
    assert not loaded & {
        "torch",
        "numpy",
        "pandas",
        "scipy",
        "matplotlib",
        "seaborn",
        "jinja2",
        "stable_baselines3",
        "trl",
        "verl",
        "ray",
    }


def test_a_check_of_a_recipe_waits_for_no_compiler_and_no_tables():
    """Two seconds of imports that it does not need: torch's compiler, statistics, tables and plots."""
    loaded = imported_by("import erc_bench.cli; erc_bench.cli.main(['check', 'dapo'])")
    assert "torch" in loaded
    assert not loaded & {"torch._dynamo", "scipy.stats", "pandas", "matplotlib"}


def test_an_interval_over_seeds_waits_for_no_scipy_stats():
    """They are one special function; the half second of scipy.stats is for the tests of claims."""
    loaded = imported_by("from erc_bench.analysis import summary")
    assert "pandas" in loaded
    assert "scipy.stats" not in loaded


def test_a_public_name_is_never_hidden_by_a_module_of_that_name():
    """Importing ``erc_bench.x`` sets the attribute ``x``, so no public name may be that of a module."""
    rooms = {p.stem for p in PACKAGE.iterdir()}
    assert not rooms & set(erc_bench.__all__)
    assert set(erc_bench.__all__) < set(dir(erc_bench))
    for name in erc_bench.__all__:
        assert callable(getattr(erc_bench, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        erc_bench.nothing  # noqa: B018


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_prints_but_the_command_line(path):
    """A library returns or raises: only ``cli.py`` and its groups of commands write to the terminal."""
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "print" not in called or path.name == "cli.py" or path.name.startswith("commands_")


@pytest.mark.parametrize("path", sorted((PACKAGE / "training").glob("*.py")), ids=lambda p: p.name)
def test_the_trainer_names_no_objective(path):
    """No recipe's name occurs in the trainer's code, which treats an objective as an object."""
    from erc_bench.objectives import RECIPES  # noqa: PLC0415

    strings = {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not strings & set(RECIPES)


def test_listing_what_there_is_waits_for_no_torch_and_no_scipy():
    """``erc-bench list`` reads recipes from their source, and lists what the registry holds."""
    from erc_bench.objectives import RECIPES  # noqa: PLC0415
    from erc_bench.presentation import listing  # noqa: PLC0415

    loaded = imported_by("import erc_bench.cli; erc_bench.cli.main(['list'])")
    assert "rich" in loaded
    assert not loaded & {"torch", "scipy", "pandas", "matplotlib"}
    ours = [r for r in RECIPES.values() if r.build.__module__.startswith("erc_bench.")]
    assert list(listing.written()) == [
        (
            r.name,
            r.equation,
            r.advantage,
            ", ".join(f"{k}={v}" for k, v in r.parameters.items()),
            r.source,
        )
        for r in ours
    ]
