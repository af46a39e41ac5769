"""What every policy loss must satisfy, whoever wrote it.

``adapting`` turns a loss of any usual signature into the :class:`PolicyLoss` of ``losses``;
``properties`` and ``ratio_properties`` hold the rules, ``checking`` runs them on it, ``reports`` writes
the outcome down and ``testing`` makes pytest tests of it.
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
