"""Markdown of the objectives: one page for each, an index, and the matrix of constraints."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from erc_bench.core.advantages import GROUP_ADVANTAGES, gae
from erc_bench.core.batch import TokenBatch
from erc_bench.docs_pages.constraints import PROBES, Cell, Probe, cell, facts
from erc_bench.docs_pages.curves import ENTROPY, PROBABILITIES, VISIBLE, Panel
from erc_bench.objectives import RECIPES, Objective, Recipe, make

__all__ = ["constraints_page", "index_page", "matrix", "objective_page", "plot_data"]

Matrix = Mapping[str, list[Cell]]

_GENERATED = "<!-- written by python -m erc_bench.docs_pages docs -->"


def matrix() -> Matrix:
    """What each recipe leaves of the gradient under each probe."""
    return {name: [cell(make(name), probe) for probe in PROBES] for name in RECIPES}


def plot_data(panels: tuple[Panel, ...]) -> str:
    """The numbers behind a figure, as JSON; null where there is no such policy."""
    plain = [
        {
            "axis": p.axis,
            "old_probability": p.probability,
            "x": p.x,
            "A > 0": [None if w != w else w for w in p.rewarded],  # noqa: PLR0124  # NaN
            "A < 0": [None if w != w else w for w in p.punished],  # noqa: PLR0124
        }
        for p in panels
    ]
    return json.dumps(plain, separators=(",", ":")) + "\n"


def objective_page(name: str, panels: tuple[Panel, ...], cells: list[Cell]) -> str:
    """Equation, parameters, composition, advantages, gradient weight and constraints of a recipe."""
    recipe = RECIPES[name]
    objective = make(name)
    probes = dict(zip((p.name for p in PROBES), cells, strict=True))
    response_level = probes["response's ratio"].active and not probes["response's ratio"].beyond
    gradient_weight = _weights(name, panels, response_level=response_level)
    parts = [
        f"# {name}",
        _GENERATED,
        recipe.description,
        f"Maximised, of each token:\n\n```text\n{_equation(recipe)}\n```",
        _LETTERS + _named(recipe),
        f"Source: {_linked(recipe.source)}.",
        f"```python\nfrom erc_bench.objectives import make\n\n{_call(recipe)}\n```",
        f"## Parameters\n\n{_parameters(recipe)}",
        f"## Composition\n\n{_composition(objective)}",
        f"## Advantages\n\n{_advantages(recipe)}",
        f"## Gradient weight\n\n{gradient_weight}",
        f"## Constraints\n\n{_constraints(cells)}",
    ]
    return "\n\n".join(parts) + "\n"


_LETTERS = (
    "`r` is the sampled action's ratio, `A` the advantage, `rho` the entropy ratio, `sg` the "
    "stop-gradient, `|y|` a response's tokens. Where there is no sum, every token weighs the same."
)


def _equation(recipe: Recipe) -> str:
    """The last paragraph of the docstring, with its lines."""
    return (inspect.getdoc(recipe.build) or "").split("\n\n")[-1]


def _named(recipe: Recipe) -> str:
    """Which words of the equation are other recipes."""
    words = set(re.findall(r"[a-z][a-z-]+", _equation(recipe)))
    others = [name for name in RECIPES if name in words and name != recipe.name]
    return "".join(f" `{name}` is what [{name}]({name}.md) maximises." for name in others)


def _call(recipe: Recipe) -> str:
    arguments = "".join(f", {k}={v!r}" for k, v in recipe.parameters.items())
    line = f'objective = make("{recipe.name}"{arguments})'
    if len(line) > 100:
        inner = "".join(f"    {k}={v!r},\n" for k, v in recipe.parameters.items())
        line = f'objective = make(\n    "{recipe.name}",\n{inner})'
    return f"{line}\nloss, metrics = objective(batch)"


def _linked(source: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


def _code(text: str) -> str:
    """Double backquotes of docstrings as Markdown's single ones; roles as code."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    return " ".join(text.replace("``", "`").split())


def _parameters(recipe: Recipe) -> str:
    if not recipe.parameters:
        return "None."
    rows = ["| Name | Default | Piece | Meaning |", "|---|---|---|---|"]
    for name, default in recipe.parameters.items():
        owner, field = _owner(recipe, name, default)
        meaning = _escaped(_argument(owner, field))
        rows.append(f"| `{name}` | `{default!r}` | `{owner.__name__}.{field}` | {meaning} |")
    return "\n".join(rows)


def _owner(recipe: Recipe, name: str, default: float) -> tuple[type, str]:
    """The piece that a parameter ends in, found by changing it."""
    changed = recipe.build(**{name: 1.25 * default if default else 0.125})
    plain = recipe.build()
    found = _difference(plain, changed)
    assert found is not None, (recipe.name, name)
    return found


def _difference(one: Any, other: Any) -> tuple[type, str] | None:
    """Class and field in which two compositions first differ, at the innermost."""
    for field in fields(other):
        mine, theirs = getattr(one, field.name, None), getattr(other, field.name)
        if mine == theirs:
            continue
        if isinstance(theirs, tuple):
            pairs = [(a, b) for a, b in zip(mine or (), theirs, strict=False) if a != b]
            if not pairs:  # a piece that is only there with this parameter
                return type(theirs[-1]), "coefficient"
            return _difference(*pairs[0])
        if is_dataclass(theirs):
            return _difference(mine, theirs)
        return type(other), field.name
    return None


def _argument(owner: type, field: str) -> str:
    """What the docstring of a class, or of one it inherits from, says about a field."""
    for cls in owner.__mro__:
        text = inspect.cleandoc(cls.__doc__ or "")
        match = re.search(
            rf"^    {field}: (.*?)(?=^    \w|^\S|^$|\Z)", text, re.DOTALL | re.MULTILINE
        )
        if match:
            sentence = _code(match[1]).rstrip(".")
            return sentence[0].upper() + sentence[1:] + "."
    return "Weight of the penalty." if field == "coefficient" else "-"


def _composition(objective: Objective) -> str:
    rows = ["| | Piece | |", "|---|---|---|", _piece("surrogate", objective.surrogate)]
    rows += [_piece("gate", gate) for gate in objective.gates]
    rows += [_piece("regularizer", regularizer) for regularizer in objective.regularizers]
    rows.append(_piece("aggregate", objective.aggregate))
    needed, used = (", ".join(f"`{n}`" for n in names) for names in _batch_fields(objective))
    notes = ["Needs no optional field of the batch."]
    if needed:
        always = "besides `logp`, `old_logp`, `advantage` and `mask`"
        notes = [f"Needs {needed} in the batch, {always}."]
    if used:
        notes.append(f"Uses {used} where the batch has it.")
    if objective.over_batch:
        notes.append("Chooses among the tokens of a batch: micro-batches are treated otherwise.")
    return "\n".join(rows) + "\n\n" + " ".join(notes)


def _piece(role: str, piece: Any) -> str:
    summary = inspect.cleandoc(type(piece).__doc__ or "").split("\n\n")[0]
    return f"| {role} | `{piece!r}` | {_escaped(_code(summary))} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _batch_fields(objective: Objective) -> tuple[list[str], list[str]]:
    """Optional fields it raises without, and those that only change it, found by leaving them out."""
    draw = torch.Generator().manual_seed(0)
    logp, old_logp, ref_logp, rollout_logp = -torch.rand(4, 2, 3, generator=draw)
    log_probs, old_log_probs, ref_log_probs = torch.rand(3, 2, 3, 4, generator=draw).log_softmax(-1)
    entropy, old_entropy, advantage = torch.rand(3, 2, 3, generator=draw)
    optional = {
        "entropy": entropy,
        "old_entropy": old_entropy,
        "log_probs": log_probs,
        "old_log_probs": old_log_probs,
        "ref_logp": ref_logp,
        "ref_log_probs": ref_log_probs,
        "rollout_logp": rollout_logp,
        "reward": torch.tensor([0.0, 1.0]),
    }

    def loss(**given: Tensor) -> float:
        value, _ = objective(TokenBatch(logp, old_logp, advantage, torch.ones(2, 3), **given))
        return float(value)

    whole, needed, used = loss(**optional), [], []
    for name in optional:
        try:
            without = loss(**{k: v for k, v in optional.items() if k != name})
        except ValueError as error:
            if "not given" not in str(error):
                raise
            needed.append(name)
        else:
            used += [name] * (without != whole)
    return needed, used


def _advantages(recipe: Recipe) -> str:
    estimator = gae if recipe.advantage == "gae" else GROUP_ADVANTAGES[recipe.advantage]
    summary = _code(inspect.getdoc(estimator) or "").split(" Args:")[0]
    lines = [f"`{recipe.advantage}`: {_first_sentence(summary)}"]
    if recipe.dynamic_sampling:
        lines.append("Trained on groups whose rewards differ only (dynamic sampling).")
    if recipe.overlong_penalty:
        lines.append("Rewards include DAPO's soft length penalty.")
    return "\n".join(f"- {line}" for line in lines)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.) (?=[A-Z`>])", text)[0]


def _weights(name: str, panels: tuple[Panel, ...], *, response_level: bool) -> str:
    axes = {p.axis for p in panels}
    likely = len({p.probability for p in panels}) > 1
    text = (
        f"![Gradient weight of {name}](plots/{name}.png)\n\n"
        "What stands before `grad log pi` of the sampled action, divided by `|A|`: positive pushes its "
        "probability up. Measured by autograd through the objective with its defaults; the sampled "
        f"action had probability {PROBABILITIES[0]:g}"
        + (f", then {PROBABILITIES[1]:g}, " if likely else " ")
        + f"under the old policy, whose entropy was {ENTROPY:g} nats. Along `r` the entropy stays"
        + (", along `rho` the probability" if "rho" in axes else "")
        + "."
    )
    if "rho" not in axes:
        text += f" It does not depend on the entropy ratio (by less than {VISIBLE:g})."
    if response_level:
        text += " The response has this one token, so that its ratio is the token's."
    if make(name).over_batch:
        text += (
            " The token stands beside nine others, as `erc_bench/docs_pages/curves.py` says, among which "
            "it has the highest covariance of advantage and log-probability where `A > 0`, and is in "
            "the fifth of highest entropy from `rho = 0.9` on."
        )
    return text + f" [Data](plots/{name}.json)."


def _constraints(cells: list[Cell]) -> str:
    lines = [
        "Differs from `r A grad log pi` under these moves; the number is the share that is left."
    ]
    for when, on_policy in (("On-policy", True), ("Off-policy", False)):
        active = "; ".join(f"{p.name} ({c})" for p, c in _active(cells, on_policy))
        lines.append(f"- {when}: {active or 'none'}.")
    lines.append("[What these moves are, and every objective's numbers](constraints.md).")
    return "\n\n".join([lines[0], "\n".join(lines[1:3]), lines[3]])


def _active(cells: list[Cell], on_policy: bool) -> list[tuple[Probe, Cell]]:
    """Probes that find the objective unlike the importance-weighted one."""
    pairs = zip(PROBES, cells, strict=True)
    return [(p, c) for p, c in pairs if p.on_policy == on_policy and c.active]


def _summary(cells: list[Cell], on_policy: bool) -> str:
    """In short: moves of one quantity once, and one word for a penalty that is always there."""
    active = _active(cells, on_policy)
    everywhere = sum(cell.beyond for _, cell in active) > 1
    names = ["a penalty"] if everywhere else []
    names += [p.quantity for p, c in active if not (everywhere and all(_one(s) for s in c.shares))]
    return ", ".join(dict.fromkeys(names)) or "-"


def _one(share: float) -> bool:
    return abs(share - 1) < 0.1


def index_page(cells: Matrix) -> str:
    """All objectives, and what constrains them when."""
    lines = [
        "# Objectives",
        "",
        _GENERATED,
        "",
        "Each is a composition of a surrogate, gates, an aggregate and regularizers. The last columns",
        "name what makes its gradient [differ](constraints.md) from `r A grad log pi` on the first",
        "minibatch after a rollout, and later; found by probing it.",
        "",
        "| Objective | What it does | Source | On-policy | Off-policy |",
        "|---|---|---|---|---|",
    ]
    for name, recipe in RECIPES.items():
        active = [_summary(cells[name], on_policy) for on_policy in (True, False)]
        source = _linked(recipe.source)
        lines.append(
            f"| [`{name}`]({name}.md) | {recipe.description} | {source} | {' | '.join(active)} |"
        )
    return "\n".join(lines) + "\n"


def constraints_page(cells: Matrix) -> str:
    """The matrix, and the probes it was made with."""
    return (
        _INTRODUCTION
        + "\n"
        + _matrix_table("On-policy: nothing has moved", cells, on_policy=True)
        + "\n"
        + _matrix_table("Off-policy", cells, on_policy=False)
        + "\n"
        + _probe_table()
    )


_INTRODUCTION = f"""# Constraints

{_GENERATED}

Which move of the policy makes an objective differ from the importance-weighted one, whose gradient
is `r A grad log pi`? Each column is a batch in which the policy has made one move, and each number the
share of that gradient that is left to one token, measured by autograd with the objective's defaults.
`-`: all of it. `0`: the token is stopped. Two numbers: `A > 0`, then `A < 0`. `†`: a penalty moves the
other actions too. `reinforce` and `gspo` do not weigh a token by its own ratio, so theirs differ
wherever it moves.

The first minibatch after a rollout is on-policy: clips and bands cannot act there, only what looks at
the policy itself, at the other tokens, or at the sampling engine.
"""


def _matrix_table(title: str, cells: Matrix, *, on_policy: bool) -> str:
    chosen = [i for i, probe in enumerate(PROBES) if probe.on_policy == on_policy]
    lines = [f"## {title}", ""]
    lines.append("| | " + " | ".join(PROBES[i].name for i in chosen) + " |")
    lines.append("|---|" + ":-:|" * len(chosen))
    for name, row in cells.items():
        lines.append(f"| [`{name}`]({name}.md) | " + " | ".join(str(row[i]) for i in chosen) + " |")
    return "\n".join(lines) + "\n"


def _probe_table() -> str:
    rows = [(probe, facts(probe)) for probe in PROBES]
    names = list(rows[0][1])
    lines = [
        "## The moves",
        "",
        "The probed token's ratio `r`, its response's geometric mean ratio `s`, the sampled action's",
        "probability before and after, the entropy ratio, the exact divergences from the old policy,",
        "and the token's covariance in its batch; `A > 0` before `A < 0` where they differ.",
        "",
        "| | | " + " | ".join(names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for probe, values in rows:
        numbers = " | ".join(values[name] for name in names)
        lines.append(f"| {probe.name} | {probe.what} | {numbers} |")
    return "\n".join(lines) + "\n"
