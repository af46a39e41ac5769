"""Names that configuration and code share; this module imports nothing of verl."""

from __future__ import annotations

from typing import Literal

__all__ = ["AGGREGATIONS", "FIELDS", "NAME", "Aggregation"]

#: Of the trainer, the policy loss and the configuration's section.
NAME = "erc_bench"
Aggregation = Literal["global", "micro-batch"]
AGGREGATIONS = ("global", "micro-batch")
#: What verl's batches can hold of a TokenBatch; no distributions.
FIELDS = ("entropy", "old_entropy", "action", "ref_logp", "rollout_logp", "reward")
