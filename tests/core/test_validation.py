"""One manner of checking: place, value and what is allowed, in one line."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

import pytest
from pydantic import Field
from typing_extensions import Doc

from erc_bench.core.errors import InputError
from erc_bench.core.validation import (
    Count,
    Fraction,
    NonNegative,
    Positive,
    checked,
    checked_dataclass,
    unknown,
)


@checked_dataclass
class Sampling:
    count: Annotated[Count, Doc("Samples.")] = 4
    limit: Annotated[float, Field(gt=0)] = 1.0
    rate: Positive = 1.0
    share: Fraction = 0.5
    kind: Literal["one", "two"] = "one"

    def __post_init__(self) -> None:
        if self.count == 7:
            raise InputError("count: 7 does not go with this kind")


@checked_dataclass
class File:
    name: str
    parts: Annotated[tuple[Sampling, ...], Field(alias="part", min_length=1)]
    points: Mapping[Literal["x", "y"], tuple[float, ...]] = field(default_factory=dict)
    other: Sampling | None = None


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"count": 0}, "count: 0 is not allowed; must be at least 1"),
        ({"count": 2.5}, "count: 2.5 is not allowed; must be an integer"),
        ({"count": 2.0}, "count: 2.0 is not allowed; must be an integer"),
        ({"count": True}, "count: True is not allowed; must be an integer"),
        ({"count": "3"}, "count: '3' is not allowed; must be an integer"),
        ({"count": None}, "count: None is not allowed; must be an integer"),
        ({"count": 2**31}, "count: 2147483648 is not allowed; must be at most 2147483647"),
        ({"limit": math.nan}, "limit: nan is not allowed; must be greater than 0"),
        ({"rate": math.inf}, "rate: inf is not allowed; must be a finite number"),
        ({"rate": True}, "rate: True is not allowed; must be a number"),
        ({"share": 1.5}, "share: 1.5 is not allowed; must be at most 1"),
        ({"kind": "three"}, "kind: 'three' is not allowed; must be 'one' or 'two'"),
        ({"kinds": "one"}, "kinds: unknown key; did you mean kind? (allowed: count, limit, "),
        ({"count": 7}, "count: 7 does not go with this kind"),
    ],
)
def test_a_constructor_refuses_in_one_line(setting, told):
    """Also through ``replace``; the message begins with the field."""
    for build in (lambda: Sampling(**setting), lambda: dataclasses.replace(Sampling(), **setting)):
        with pytest.raises(InputError) as error:
            build()
        assert str(error.value).startswith(told)
        assert "\n" not in str(error.value)


def test_a_checked_dataclass_is_a_dataclass():
    """Frozen, comparable, hashable, picklable; integers become floats where floats are meant."""
    one = Sampling(3, rate=2, limit=math.inf)
    assert isinstance(one.rate, float)
    assert dataclasses.asdict(one) == {
        "count": 3,
        "limit": math.inf,
        "rate": 2.0,
        "share": 0.5,
        "kind": "one",
    }
    assert pickle.loads(pickle.dumps(one)) == one
    assert hash(one) == hash(Sampling(3, rate=2.0, limit=math.inf))
    assert "Doc(" in str(dataclasses.fields(Sampling)[0].type)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.count = 4


GOOD = {"name": "n", "part": [{"count": 1}], "points": {"x": [1, 2.5]}}


def test_a_parsed_file_becomes_objects():
    """Lists become tuples, tables dataclasses."""
    found = checked(File, GOOD)
    assert found == File("n", (Sampling(1),), {"x": (1.0, 2.5)})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"part": []}, "f.toml: part: [] is not allowed; must be a list of at least 1"),
        ({"part": 3}, "f.toml: part: 3 is not allowed; must be a list"),
        ({"part": [{}, 3]}, "f.toml: part[1]: 3 is not allowed; must be a table"),
        ({"part": [{"count": 7}]}, "f.toml: part[0].count: 7 does not go with this kind"),
        ({"part": [{"coumt": 1}]}, "f.toml: part[0].coumt: unknown key; did you mean count?"),
        ({"other": {"coumt": 1}}, "f.toml: other.coumt: unknown key; did you mean count?"),
        ({"points": {"x": ["1"]}}, "f.toml: points.x[0]: '1' is not allowed; must be a number"),
        ({"points": {"z": []}}, "f.toml: points.z: unknown key; must be 'x' or 'y'"),
        ({"points": []}, "f.toml: points: [] is not allowed; must be a table"),
        ({"name": 3}, "f.toml: name: 3 is not allowed; must be a text"),
        ({"name": None}, "f.toml: name: None is not allowed; must be a text"),
    ],
)
def test_a_fault_in_a_file_is_named_with_its_place(change, told):
    with pytest.raises(InputError) as error:
        checked(File, GOOD | change, at="f.toml: ")
    assert str(error.value).startswith(told)


def test_a_misspelt_key_is_named_and_not_the_one_it_stands_for():
    with pytest.raises(InputError, match=r"^f\.toml: nmae: unknown key; did you mean name\?"):
        checked(File, {"nmae": "n", "part": [{}]}, at="f.toml: ")
    with pytest.raises(InputError, match=r"^f\.toml: name: missing key$"):
        checked(File, {"part": [{}]}, at="f.toml: ")
    with pytest.raises(InputError, match=r"^f\.toml: 3 is not allowed; must be a table$"):
        checked(File, 3, at="f.toml: ")


def test_a_single_value_is_checked_by_its_name():
    assert checked(Count, 3, at="seeds") == 3
    with pytest.raises(InputError, match=r"^seeds: 0 is not allowed; must be at least 1$"):
        checked(Count, 0, at="seeds")
    with pytest.raises(InputError, match=r"^rate: -inf is not allowed; must be "):
        checked(NonNegative, -math.inf, at="rate")
    with pytest.raises(InputError, match=r"^x: .*object"):
        checked(str, object(), at="x")


def test_an_unknown_name_is_answered_with_the_nearest():
    known = ["dapo", "erc-dapo"]
    text = "objective: 'erc-dpao' is unknown; did you mean erc-dapo? (known: dapo, erc-dapo)"
    assert str(unknown("objective", "erc-dpao", known)) == text
    text = "objective: 'q' is unknown (known: dapo, erc-dapo)"
    assert str(unknown("objective", "q", iter(known))) == text
