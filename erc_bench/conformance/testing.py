"""The suite as a pytest test. Only this module needs pytest.

from erc_bench.conformance.testing import conformance_tests
from my_package import my_loss

test_my_loss = conformance_tests(my_loss, waive={"padding_rows": "divides by all rows, as TRL"})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest

from erc_bench.conformance.adapting import adapt, load_loss
from erc_bench.conformance.checking import check_property, require_properties
from erc_bench.conformance.losses import AggregateName, PolicyLoss
from erc_bench.conformance.registry import PROPERTIES

__all__ = ["assert_property", "conformance_tests"]


def assert_property(loss: PolicyLoss, name: str, waiver: str | None = None) -> None:
    """Run one property as a test: it passes, fails, or skips where it does not apply or is waived.

    Raises:
        AssertionError: the property fails; says what was measured, and the rule.
    """
    result = check_property(loss, name, waiver)
    if result.status == "failed":
        raise AssertionError(f"{loss.name}: {name}: {result.message}\nrule: {result.property.rule}")
    if result.status == "waived":
        pytest.skip(f"waived: {result.reason} ({result.message})")
    if result.status == "skipped":
        pytest.skip(result.message)


def conformance_tests(
    loss: object,
    *,
    waive: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    aggregate: AggregateName = "token-mean",
    band: tuple[float, float] | None = None,
) -> Callable[[str], None]:
    """Make a test function with a case for every property; assign it to a name that pytest collects.

    Args:
        loss: a loss of any supported signature, or the text that ``erc-bench check`` would be given.
        waive: reasons by property.
        options: keyword arguments of the loss.
        aggregate: how a loss per token is reduced.
        band: half-widths of the entropy-ratio band that the loss should have.

    Raises:
        InputError: a waiver of an unknown property.
    """
    waivers = dict(waive or {})
    require_properties(waivers, by="waive")

    @cache
    def adapted() -> PolicyLoss:
        if isinstance(loss, str):
            return load_loss(loss, options=options, aggregate=aggregate, band=band)
        return adapt(loss, options=options, aggregate=aggregate, band=band)

    @pytest.mark.parametrize("name", list(PROPERTIES))
    def test(name: str) -> None:
        assert_property(adapted(), name, waivers.get(name))

    return test
