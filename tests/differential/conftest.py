"""Tensors here are tiny: a second thread only waits. Nothing may be looked up on a hub."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from torch_fixtures import one_thread, seeded  # noqa: F401
