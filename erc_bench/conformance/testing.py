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
from erc_bench.conformance.losses import PolicyLoss
from erc_bench.conformance.registry import PROPERTIES

__all__ = ["assert_property", "conformance_tests"]


def assert_property(
    loss: PolicyLoss, name: str, waiver: str | None = None, *, strict: bool = False
) -> None:
    """Run one property as a test: it passes, fails, or skips where it does not apply or is waived.

    A failure of the level robustness is an expected one (xfail), unless ``strict``.

    Raises:
        AssertionError: the property fails; says what was measured, the rule, and how to mend it.
    """
    result = check_property(loss, name, waiver)
    rule = result.property
    if result.status == "failed" and rule.level == "robustness" and not strict:
        pytest.xfail(f"robustness: {result.message}; mend: {rule.mend}")
    if result.status == "failed":
        raise AssertionError(
            f"{loss.name}: {name}: {result.message}\nrule: {rule.rule}\nmend: {rule.mend}"
        )
    if result.status == "waived":
        pytest.skip(f"waived: {result.reason} ({result.message})")
    if result.status == "skipped":
        pytest.skip(result.message)


def conformance_tests(
    loss: object,
    *,
    waive: Mapping[str, str] | None = None,
    strict: bool = False,
    **how: Any,
) -> Callable[[str], None]:
    """Make a test function with a case for every property; assign it to a name that pytest collects.

    Args:
        loss: a loss of any supported signature, or the text that ``erc-bench check`` would be given.
        waive: reasons by property.
        strict: let failures of the level robustness fail the test, which are expected ones otherwise.
        how: keyword arguments of :func:`~erc_bench.conformance.load_loss`: options, binds, like,
            aggregate, band, clip.

    Raises:
        InputError: a waiver of an unknown property.
    """
    waivers = dict(waive or {})
    require_properties(waivers, by="waive")

    @cache
    def adapted() -> PolicyLoss:
        return load_loss(loss, **how) if isinstance(loss, str) else adapt(loss, **how)

    @pytest.mark.parametrize("name", list(PROPERTIES))
    def test(name: str) -> None:
        assert_property(adapted(), name, waivers.get(name), strict=strict)

    return test
