"""Fixtures of the folders whose tensors are tiny: imported by their ``conftest.py``."""

from __future__ import annotations

import pytest
import torch

__all__ = ["one_thread", "seeded"]


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """A second thread would only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
