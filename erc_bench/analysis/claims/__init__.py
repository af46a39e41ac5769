"""The claims of the paper and ours, put to the records by rules that were fixed before the runs.

``claims.toml`` beside this folder holds the rules, :mod:`.rules` checks them, :mod:`.evidence` finds
runs and tokens, :mod:`.statistics` reduces each run to a number, :mod:`.inference` decides families
of rows, and :mod:`.verdicts` the claims.
"""

from erc_bench.analysis.claims.assess import Row
from erc_bench.analysis.claims.rules import RuleBook, load
from erc_bench.analysis.claims.tables import (
    as_data,
    claims_markdown,
    claims_rich,
    ours,
    unmeasured_lines,
)
from erc_bench.analysis.claims.verdicts import Assessment, Verdict, assess

__all__ = [
    "Assessment",
    "Row",
    "RuleBook",
    "Verdict",
    "as_data",
    "assess",
    "claims_markdown",
    "claims_rich",
    "load",
    "ours",
    "unmeasured_lines",
]
