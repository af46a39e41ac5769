"""The page of the claims: every rule in prose, written from ``claims.toml``."""

from __future__ import annotations

import math

from erc_bench.analysis.claims import RuleBook, load
from erc_bench.analysis.claims.rules import Claim, Criterion, Decides, Part, Statistic
from tools.docs_pages.markdown import render

__all__ = ["page", "pages", "sources"]

FORMULAS: dict[Statistic, str] = {
    "value": "`x = {0}` of the run",
    "share": "`x = {0} / {1}`; no value where the latter is 0",
    "value-to-reference": "`x = {0}` of the run divided by `{1}` of {reference} on the same seed",
    "mean": "`x = {0}` of the run, in [0, 1], of which the mean is taken",
    "mean-difference": "`x = {0}(other) - {0}(base)` on the same seed, of which the mean is taken",
    "difference": "`x = {0}(other) - {0}(base)` on the same seed",
    "ratio": "`x = log({0}(other) / {0}(base))` on the same seed; shown and judged as its exponential",
    "auroc": "`x = AUROC(|{0}|; kl_exact > delta)` over the run's sampled tokens with staleness > 0",
    "auroc-difference": "`x = AUROC(|{1}|) - AUROC(|{0}|)`, both for the label `kl_exact > delta` over "
    "the run's sampled tokens with staleness > 0",
    "recall": "`x = P(found by the {0} | violation of {1})` over the run's sampled tokens with staleness > 0",
    "precision": "`x = P(violation of {1} | found by the {0})` over the run's sampled tokens with "
    "staleness > 0",
    "dropped-below-kept": "`x = P({0} of a dropped token < that of a kept one) + P(equal) / 2` over "
    "the run's sampled tokens with staleness > 0",
}
SCOPE: dict[Decides, str] = {
    "every": "Decides, in every experiment (Holm)",
    "mean": "Decides, averaged over the experiments within each seed (Holm over the comparisons)",
    "no": "Information",
    "cells": "Decides cell by cell (Benjamini-Hochberg over the cells of a comparison)",
}


def page(rules: RuleBook | None = None) -> str:
    """Every claim with its statistics, thresholds, experiments and corrections."""
    book = load() if rules is None else rules
    return render(
        "claims",
        level=f"{100 * book.rules.level:g}",
        seeds=book.rules.seeds,
        collapse=f"{100 * book.rules.collapse:g}",
        tokens=book.rules.tokens,
        rate=f"{100 * book.rules.false_discovery_rate:g}",
        claims=book.claims,
        verdicts=_verdicts,
        rule=_part,
    )


def pages() -> dict[str, str]:
    """The page by its path in the site."""
    return {"claims.md": page()}


def sources() -> dict[str, str]:
    """The file that holds the rules."""
    return {"erc_bench/analysis/claims.toml": "claims.md"}


def _verdicts(claim: Claim) -> str:
    if any(part.decides == "cells" for part in claim.parts):
        return 'Verdicts, per gate: "helps", "hurts", "helps and hurts", "no difference found".'
    return f'Verdicts: "{claim.words[0]}", "{claim.words[1]}", "inconclusive".'


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
    if part.steadies:
        lines[-1] += " Decides where the base is shown to collapse."
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
