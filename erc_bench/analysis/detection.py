"""How well each rule finds the tokens that have left the trust region, from the records' token samples.

The samples are uniform, so every share below is estimated without bias for each run; with the full
tier's thousands of tokens a run, its sampling error is small beside the spread over seeds, which the
intervals show. Tokens of the first update after a rollout, where the policies are equal, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from erc_bench.analysis.claims.evidence import Evidence
from erc_bench.analysis.claims.statistics import (
    RULES,
    VIOLATIONS,
    hidden_share,
    precision,
    recall,
)
from erc_bench.analysis.statistics import mean_interval
from erc_bench.studies.records import Results

__all__ = ["DELTAS", "detection", "hidden_curve"]

#: Nats of exact KL, from a tenth of the usual bound to thirty times it.
DELTAS = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3)


def _row(name: str, by_seed: pd.Series) -> dict[str, Any]:
    found = mean_interval(by_seed)
    return {
        name: found.mean,
        f"{name}_low": found.low,
        f"{name}_high": found.high,
        "seeds": found.n,
    }


def detection(results: Results, *, least: int = 5) -> pd.DataFrame:
    """Recall and precision of every rule at its own threshold.

    Args:
        results: records with token samples.
        least: a run with fewer tokens than this to divide by has no value.

    Returns:
        One row for each experiment, arm, rule (``clip``: ratio outside the clip range; ``band``: entropy
        ratio outside the band; ``gate``: what the arm's own gate dropped), violation (``delta``: exact
        KL above delta; ``clip_kl``: above what the clip permits the sampled action) and measure
        (``recall``: share of violations that the rule finds; ``precision``: share of what it finds that
        are violations), with mean, 95 % Student-t interval and the number of seeds that have a value.
        ``1 - precision`` of ``gate`` is the share of dropped tokens that had not left the region.
    """
    evidence, rows = Evidence(results), []
    for experiment, labels in evidence.labels.items():
        bounds = evidence.bounds(experiment)
        for label in labels:
            tokens = evidence.off_policy_tokens(experiment, label)
            for rule in RULES:
                for violation in VIOLATIONS:
                    for measure in (recall, precision):
                        by_seed = measure(tokens, rule, violation, bounds, least)
                        named = {"experiment": experiment, "objective": label, "rule": rule}
                        named |= {"violation": violation, "measure": measure.__name__}
                        rows.append(named | _row("mean", by_seed))
    return pd.DataFrame(rows)


def hidden_curve(
    results: Results, deltas: Sequence[float] = DELTAS, *, least: int = 5
) -> pd.DataFrame:
    """The share of violations whose ratio lies inside the clip range, by the bound on the exact KL.

    Args:
        results: records with token samples.
        deltas: bounds, nats.
        least: a run with fewer violations than this has no value.

    Returns:
        One row for each experiment, arm and delta: ``hidden`` with its 95 % Student-t interval over
        seeds, the number of seeds that have a value, and ``violations``, the mean share of tokens.
    """
    evidence, rows = Evidence(results), []
    for experiment, labels in evidence.labels.items():
        for label in labels:
            tokens = evidence.off_policy_tokens(experiment, label)
            for delta in deltas:
                by_seed = hidden_share(tokens, delta, evidence.bounds(experiment), least)
                above = (tokens["kl_exact"] > delta).groupby(tokens["seed"]).mean()
                named = {"experiment": experiment, "objective": label, "delta": delta}
                rows.append(named | _row("hidden", by_seed) | {"violations": above.mean()})
    return pd.DataFrame(rows)
