"""Every number in ``docs/differences.md`` is what is measured now."""

from __future__ import annotations

from pathlib import Path

from differential import trl_losses, verl_losses

PAGE = Path(__file__).parents[2] / "docs" / "differences.md"


def test_page_of_differences_equals_its_measurements(tmp_path):
    """Measured anew; ``make docs-pages`` writes the page."""
    verl_losses.core()
    trl_losses.require_trl()
    from differential.differences import page  # noqa: PLC0415

    measured, committed = (text.splitlines() for text in (page(tmp_path), PAGE.read_text()))
    for found, expected in zip(measured, committed, strict=True):
        assert found == expected
