"""One page and figure for each objective, an index, and the matrix of constraints."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from erc_bench.core.advantages import GROUP_ADVANTAGES, gae
from erc_bench.core.batch import TokenBatch
from erc_bench.objectives import RECIPES, Objective, Recipe, make
from tools.docs_pages.constraints import PROBES, Cell, Probe, cells, facts
from tools.docs_pages.curves import ENTROPY, PROBABILITIES, VISIBLE, as_json, measure
from tools.docs_pages.figure import draw, svg
from tools.docs_pages.markdown import code, render, table

__all__ = ["constraints_page", "index_page", "objective_page", "pages", "sources"]


def pages() -> dict[str, str]:
    """The index, the constraints, and page, figure and data of each recipe, by their paths in the site."""
    found = {"objectives/index.md": index_page(), "objectives/constraints.md": constraints_page()}
    for name in RECIPES:
        panels = measure(name)
        found[f"objectives/{name}.md"] = objective_page(name)
        found[f"objectives/plots/{name}.svg"] = svg(draw(panels))
        found[f"objectives/plots/{name}.json"] = as_json(panels)
    return found


def sources() -> dict[str, str]:
    """The file of the recipes."""
    return {"erc_bench/objectives/recipes.py": "objectives/index.md"}


def objective_page(name: str) -> str:
    """Equation, parameters, composition, advantages, gradient weight and constraints of a recipe."""
    recipe, objective, panels = RECIPES[name], make(name), measure(name)
    response = cells(name)["response's ratio"]
    equation = (inspect.getdoc(recipe.build) or recipe.equation).split("\n\n")[-1]
    words = set(re.findall(r"[a-z][a-z-]+", equation))
    needed, used = _batch_fields(objective)
    return render(
        "objective",
        recipe=recipe,
        source=_linked(recipe.source),
        equation=equation,
        named=[other for other in RECIPES if other in words and other != name],
        call=_call(recipe),
        parameters=_parameters(recipe),
        pieces=_pieces(objective),
        needed=needed,
        used=used,
        over_batch=objective.over_batch,
        advantage=_advantage(recipe),
        axes={p.axis for p in panels},
        probabilities=PROBABILITIES[: len({p.probability for p in panels})],
        entropy=ENTROPY,
        visible=VISIBLE,
        response_level=response.active and not response.beyond,
        active={
            when: "; ".join(f"{p.name} ({c})" for p, c in _active(name, on_policy))
            for when, on_policy in (("On-policy", True), ("Off-policy", False))
        },
    )


def index_page() -> str:
    """All objectives, and what constrains them when."""
    header = ("Objective", "What it does", "Source", "On-policy", "Off-policy")
    rows = [
        (
            f"[`{name}`]({name}.md)",
            recipe.description,
            _linked(recipe.source),
            _summary(name, on_policy=True),
            _summary(name, on_policy=False),
        )
        for name, recipe in RECIPES.items()
    ]
    return render("objectives", overview=table(header, rows))


def constraints_page() -> str:
    """The matrix, and the probes it was made with."""
    measured = [(probe, facts(probe)) for probe in PROBES]
    names = list(measured[0][1])
    moves = [(probe.name, probe.what, *found.values()) for probe, found in measured]
    return render(
        "constraints",
        on_policy=_matrix_table(on_policy=True),
        off_policy=_matrix_table(on_policy=False),
        moves=table(("", "", *names), moves),
    )


def _matrix_table(*, on_policy: bool) -> str:
    chosen = [probe.name for probe in PROBES if probe.on_policy == on_policy]
    rows = [(f"[`{name}`]({name}.md)", *(cells(name)[p] for p in chosen)) for name in RECIPES]
    return table(("", *chosen), rows, rule=":-:")


def _active(name: str, on_policy: bool) -> list[tuple[Probe, Cell]]:
    """Probes that find the objective unlike the importance-weighted one."""
    pairs = [(p, cells(name)[p.name]) for p in PROBES if p.on_policy == on_policy]
    return [(p, c) for p, c in pairs if c.active]


def _summary(name: str, *, on_policy: bool) -> str:
    """What constrains it: each quantity once, and "a penalty" for one that is always there."""
    active = _active(name, on_policy)
    everywhere = sum(cell.beyond for _, cell in active) > 1
    quantities = ["a penalty"] if everywhere else []
    for probe, found in active:
        if not everywhere or any(abs(share - 1) >= 0.1 for share in found.shares):
            quantities.append(probe.quantity)
    return ", ".join(dict.fromkeys(quantities)) or "-"


def _call(recipe: Recipe) -> str:
    arguments = "".join(f", {k}={v!r}" for k, v in recipe.parameters.items())
    line = f'objective = make("{recipe.name}"{arguments})'
    if len(line) <= 100:
        return line
    inner = "".join(f"    {k}={v!r},\n" for k, v in recipe.parameters.items())
    return f'objective = make(\n    "{recipe.name}",\n{inner})'


def _linked(source: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


def _plain(text: str) -> str:
    """A docstring on one line."""
    return " ".join(code(text).split())


def _parameters(recipe: Recipe) -> str:
    rows = []
    for name, default in recipe.parameters.items():
        owner, field = _owner(recipe, name, default)
        rows.append(
            (f"`{name}`", f"`{default!r}`", f"`{owner.__name__}.{field}`", _meaning(owner, field))
        )
    return table(("Name", "Default", "Piece", "Meaning"), rows) if rows else "None."


def _owner(recipe: Recipe, name: str, default: float) -> tuple[type, str]:
    """The piece and field that a parameter ends in, found by changing the parameter."""
    changed = recipe.build(**{name: 1.25 * default if default else 0.125})
    found = _difference(recipe.objective, changed)
    assert found is not None, (recipe.name, name)
    return found


def _difference(one: Any, other: Any) -> tuple[type, str] | None:
    """Class and field in which two compositions first differ, as far inside as possible."""
    for field in fields(other):
        mine, theirs = getattr(one, field.name, None), getattr(other, field.name)
        if mine == theirs:
            continue
        if isinstance(theirs, tuple):
            pairs = [(a, b) for a, b in zip(mine or (), theirs, strict=False) if a != b]
            if not pairs:  # A piece that is only there when the parameter is not 0.
                return type(theirs[-1]), "coefficient"
            return _difference(*pairs[0])
        return _difference(mine, theirs) if is_dataclass(theirs) else (type(other), field.name)
    return None


def _meaning(owner: type, field: str) -> str:
    """What the docstring of a class, or of one it inherits from, says about a field."""
    for cls in owner.__mro__:
        text = inspect.cleandoc(cls.__doc__ or "")
        pattern = rf"^    {field}: (.*?)(?=^    \w|^\S|^$|\Z)"
        if match := re.search(pattern, text, re.DOTALL | re.MULTILINE):
            sentence = _plain(match[1]).rstrip(".")
            return sentence[0].upper() + sentence[1:] + "."
    return "Weight of the penalty." if field == "coefficient" else "-"


def _pieces(objective: Objective) -> str:
    pieces: list[tuple[str, Any]] = [
        ("surrogate", objective.surrogate),
        *(("gate", gate) for gate in objective.gates),
        *(("regularizer", regularizer) for regularizer in objective.regularizers),
        ("aggregate", objective.aggregate),
    ]
    rows = []
    for role, piece in pieces:
        summary = inspect.cleandoc(type(piece).__doc__ or "").split("\n\n")[0]
        rows.append((role, f"`{piece!r}`", _plain(summary)))
    return table(("", "Piece", ""), rows)


def _batch_fields(objective: Objective) -> tuple[list[str], list[str]]:
    """Optional fields that it needs, and those that only change its loss, found by leaving each out."""
    draw = torch.Generator().manual_seed(0)
    logits, old_logits, ref_logits = torch.randn(3, 2, 3, 4, generator=draw)
    whole = TokenBatch.from_logits(
        logits,
        old_logits,
        action=torch.randint(4, (2, 3), generator=draw),
        advantage=torch.rand(2, 3, generator=draw),
        mask=torch.ones(2, 3),
        ref_log_probs=ref_logits.log_softmax(-1),
        ref_logp=-torch.rand(2, 3, generator=draw),
        rollout_logp=-torch.rand(2, 3, generator=draw),
        reward=torch.tensor([0.0, 1.0]),
    )
    needed, used = [], []
    for name in (f.name for f in fields(whole) if f.default is None):
        absent: dict[str, Any] = {name: None}
        try:
            loss, _ = objective(replace(whole, **absent))
        except ValueError as error:
            if "not given" not in str(error):
                raise
            needed.append(name)
        else:
            used += [name] * bool(loss != objective(whole)[0])
    return needed, used


def _advantage(recipe: Recipe) -> str:
    """The first sentence of the estimator's docstring."""
    estimator = gae if recipe.advantage == "gae" else GROUP_ADVANTAGES[recipe.advantage]
    summary = _plain(inspect.getdoc(estimator) or "").split(" Args:")[0]
    return re.split(r"(?<=\.) (?=[A-Z`>])", summary)[0]
