"""verl and TRL are optional here; nothing may be looked up on a hub."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

#: imports verl when it is imported, as verl's own registries want it
collect_ignore = ["verl_cpu.py"]
