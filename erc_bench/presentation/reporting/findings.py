"""The report's first screen: what was run, the findings in sentences, the claims' verdicts in a strip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from erc_bench import analysis
from erc_bench.analysis import MEASURES, Contrast
from erc_bench.analysis.claims import Assessment
from erc_bench.analysis.numbers import ends, number
from erc_bench.presentation.plots import ordered
from erc_bench.studies.arms import StoredArm, gated_pairs, stored_arms
from erc_bench.studies.records import Results

__all__ = ["Findings", "Strip", "counts", "findings", "headlines", "known_arms", "strips"]


def known_arms(results: Results, summary: pd.DataFrame) -> dict[str, StoredArm]:
    """Every arm that ran, by label, in the order of legends."""
    stored = {str(e): stored_arms(results.config, str(e)) for e in summary["experiment"].unique()}
    ran = zip(summary["experiment"], summary["objective"], strict=True)
    arms = {str(label): stored[str(experiment)][str(label)] for experiment, label in ran}
    return {arm.label: arm for arm in ordered(arms.values())}


@dataclass(frozen=True)
class Findings:
    """Sentences: ``lead`` sums up contrasts (may be empty), ``shown`` follow, ``folded`` are details."""

    lead: str
    shown: list[str]
    folded: list[str]


def findings(results: Results, summary: pd.DataFrame) -> Findings:
    """The headlines in order of weight: those about points of a grid are details.

    Where several experiments compare the same pair, one sentence leads with their range, and theirs
    are details too.
    """
    arms = known_arms(results, summary)
    contrasts = _contrasts(results, summary)
    plain = [c for c in contrasts if not (arms[c.base].overrides or arms[c.other].overrides)]
    details = [c.sentence() for c in contrasts if c not in plain]
    runs = analysis.per_seed(results)
    about_pairs: list[str] = []
    for base, gated in gated_pairs(arms.values()):
        if sentence := _pair(runs, base, gated):
            folded = arms[base].overrides or arms[gated].overrides
            (details if folded else about_pairs).append(sentence)
    lead, first = _lead(plain), [c.sentence() for c in plain]
    if lead:
        return Findings(lead, about_pairs, first + details)
    return Findings("", first + about_pairs, details)


def _contrasts(results: Results, summary: pd.DataFrame) -> list[Contrast]:
    found = []
    for experiment in dict.fromkeys(summary["experiment"]):
        try:
            found.append(analysis.out_of_band_to_bound(results, str(experiment)))
        except LookupError:
            continue
    return found


def _lead(contrasts: list[Contrast]) -> str:
    """The range of the contrasts of the pair that most experiments have; "" for one or none."""
    known = [c for c in contrasts if math.isfinite(c.ratio.estimate)]
    if len(known) < 2:
        return ""
    base, other = pd.Series([(c.base, c.other) for c in known]).mode().iloc[0]
    known = sorted(
        (c for c in known if (c.base, c.other) == (base, other)), key=lambda c: c.ratio.estimate
    )
    if len(known) < 2:
        return ""
    low, high = known[0], known[-1]
    least, most = (number(c.ratio.estimate) for c in (low, high))
    return (
        (least if least == most else f"{least} to {most}")
        + f" times as many tokens lay outside the entropy band of {other} as the clip of {base} "
        f"determined, over {len(known)} experiments ("
        + ("" if least == most else f"least in {low.experiment}, most in {high.experiment}; ")
        + "geometric means over seeds)."
    )


def headlines(results: Results, summary: pd.DataFrame) -> list[str]:
    """The findings first: each sentence computed from the records."""
    sentences = [contrast.sentence() for contrast in _contrasts(results, summary)]
    pairs, runs = gated_pairs(known_arms(results, summary).values()), analysis.per_seed(results)
    sentences += [_pair(runs, base, gated) for base, gated in pairs]
    return [sentence for sentence in sentences if sentence]


def _pair(runs: pd.DataFrame, base: str, erc: str) -> str:
    try:
        table = analysis.paired(runs, base, erc)
    except LookupError:
        return ""
    return _verdicts(base, erc, table)


_ASKED = {
    "final_reward": "final reward",
    "grad_norm_spread": "gradient-norm spread",
    "hidden_violations": "share of hidden violations",
}


def _verdicts(base: str, erc: str, table: pd.DataFrame) -> str:
    """One sentence on a pair: numbers for one experiment, counts of verdicts for several."""
    parts = []
    for key, what in _ASKED.items():
        rows = table[(table["measure"] == key) & table["difference/estimate"].notna()]
        if rows.empty:
            continue
        if len(rows) > 1:
            counts = rows["verdict"].value_counts()
            known = [word for word in ("better", "worse", "unclear") if word in counts]
            parts.append(f"{what} {', '.join(f'{word} in {counts[word]}' for word in known)}")
            continue
        row, measure = rows.iloc[0], next(m for m in MEASURES if m.key == key)
        unit = f" {measure.metric.shown}" if measure.metric.shown else ""
        low, high = (measure.metric.scale * row[f"difference/{end}"] for end in ("low", "high"))
        other, than = (measure.metric.scale * row[f"{arm}/estimate"] for arm in ("other", "base"))
        text = f"{what} {number(other)}{unit} against {number(than)}{unit}"
        if int(row["difference/n"]) > 1:
            text += f" (difference {ends(low, high, 2, signed=True)}: {row['verdict']})"
        parts.append(text)
    if not parts:
        return ""
    experiments = list(dict.fromkeys(table["experiment"]))
    if len(experiments) > 1:
        where = f"{erc} against {base} in {len(experiments)} experiments"
    else:
        where = f"{experiments[0]}, {erc} against {base}"
    seeds = int(table["difference/n"].max())
    basis = "paired seeds, 95 % intervals" if seeds > 1 else "one seed, no interval"
    return f"{where}: {'; '.join(parts)} ({basis})."


def counts(results: Results, summary: pd.DataFrame) -> list[tuple[str, str]]:
    """What was run, as numbers with their words."""
    seeds = results.read("runs", columns=["seed", "tokens"])
    failed = int(summary["diverged"].sum())
    settings = int(summary["objective"].nunique())
    recipes = len({arm.recipe for arm in known_arms(results, summary).values()})
    objectives = _counted(recipes, "objective")
    if settings > recipes:
        objectives = (objectives[0], f"{objectives[1]}, {settings:,} with their settings")
    return [
        _counted(int(summary["seeds"].sum()), "run"),
        objectives,
        _counted(summary["experiment"].nunique(), "experiment"),
        _counted(seeds["seed"].nunique(), "seed"),
        (_large(float(seeds["tokens"].sum())), "tokens generated"),
        (f"{failed:,}", "diverged, counted as failures" if failed else "diverged"),
    ]


def _counted(count: int, word: str) -> tuple[str, str]:
    return f"{count:,}", word if count == 1 else f"{word}s"


def _large(value: float) -> str:
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= size:
            return f"{number(value / size)} {word}"
    return number(value)


@dataclass(frozen=True)
class Strip:
    """A claim with its verdicts: (link, regime, verdict, better / worse / "")."""

    id: str
    title: str
    verdicts: list[tuple[str, str, str, str]]


def strips(assessment: Assessment) -> list[Strip]:
    """The measured claims in the rules' order."""
    found: dict[str, Strip] = {}
    for v in assessment.verdicts:
        if v.verdict != "not measured":
            strip = found.setdefault(v.claim.id, Strip(v.claim.id, v.claim.title, []))
            kind = {True: "better", False: "worse", None: ""}[v.holds]
            anchor = f"claim-{v.claim.id}-{v.regime}"
            strip.verdicts.append((anchor, v.regime, v.verdict, kind))
    return list(found.values())
