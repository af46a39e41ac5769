"""Tables of what is registered, for ``erc-bench list``."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.resources import files
from typing import get_args

import gymnasium as gym
from rich.table import Table
from rich.text import Text

import erc_envs
from erc_bench.core import naming
from erc_bench.plugins import OBJECTIVES, load_environments
from erc_bench.studies import EXPERIMENTS
from erc_bench.training import TrainConfig

__all__ = ["TABLES", "written"]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def experiments() -> Table:
    """Registered experiments and their questions."""
    table = _table("Experiments", "name", "environment", "seeds (smoke/quick/full)", "question")
    for e in EXPERIMENTS.values():
        seeds = "/".join(str(n) for n in e.seeds.values())
        table.add_row(e.name, e.environment, seeds, Text(e.question))
    return table


def objectives() -> Table:
    """Registered recipes, their equations and parameters."""
    table = _table("Objectives", "name", "objective", "advantage", "parameters", "source")
    plugged = bool(metadata.entry_points(group=OBJECTIVES))
    for name, equation, advantage, parameters, source in _imported() if plugged else written():
        table.add_row(name, Text(equation), advantage, parameters, Text(source))
    table.caption_justify = "left"
    table.caption = (
        "Others are made of names: a gate before any recipe, as in erc-cispo or dppo-tv-gppo, and placebo- "
        "before any with a gate, as in placebo-erc-cispo: its control, which drops as many tokens at random."
    )
    return table


def _imported() -> Iterator[tuple[str, ...]]:
    """The rows of every recipe, including those of plug-ins."""
    from erc_bench.objectives import RECIPES  # noqa: PLC0415
    from erc_bench.objectives.registry import load_plugins  # noqa: PLC0415

    load_plugins()
    for r in RECIPES.values():
        parameters = ", ".join(f"{k}={v}" for k, v in r.parameters.items())
        yield r.name, r.equation, r.advantage, parameters, r.source


def written() -> Iterator[tuple[str, ...]]:
    """The rows of our own recipes, read from their source: importing them would load torch for seconds."""
    source = files("erc_bench").joinpath("objectives", "recipes.py").read_text(encoding="utf-8")
    rows: dict[str, tuple[str, ...]] = {}
    gates: dict[str, tuple[str, ...]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPOSED":
            for name in ast.literal_eval(node.value):
                rows[name] = _composed(name, gates, rows)
        if not isinstance(node, ast.FunctionDef) or not node.decorator_list:
            continue
        call = node.decorator_list[0]
        assert isinstance(call, ast.Call)
        given = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        names = [a.arg for a in node.args.args]
        defaults = map(ast.literal_eval, node.args.defaults)
        parameters = ", ".join(f"{k}={v}" for k, v in zip(names, defaults, strict=True))
        said = " ".join((ast.get_docstring(node) or "").split("\n\n")[-1].split())
        name, advantage = ast.literal_eval(call.args[0]), given.get("advantage", "group-zscore")
        into = rows if ast.unparse(call.func) == "register" else gates
        into[name] = (name, said, advantage, parameters, given["source"])
    yield from rows.values()


def _composed(
    name: str, gates: dict[str, tuple[str, ...]], rows: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """The row of a recipe that is made of the names of others."""
    if name.startswith(naming.PLACEBO):
        _, equation, advantage, parameters, _ = rows[name.removeprefix(naming.PLACEBO)]
        return name, naming.placebo(equation), advantage, parameters, "control of this project"
    prefix = max((p for p in gates if name.startswith(f"{p}-")), key=len)
    _, condition, _, own, source = gates[prefix]
    base, _, advantage, parameters, _ = rows[name.removeprefix(f"{prefix}-")]
    return name, naming.gated(base, condition), advantage, f"{own}, {parameters}", source


def environments() -> Table:
    """Registered environments, with the exact returns of the optimum and of the prior."""
    assert erc_envs
    table = _table("Environments", "id", "optimum", "prior", "what it isolates")
    plugged = load_environments()
    for name in sorted(i for i in gym.registry if i.startswith("erc/") or i in plugged):
        ours = getattr(erc_envs, gym.spec(name).name, None) if name.startswith("erc/") else None
        if ours is not None and ours.extra:  # slow to import, or not installed
            line = f"{_first_line(ours)} Needs erc-bench[{ours.extra}]."
            table.add_row(name, "", "", Text(line))
            continue
        environment = gym.make(name)
        if not environment.has_wrapper_attr("dynamics"):
            table.add_row(name, "", "", "has no `dynamics`: cannot be trained on here")
            continue
        dynamics = environment.get_wrapper_attr("dynamics")
        line = _first_line(type(dynamics))
        table.add_row(
            name, f"{dynamics.optimal_return:.3f}", f"{dynamics.prior_return:.3f}", Text(line)
        )
    return table


def _first_line(documented: type) -> str:
    return (documented.__doc__ or "").strip().splitlines()[0]


def settings() -> Table:
    """Fields of the training configuration."""
    table = _table("Settings (--set NAME=VALUE)", "name", "default", "type", "meaning")
    for f in TrainConfig.settings().values():
        kind, *_, doc = get_args(f.type)
        name = kind.__name__ if isinstance(kind, type) else " | ".join(map(str, get_args(kind)))
        table.add_row(f.name, str(f.default), name, Text(doc.documentation))
    return table


TABLES: dict[str, Callable[[], Table]] = {
    "experiments": experiments,
    "objectives": objectives,
    "environments": environments,
    "settings": settings,
}
