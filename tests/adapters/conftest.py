"""verl and TRL are optional here; nothing may be looked up on a hub."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec

from torch_fixtures import one_thread  # noqa: F401

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

#: imports verl when it is imported, as verl's own registries want it
collect_ignore = ["verl_cpu.py"]

if find_spec("verl") is not None:
    # Importing the plug-in imports verl, which warns of engines and packages that are not there.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import erc_bench.adapters.verl  # noqa: F401
