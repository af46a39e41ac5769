"""What every policy loss must satisfy, whoever wrote it. May import objectives and batches.

``losses`` gives a loss of any usual signature one face, ``properties`` and ``ratio_properties`` hold
the rules, ``checking`` runs them, ``reports`` writes the outcome down, ``testing`` makes tests.
"""

from erc_bench.conformance.adapting import adapt, load_loss
from erc_bench.conformance.checking import Report, Result, check
from erc_bench.conformance.losses import PolicyLoss
from erc_bench.conformance.registry import PROPERTIES, Property

__all__ = [
    "PROPERTIES",
    "PolicyLoss",
    "Property",
    "Report",
    "Result",
    "adapt",
    "check",
    "load_loss",
]
