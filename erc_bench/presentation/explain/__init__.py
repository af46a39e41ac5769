"""The teaching page: one HTML file for use offline, whose numbers equal the library's; needs no torch."""

from __future__ import annotations

from erc_bench.presentation.explain.page import FIRST, PRESETS, assemble, write

__all__ = ["FIRST", "PRESETS", "assemble", "write"]
