"""Plug-in for unmodified verl 0.9: the policy loss and the trainer ``erc_bench``; imports objectives only.

``VERL_USE_EXTERNAL_MODULES=erc_bench.adapters.verl`` makes verl import this module in every
process, which registers both (see ``docs/verl.md`` for the configuration). Where verl is not
installed, importing it registers nothing.

There is no ``verl.plugins`` entry point on purpose: verl logs a failed entry point at debug level
and goes on, so that a broken installation would train something else.
"""

from importlib.util import find_spec

from erc_bench.adapters.verl.settings import NAME, Settings

__all__ = ["NAME", "Settings"]

if find_spec("verl") is not None:
    from erc_bench.adapters.verl.loss import register_loss
    from erc_bench.adapters.verl.trainer import register_trainer

    register_loss()
    register_trainer()
