"""Markdown of the experiments, from their registry."""

from __future__ import annotations

from erc_bench.docs_pages.environments import ENVIRONMENTS, page_name
from erc_bench.objectives import RECIPES
from erc_bench.studies import EXPERIMENTS, TIERS, Experiment

__all__ = ["experiments_page"]

_INTRODUCTION = """# Experiments

<!-- written by python -m erc_bench.docs_pages docs -->

One file per question in `erc_bench/studies/`. The expectation was written before the runs and stays as
it was; what was found is in the [results](../figures/README.md), how settings were selected in the
[log](log.md). `erc-bench run NAME` runs the quick tier; `--tier smoke` takes seconds, `--tier full` has 20
paired seeds. Any setting can be changed with `--set`, any arm with `--objectives`.

Regimes: *paper* is 8 updates per rollout with a clip that seldom binds; *stress* is far from it; *sweep* a
grid from one to the other."""


def experiments_page() -> str:
    """All of them."""
    rows = [
        "| Experiment | Environment | Regime | Seeds: smoke, quick, full |",
        "|---|---|---|---|",
    ]
    for name, entry in EXPERIMENTS.items():
        seeds = ", ".join(str(entry.seeds[tier]) for tier in TIERS)
        rows.append(f"| [{name}](#{name}) | {_environment(entry)} | {entry.regime} | {seeds} |")
    sections = [_section(entry) for entry in EXPERIMENTS.values()]
    return "\n\n".join([_INTRODUCTION, "\n".join(rows), *sections]) + "\n"


def _environment(entry: Experiment) -> str:
    known = entry.environment in ENVIRONMENTS
    page = f"environments/{page_name(entry.environment)}" if known else "environments/index.md"
    return f"[{entry.environment}]({page})"


def _section(entry: Experiment) -> str:
    tiers = []
    for tier in TIERS:
        changed = ", ".join(f"{k} {v}" for k, v in entry.tiers.get(tier, {}).items())
        tiers.append(f"{tier}: {entry.seeds[tier]} seeds{f', {changed}' if changed else ''}")
    config = entry.config
    lines = [
        f"## {entry.name}",
        f"**Question.** {entry.question}",
        f"**Expectation.** {entry.expectation}",
        f"- Environment: {_environment(entry)}{_settings(dict(entry.environment_options))}",
        f"- Score: {entry.score_meaning}",
        f"- Arms: {', '.join(map(_arm, entry.objectives))}",
        f"- Quick tier: {config.rollouts} rollouts of {config.prompts} prompts x {config.group_size} "
        f"responses, {config.minibatches} minibatches x {config.epochs} epochs, "
        f"{config.policy} policy, learning rate {config.learning_rate:g}",
        f"- Tiers: {'; '.join(tiers)}",
    ]
    if entry.grid:
        grid = "; ".join(f"{k} {', '.join(f'{v:g}' for v in vs)}" for k, vs in entry.grid.items())
        lines.append(f"- Grid: {grid}")
    return "\n\n".join(lines[:3]) + "\n\n" + "\n".join(lines[3:])


def _settings(options: dict[str, object]) -> str:
    return f" with {', '.join(f'{k}={v!r}' for k, v in options.items())}" if options else ""


def _arm(specification: str) -> str:
    name = specification.partition(":")[0]
    return f"[{specification}](objectives/{name}.md)" if name in RECIPES else specification
