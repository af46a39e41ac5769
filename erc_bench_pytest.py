"""``pytest --erc-check module:function``: one test for each property of erc-bench's suite.

Wherever erc-bench is installed, every pytest run loads this module. So it stands outside the package
and imports neither torch nor erc_bench unless the option is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

__all__ = ["LossCollector", "PropertyItem"]


#: The options beside --erc-check, as those of ``erc-bench check``: what they take and what they mean.
OPTIONS: dict[str, dict[str, Any]] = {
    "waive": {"metavar": "NAME=REASON", "help": "a property that may fail, and why"},
    "set": {"metavar": "NAME=VALUE", "help": "an argument of the losses, or a part of one"},
    "bind": {"metavar": "NAME=FIELD", "help": "what a parameter is given, as prev=old_logp:packed"},
    "like": {"metavar": "FRAMEWORK", "help": "call the losses as this framework does"},
    "strict": {"action": "store_true", "help": "let broken rules of robustness fail, too"},
    "aggregate": {"metavar": "NAME", "help": "token-mean, sequence-mean or sequence-sum"},
    "band": {
        "nargs": 2,
        "type": float,
        "metavar": ("LOW", "HIGH"),
        "help": "the entropy-ratio band",
    },
    "clip": {
        "nargs": 2,
        "type": float,
        "metavar": ("LOW", "HIGH"),
        "help": "the clip on the ratio",
    },
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--erc-check`` and the options of ``erc-bench check``, each with ``--erc-`` before its name."""
    group = parser.getgroup("erc-bench", "policy losses (erc-bench)")
    group.addoption(
        "--erc-check",
        action="append",
        default=[],
        metavar="LOSS",
        help="check a policy loss: recipe, module:function or file.py:function; runs its code (repeatable)",
    )
    for name, options in OPTIONS.items():
        repeatable = (
            {"action": "append", "default": []} if "=" in str(options.get("metavar")) else {}
        )
        group.addoption(f"--erc-{name}", **repeatable, **options)


def pytest_collection(session: pytest.Session) -> None:
    """Refuse the options where no loss is checked."""
    option = session.config.option
    given = [f"--erc-{name}" for name in OPTIONS if getattr(option, f"erc_{name}")]
    if given and not option.erc_check:
        raise pytest.UsageError(f"{', '.join(given)}: need --erc-check")


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add the properties of the losses asked for, after the collected tests."""
    for spec in session.config.option.erc_check:
        collector = LossCollector.from_parent(session, name=f"erc-check[{spec}]", spec=spec)
        items.extend(collector.collect())


class LossCollector(pytest.Collector):
    """A loss whose items are its properties."""

    def __init__(self, *, spec: str, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.spec = spec

    def collect(self) -> Iterator[PropertyItem]:
        """One item per property."""
        from erc_bench.conformance import PROPERTIES, load_loss  # noqa: PLC0415
        from erc_bench.conformance.checking import require_properties  # noqa: PLC0415
        from erc_bench.conformance.loading import pairs, value  # noqa: PLC0415
        from erc_bench.core.errors import InputError  # noqa: PLC0415

        option = self.config.option
        how = {n: getattr(option, f"erc_{n}") for n in ("like", "aggregate", "band", "clip")}
        try:
            waivers = pairs("erc-waive", option.erc_waive)
            require_properties(waivers, by="erc-waive")
            options = {k: value(v) for k, v in pairs("erc-set", option.erc_set).items()}
            binds = pairs("erc-bind", option.erc_bind)
            how = {n: tuple(v) if isinstance(v, list) else v for n, v in how.items() if v}
            loss = load_loss(self.spec, options=options, binds=binds, **how)
        except InputError as error:
            raise pytest.UsageError(f"--erc-check {self.spec}: {error}") from None
        for name in PROPERTIES:
            yield PropertyItem.from_parent(self, name=name, loss=loss, waiver=waivers.get(name))


class PropertyItem(pytest.Item):
    """One property of one loss."""

    def __init__(self, *, loss: Any, waiver: str | None, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.loss, self.waiver = loss, waiver

    def runtest(self) -> None:
        """Pass, skip with the reason, or fail with what was measured."""
        from erc_bench.conformance.testing import assert_property  # noqa: PLC0415

        strict = self.config.option.erc_strict
        assert_property(self.loss, self.name, self.waiver, strict=strict)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show what was measured, without frames of this plug-in."""
        if isinstance(excinfo.value, AssertionError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Report under the names of the loss and the property."""
        return self.path, None, f"{self.loss.name}: {self.name}"
