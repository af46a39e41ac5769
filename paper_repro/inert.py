"""Keys of verl that do nothing in a given configuration, by the rules in ``inert.toml``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from importlib.resources import files
from typing import Annotated, Any

from pydantic import Field

from erc_bench.core.validation import checked_dataclass, checked_file

__all__ = ["RULES", "Rule", "inert"]

#: The value of a composed configuration at a dotted key; None where there is none.
At = Callable[[str], Any]


@checked_dataclass
class Rule:
    """Some keys do nothing where every one of the conditions holds."""

    keys: tuple[str, ...]
    why: str
    on: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    positive: tuple[str, ...] = ()
    one_of: Annotated[Mapping[str, tuple[Any, ...]], Field(alias="is")] = field(
        default_factory=dict
    )
    none_of: Annotated[Mapping[str, tuple[Any, ...]], Field(alias="is_not")] = field(
        default_factory=dict
    )

    def covers(self, key: str) -> bool:
        """Whether the rule is about this key."""
        return any(key.startswith(k) if k.endswith(".") else key == k for k in self.keys)

    def holds(self, at: At) -> bool:
        """Whether every condition holds in a configuration."""
        return (
            all(at(key) for key in self.on)
            and not any(at(key) for key in self.off)
            and all((at(key) or 0) > 0 for key in self.positive)
            and all(at(key) in values for key, values in self.one_of.items())
            and not any(at(key) in values for key, values in self.none_of.items())
        )


RULES: tuple[Rule, ...] = checked_file(
    Mapping[str, tuple[Rule, ...]], files("paper_repro") / "inert.toml", "inert"
)["rule"]


def inert(key: str, at: At) -> str | None:
    """Why this key does nothing, or None.

    Args:
        key: dotted, without a leading +.
        at: the composed configuration's value at a key; None where there is none.
    """
    return next((rule.why for rule in RULES if rule.covers(key) and rule.holds(at)), None)
