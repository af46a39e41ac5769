"""Tensors here are tiny: a second thread only waits."""

from __future__ import annotations

from torch_fixtures import one_thread, seeded  # noqa: F401
