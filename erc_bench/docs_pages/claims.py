"""The page of the claims: every rule in prose, written from ``claims.toml``."""

from __future__ import annotations

import math

from erc_bench.analysis.claims import RuleBook, load
from erc_bench.analysis.claims.rules import Claim, Criterion, Decides, Part, Statistic

__all__ = ["claims_page"]

FORMULAS: dict[Statistic, str] = {
    "value": "`x = {0}` of the run",
    "share": "`x = {0} / {1}`; no value where the latter is 0",
    "value-to-reference": "`x = {0}` of the run divided by `{1}` of {reference} on the same seed",
    "difference": "`x = {0}(other) - {0}(base)` on the same seed",
    "ratio": "`x = log({0}(other) / {0}(base))` on the same seed; shown and judged as its exponential",
    "auroc": "`x = AUROC(|{0}|; kl_exact > delta)` over the run's sampled tokens with staleness > 0",
    "auroc-difference": "`x = AUROC(|{1}|) - AUROC(|{0}|)`, both for the label `kl_exact > delta` over "
    "the run's sampled tokens with staleness > 0",
    "dropped-below-kept": "`x = P({0} of a dropped token < that of a kept one) + P(equal) / 2` over "
    "the run's sampled tokens with staleness > 0",
}  # fmt: skip
SCOPE: dict[Decides, str] = {
    "every": "Decides, in every experiment (Holm)",
    "mean": "Decides, averaged over the experiments within each seed (Holm over the comparisons)",
    "no": "Information",
    "cells": "Decides cell by cell (Benjamini-Hochberg over the cells of a comparison)",
}

INTRODUCTION = """# Claims

<!-- Written by `python -m erc_bench.docs_pages docs` from erc_bench/analysis/claims.toml. -->

    erc-bench claims RESULTS [--json FILE] [--markdown FILE]

C1 to C7 are what the paper on Entropy Ratio Clipping (arXiv:2512.05591) says or implies; D1 to D3 are
questions of this project. Statistics, thresholds, experiments and corrections were written into one
file, [`erc_bench/analysis/claims.toml`](../erc_bench/analysis/claims.toml), before the full tier was
run, and the command applies that file: no verdict is written by hand. A claim that fails is a result.

## How a verdict comes about

1. **One number per run.** Whatever happens within a run is reduced to one value `x` first, or to one per
   pair of runs that share a seed (prompts, initial weights and random numbers). Seeds are the only
   independent observations.
2. **An interval over seeds**, `mean -+ t(n-1) s / sqrt(n)`, {level} %.
3. **A row** holds if its interval lies wholly inside the claim's region, fails if it lies wholly in the
   region of failure (unless stated otherwise, all the rest), and is inconclusive else. With fewer than
   {seeds} values it is inconclusive, whatever they are, and says how many there are.
4. **Many rows.** Where several experiments or arms decide, their intervals are widened by Holm's
   step-down method: in order of their p-values, the k-th of m (from 0) is judged at `0.05 / (m - k)`.
   The chance of any wrong decision in the family is at most 5 %. Tables show the plain {level} %
   interval; JSON and Markdown the adjusted one too. Cells of a phase diagram are many and exploratory:
   there Benjamini-Hochberg bounds the expected share of wrong cells among those named by {rate} %.
5. **A claim** is the conjunction of its deciding rows, in each regime for itself: it is reproduced if all
   hold, not reproduced if one fails, else inconclusive. What the rule asks for and the records lack
   cannot hold, so nothing is reproduced on a selection of experiments.

**Diverged runs** count as failures: reward 0. Their other values come from the updates before
divergence, so a comparison in which the second arm diverged more often than its base cannot hold; both
counts are shown. **Runs without a value** (no violation at all, or fewer than {tokens} sampled tokens in
one of the two classes of an AUROC) are counted and named.

**Regimes.** *paper*: 8 updates per rollout and settings as in the release; *stress*: 32 updates and a
larger step; *sweep*: a grid of settings. `reward/of_optimum` is the final reward divided by the exact
expected reward of the best policy. A jitter is `sqrt(mean (x[k+1] - x[k])^2 / 2)` over consecutive
updates, blind to a slow trend (von Neumann's successive differences).
"""


def claims_page(rules: RuleBook | None = None) -> str:
    """Markdown of ``docs/claims.md``."""
    book = load() if rules is None else rules
    introduction = INTRODUCTION.format(
        level=f"{100 * book.rules.level:g}", seeds=book.rules.seeds, tokens=book.rules.tokens,
        rate=f"{100 * book.rules.false_discovery_rate:g}",
    )  # fmt: skip
    return "\n".join([introduction, *(_claim(claim) for claim in book.claims)])


def _claim(claim: Claim) -> str:
    figures = ", ".join(map(str, claim.figures))
    lines = [
        f"## {claim.id} {claim.title}",
        "",
        claim.statement,
        "",
        f"The paper: {claim.paper}. " if claim.paper else "Beyond the paper. ",
    ]
    lines[-1] += f"Figure{'s' if len(claim.figures) > 1 else ''} {figures}. "
    lines[-1] += f'Verdicts: "{claim.words[0]}", "{claim.words[1]}", "inconclusive".'
    if any(part.decides == "cells" for part in claim.parts):
        lines[-1] = lines[-1].partition("Verdicts")[0] + (
            'Verdicts, per gate: "helps", "hurts", "helps and hurts", "no difference found".'
        )
    return "\n".join([*lines, "", *(_part(part) for part in claim.parts), ""])


def _part(part: Part) -> str:
    formula = FORMULAS[part.statistic].format(*part.columns, reference=part.reference)
    arms = "; ".join(" against ".join(reversed(arms)) for arms in part.arms)
    points = ", ".join(f"{k} = {' or '.join(f'{v:g}' for v in vs)}" for k, vs in part.at.items())
    places = "; ".join(
        f"{regime}: {', '.join(names)}" for regime, names in part.experiments.items()
    )
    lines = [
        f"- **{part.name}.** {SCOPE[part.decides]}. {formula}.",
        f"  Arms: {arms}{f', at {points}' if points else ''}. Experiments: {places}.",
        f"  {_rule(part.holds)}{f' Note: {part.note}.' if part.note else ''}",
    ]
    return "\n".join(lines)


def _rule(criterion: Criterion | None) -> str:
    if criterion is None:
        return "A measurement: no threshold."
    text = f"Holds: {_region(criterion.above, criterion.below)}."
    if (criterion.fails_below, criterion.fails_above) == (criterion.above, criterion.below):
        return text
    fails = [
        f"below {criterion.fails_below:g}" if math.isfinite(criterion.fails_below) else "",
        f"above {criterion.fails_above:g}" if math.isfinite(criterion.fails_above) else "",
    ]
    return f"{text} Else fails: interval {' or '.join(filter(None, fails))}."


def _region(above: float, below: float) -> str:
    if math.isfinite(above) and math.isfinite(below):
        return f"interval inside ({above:g}, {below:g})"
    return f"interval above {above:g}" if math.isfinite(above) else f"interval below {below:g}"
