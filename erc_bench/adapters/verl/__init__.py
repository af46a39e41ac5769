"""Any objective in unmodified verl 0.9: ``VERL_USE_EXTERNAL_MODULES=erc_bench.adapters.verl``.

verl imports this module in every process; doing so registers the trainer and the policy loss, both
named ``erc_bench``. ``loss`` is what runs for each micro-batch, ``trainer`` installs it after it has
checked the configuration. Needs verl (``erc-bench[verl]`` and ``pip install --no-deps verl==0.9.1``).
"""

from erc_bench.adapters.verl.loss import ObjectiveLoss
from erc_bench.adapters.verl.trainer import NAME, ObjectiveTrainer, objective_loss

__all__ = ["NAME", "ObjectiveLoss", "ObjectiveTrainer", "objective_loss"]
