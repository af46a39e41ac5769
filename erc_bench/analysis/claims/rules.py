"""The pre-registered rules: ``claims.toml`` as checked objects."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from erc_bench.core.errors import InputError

__all__ = ["Claim", "Criterion", "Decides", "Part", "Regime", "RuleBook", "Statistic", "load"]

Regime = Literal["paper", "stress", "sweep"]
Decides = Literal["every", "mean", "no", "cells"]
Statistic = Literal[
    "value", "share", "value-to-reference", "difference", "ratio",
    "auroc", "auroc-difference", "dropped-below-kept",
]  # fmt: skip
Unit = Literal["", "%", "pp", "times"]

REGIMES: tuple[Regime, ...] = get_args(Regime)
#: Number of columns and of arms that a statistic takes.
TAKES: dict[Statistic, tuple[int, int]] = {
    "value": (1, 1),
    "share": (2, 1),
    "value-to-reference": (2, 1),
    "difference": (1, 2),
    "ratio": (1, 2),
    "auroc": (1, 1),
    "auroc-difference": (2, 1),
    "dropped-below-kept": (1, 1),
}
WORDS = ("reproduced", "not reproduced")


@dataclass(frozen=True)
class Criterion:
    """Where an interval must lie for a claim to hold, ``(above, below)``, or to fail.

    It fails below ``fails_below`` or above ``fails_above``.
    """

    above: float = -math.inf
    below: float = math.inf
    fails_below: float = -math.inf
    fails_above: float = math.inf

    def logarithm(self) -> Criterion:
        """The same criterion for the logarithm of a positive number."""

        def log(x: float) -> float:
            return -math.inf if x <= 0 else math.log(x)

        return Criterion(*map(log, (self.above, self.below, self.fails_below, self.fails_above)))


@dataclass(frozen=True)
class Part:
    """One statistic that a claim is decided by, or that is shown beside it; see ``claims.toml``."""

    name: str
    statistic: Statistic
    columns: tuple[str, ...]
    unit: Unit
    decides: Decides
    arms: tuple[tuple[str, ...], ...]
    experiments: Mapping[Regime, tuple[str, ...]]
    holds: Criterion | None
    at: Mapping[str, tuple[float, ...]]
    reference: str
    note: str

    @property
    def logarithmic(self) -> bool:
        """Whether intervals are computed on the logarithm."""
        return self.statistic == "ratio"


@dataclass(frozen=True)
class Claim:
    """A statement and the parts that decide it; ``words`` for holding and failing."""

    id: str
    title: str
    statement: str
    paper: str
    figures: tuple[int, ...]
    words: tuple[str, str]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class RuleBook:
    """Every claim, and what they share."""

    level: float
    seeds: int
    false_discovery_rate: float
    tokens: int
    claims: tuple[Claim, ...]


@cache
def load(path: Path | None = None) -> RuleBook:
    """Read and check a file of rules; None: the package's own.

    Raises:
        InputError: not TOML, or a key that is unknown, missing or of a wrong value, by its name.
    """
    source = files("erc_bench.analysis") / "claims.toml" if path is None else path
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"claims: {source} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"claims: {source} is not TOML: {error}") from None
    return rule_book(table)


def rule_book(table: Mapping[str, Any]) -> RuleBook:
    """Check a parsed file."""
    _keys(table, "claims.toml", {"version", "rules", "claim"})
    if table["version"] != 1:
        raise InputError(f"claims.toml: version: {table['version']!r} is not allowed; must be 1")
    rules = _table(table["rules"], "rules")
    _keys(rules, "rules", {"level", "seeds", "false_discovery_rate", "tokens"})
    claims = tuple(
        _claim(_table(c, f"claim[{i}]"), f"claim[{i}]")
        for i, c in enumerate(_list(table["claim"], "claim"))
    )
    names = [claim.id for claim in claims]
    if len(set(names)) < len(names):
        raise InputError(f"claim: id: {', '.join(names)}: each may be used once")
    return RuleBook(
        _number(rules["level"], "rules.level", low=0, high=1),
        int(_number(rules["seeds"], "rules.seeds", low=1)),
        _number(rules["false_discovery_rate"], "rules.false_discovery_rate", low=0, high=1),
        int(_number(rules["tokens"], "rules.tokens", low=0)),
        claims,
    )


def _claim(table: Mapping[str, Any], at: str) -> Claim:
    needed = {"id", "title", "statement", "paper", "figures", "part"}
    _keys(table, at, needed, {"words"})
    at = _text(table["id"], f"{at}.id")
    words = _texts(table.get("words", list(WORDS)), f"{at}.words")
    if len(words) != 2:
        raise InputError(
            f"{at}.words: {words!r} is not allowed; two words, for holding and failing"
        )
    parts = _list(table["part"], f"{at}.part")
    return Claim(
        id=at,
        title=_text(table["title"], f"{at}.title"),
        statement=_text(table["statement"], f"{at}.statement"),
        paper=_text(table["paper"], f"{at}.paper"),
        figures=tuple(int(_number(n, f"{at}.figures", low=0)) for n in table["figures"]),
        words=(words[0], words[1]),
        parts=tuple(
            _part(_table(p, f"{at}.part[{i}]"), f"{at}.part[{i}]") for i, p in enumerate(parts)
        ),
    )


def _part(table: Mapping[str, Any], at: str) -> Part:
    needed = {"name", "statistic", "columns", "unit", "decides", "arms", "experiments"}
    _keys(table, at, needed, {"holds", "fails", "at", "reference", "note"})
    statistic = _one_of(table["statistic"], f"{at}.statistic", get_args(Statistic))
    decides = _one_of(table["decides"], f"{at}.decides", get_args(Decides))
    columns = _texts(table["columns"], f"{at}.columns")
    arms = tuple(_texts(a, f"{at}.arms") for a in _list(table["arms"], f"{at}.arms"))
    for what, found, expected in (
        ("columns", {len(columns)}, TAKES[statistic][0]),
        ("arms", {len(a) for a in arms}, TAKES[statistic][1]),
    ):
        if found != {expected}:
            raise InputError(f"{at}.{what}: {statistic} takes {expected}, not {sorted(found)}")
    if ("reference" in table) != (statistic == "value-to-reference"):
        raise InputError(
            f"{at}.reference: belongs to value-to-reference, and to no other statistic"
        )
    if "holds" not in table and (decides != "no" or "fails" in table):
        raise InputError(f"{at}.holds: missing; only a part that decides nothing can do without")
    places = _table(table["experiments"], f"{at}.experiments")
    _keys(places, f"{at}.experiments", set(), set(REGIMES))
    points = _table(table.get("at", {}), f"{at}.at")
    return Part(
        name=_text(table["name"], f"{at}.name"),
        statistic=statistic,
        columns=columns,
        unit=_one_of(table["unit"], f"{at}.unit", get_args(Unit)),
        decides=decides,
        arms=arms,
        experiments={r: _texts(places[r], f"{at}.experiments.{r}") for r in REGIMES if r in places},
        holds=_criterion(table, at) if "holds" in table else None,
        at={
            key: tuple(_number(v, f"{at}.at.{key}") for v in _list(values, f"{at}.at.{key}"))
            for key, values in points.items()
        },
        reference=_text(table.get("reference", ""), f"{at}.reference"),
        note=_text(table.get("note", ""), f"{at}.note"),
    )


def _criterion(table: Mapping[str, Any], at: str) -> Criterion:
    bounds = {}
    for key in ("holds", "fails"):
        found = _table(table.get(key, {}), f"{at}.{key}")
        _keys(found, f"{at}.{key}", set(), {"above", "below"})
        bounds[key] = {k: _number(v, f"{at}.{key}.{k}") for k, v in found.items()}
    holds, fails = bounds["holds"], bounds["fails"]
    if not holds:
        raise InputError(f"{at}.holds: empty; above, below or both")
    above, below = holds.get("above", -math.inf), holds.get("below", math.inf)
    if not above < below:
        raise InputError(f"{at}.holds: above {above} is not below {below}")
    if not fails:
        return Criterion(above, below, fails_below=above, fails_above=below)
    return Criterion(above, below, fails.get("below", -math.inf), fails.get("above", math.inf))


def _keys(
    table: Mapping[str, Any], at: str, needed: Collection[str], optional: Collection[str] = ()
) -> None:
    known = sorted({*needed, *optional})
    for key in table:
        if key not in known:
            raise InputError(f"{at}.{key}: unknown key; allowed: {', '.join(known)}")
    for key in sorted(needed):
        if key not in table:
            raise InputError(f"{at}.{key}: missing key")


def _table(value: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{at}: {value!r} is not a table")
    return value


def _list(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{at}: {value!r} is not allowed; a list of at least one")
    return value


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{at}: {value!r} is not a string")
    return value


def _texts(value: Any, at: str) -> tuple[str, ...]:
    return tuple(_text(item, at) for item in _list(value, at))


def _number(value: Any, at: str, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        raise InputError(f"{at}: {value!r} is not a number between {low} and {high}")
    return float(value)


def _one_of(value: Any, at: str, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise InputError(f"{at}: {value!r} is unknown; allowed: {', '.join(map(repr, allowed))}")
    return value
