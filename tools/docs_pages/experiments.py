"""The page of the experiments, from their registry."""

from __future__ import annotations

from erc_bench.objectives import RECIPES
from erc_bench.studies import EXPERIMENTS, TIERS, Experiment
from erc_bench.studies.arms import parse
from tools.docs_pages import environments
from tools.docs_pages.markdown import render, table

__all__ = ["page", "pages", "sources"]


def page() -> str:
    """A table of all experiments, then a section for each."""
    rows = []
    for name, entry in EXPERIMENTS.items():
        seeds = ", ".join(str(entry.seeds[tier]) for tier in TIERS)
        rows.append((f"[{name}](#{name})", _environment(entry), entry.regime, seeds))
    overview = table(("Experiment", "Environment", "Regime", "Seeds: smoke, quick, full"), rows)
    sections = [_section(entry) for entry in EXPERIMENTS.values()]
    return render("experiments", overview=overview, sections=sections)


def pages() -> dict[str, str]:
    """The page by its path in the site."""
    return {"experiments.md": page()}


def sources() -> dict[str, str]:
    """The folder of the questions, and each question's file."""
    folder = "erc_bench/studies/questions"
    found = {f"{folder}/{name}.py": f"experiments.md#{name}" for name in EXPERIMENTS}
    return {folder: "experiments.md", **found}


def _environment(entry: Experiment) -> str:
    return f"[{entry.environment}](environments/{environments.page_name(entry.environment)})"


def _linked(label: str, name: str) -> str:
    """An arm with a link to its recipe's page; those made of names on demand have none."""
    return f"[{label}](objectives/{name}.md)" if name in RECIPES else f"`{label}`"


def _section(entry: Experiment) -> str:
    tiers = []
    for tier in TIERS:
        changed = "".join(f", {k} {v}" for k, v in entry.tiers.get(tier, {}).items())
        tiers.append(f"{tier}: {entry.seeds[tier]} seeds{changed}")
    arms = [(specification, parse(specification).recipe.name) for specification in entry.objectives]
    config, options = entry.config, entry.environment_options
    given = f" with {', '.join(f'{k}={v!r}' for k, v in options.items())}" if options else ""
    lines = [
        f"- Environment: {_environment(entry)}{given}",
        f"- Score: {entry.score_meaning}",
        f"- Arms: {', '.join(_linked(label, name) for label, name in arms)}",
        f"- Quick tier: {config.rollouts} rollouts of {config.prompts} prompts x {config.group_size} "
        f"responses, {config.minibatches} minibatches x {config.epochs} epochs, "
        f"{config.policy} policy, learning rate {config.learning_rate:g}",
        f"- Tiers: {'; '.join(tiers)}",
    ]
    if entry.grid:
        grid = "; ".join(f"{k} {', '.join(f'{v:g}' for v in vs)}" for k, vs in entry.grid.items())
        lines.append(f"- Grid: {grid}")
    words = f"**Question.** {entry.question}\n\n**Expectation.** {entry.expectation}"
    return f"## {entry.name}\n\n{words}\n\n" + "\n".join(lines)
