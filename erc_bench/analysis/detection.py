"""How well each rule finds the tokens that have left the trust region, from the records' token samples.

Samples are uniform, and shares are taken over the tokens of all seeds together, since a run's own sample
may hold few violations or none; the intervals over seeds contain the sampling error. Tokens of the first
update after a rollout, where the policies are equal, are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from erc_bench.analysis.bounds import Bounds
from erc_bench.analysis.claims.evidence import Evidence
from erc_bench.analysis.claims.statistics import (
    RULES,
    VIOLATIONS,
    counts,
    found_by,
    violating,
)
from erc_bench.analysis.statistics import pooled_share
from erc_bench.studies.records import Results

__all__ = ["DELTAS", "detection", "hidden_curve"]

#: Nats of exact KL, from a tenth of the usual bound to thirty times it.
DELTAS = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3)


def _row(name: str, counted: pd.DataFrame) -> dict[str, Any]:
    found = pooled_share(counted["part"], counted["whole"])
    ends = {f"{name}_low": found.low, f"{name}_high": found.high}
    return {name: found.estimate, **ends, "tokens": int(counted["whole"].sum()), "seeds": found.n}


def _arms(results: Results) -> Iterator[tuple[dict[str, str], pd.DataFrame, Bounds]]:
    """Experiment and arm, sampled tokens and bounds."""
    evidence = Evidence(results)
    for experiment, labels in evidence.labels.items():
        for label in labels:
            tokens = evidence.off_policy_tokens(experiment, label)
            named = {"experiment": experiment, "objective": label}
            yield named, tokens, evidence.bounds(experiment)


def detection(results: Results) -> pd.DataFrame:
    """Recall and precision of every rule at its own threshold.

    Returns:
        One row for each experiment, arm, rule (``clip``: ratio outside the clip range; ``band``: entropy
        ratio outside the band; ``gate``: what the arm's own gate dropped) and violation (``delta``: exact
        KL above delta; ``clip_kl``: above what the clip permits the sampled action). ``recall`` is the
        share of violations that the rule finds, ``precision`` the share of what it finds that violates;
        ``1 - precision`` of ``gate`` is the share of dropped tokens that had not left the region. They
        stand below each other in the column ``measure``; ``share`` is the value over the tokens of all
        seeds, with its 95 % interval over seeds, the number of ``tokens`` divided by, and of ``seeds``.
    """
    rows = []
    for named, tokens, bounds in _arms(results):
        for rule, violation in itertools.product(RULES, VIOLATIONS):
            found, wrong = found_by(tokens, rule, bounds), violating(tokens, violation, bounds)
            for measure, part, among in (("recall", found, wrong), ("precision", wrong, found)):
                about = {"rule": rule, "violation": violation, "measure": measure}
                rows.append(named | about | _row("share", counts(tokens, part, among)))
    return pd.DataFrame(rows)


def hidden_curve(results: Results, deltas: Sequence[float] = DELTAS) -> pd.DataFrame:
    """The share of violations whose ratio lies inside the clip range, by the bound on the exact KL.

    Args:
        results: records with token samples.
        deltas: bounds, nats.

    Returns:
        One row for each experiment, arm and delta: ``hidden`` over the tokens of all seeds, with its
        95 % interval over seeds, the number of violating ``tokens``, and of ``seeds``.
    """
    return pd.DataFrame(
        named
        | {"delta": delta}
        | _row("hidden", counts(tokens, ~found_by(tokens, "clip", bounds), tokens.kl_exact > delta))
        for named, tokens, bounds in _arms(results)
        for delta in deltas
    )
