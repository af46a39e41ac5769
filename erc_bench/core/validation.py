"""One manner of checking values that users write: types are declared, pydantic checks them.

A setting that is out of range, a misspelt key of a TOML file and an unknown name all end as one line
of an :class:`InputError`: the place, the value, and what is allowed there.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import field
from functools import cache, wraps
from importlib.resources.abc import Traversable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, dataclass_transform, get_args, get_origin

from pydantic import AllowInfNan, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from erc_bench.core.errors import InputError

__all__ = [
    "Count",
    "Fraction",
    "NonNegative",
    "Positive",
    "Size",
    "checked",
    "checked_dataclass",
    "checked_file",
    "nearest",
    "unknown",
]

T = TypeVar("T")

#: The largest whole number that a setting may have, so that a typing error ends in a message and not
#: in an endless loop.
LARGEST = 2**31 - 1

Count = Annotated[int, Field(ge=1, le=LARGEST)]
"""A whole number of at least 1."""
Size = Annotated[int, Field(ge=0, le=LARGEST)]
"""A whole number of at least 0."""
Positive = Annotated[float, Field(gt=0), AllowInfNan(False)]
"""A finite number above 0."""
NonNegative = Annotated[float, Field(ge=0), AllowInfNan(False)]
"""A finite number of at least 0."""
Fraction = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""

_CONFIG = ConfigDict(
    strict=True, extra="forbid", arbitrary_types_allowed=True, populate_by_name=True
)

_UNKNOWN_KEY = ("unexpected_keyword_argument", "unexpected_property")

#: pydantic's kinds of error to what is allowed instead; the braces name pydantic's own details.
_ALLOWED = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "mapping_type": "a table",
    "dataclass_type": "a table",
    "dataclass_exact_type": "a table",
}


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def checked_dataclass(cls: type[T]) -> type[T]:
    """Make a frozen dataclass whose constructor checks every field against its annotation.

    Types are strict: True is no integer and "3" is no number, but an integer may stand where a float
    is meant. A ``__post_init__`` that checks fields against each other raises
    ``InputError("field: ...")``. ``replace``, ``fields`` and ``asdict`` work as with any dataclass.

    Raises:
        InputError: on construction, for the first field whose value is not allowed.

    >>> @checked_dataclass
    ... class Rollout:
    ...     prompts: Count = 32
    >>> Rollout(prompts=0)
    Traceback (most recent call last):
    erc_bench.core.errors.InputError: prompts: 0 is not allowed; must be at least 1
    """
    made: Any = pydantic_dataclass(frozen=True, config=_CONFIG)(cls)
    construct: Callable[..., None] = made.__init__

    @wraps(construct)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            construct(self, *args, **kwargs)
        except ValidationError as error:
            raise _one_line(error, made, "") from None

    made.__init__ = init
    return made  # type: ignore[no-any-return]


def checked(kind: Any, value: Any, at: str = "") -> Any:
    """A value as parsed from TOML, JSON or an option, as an object of ``kind``.

    Args:
        kind: a type: a checked dataclass, or an annotation such as :data:`Count` or ``tuple[str, ...]``.
        value: text, numbers, truth values, None, and lists and tables of them.
        at: written before the place of a fault, such as ``"claims.toml: "`` or ``"trainer.v1."``; of a
            single value, its name.

    Raises:
        InputError: names place, value and what is allowed; for an unknown key, the nearest one.

    >>> checked(Count, 0, at="seeds")
    Traceback (most recent call last):
    erc_bench.core.errors.InputError: seeds: 0 is not allowed; must be at least 1
    """
    try:
        # In strict mode only JSON's lists may become tuples, and its objects dataclasses.
        text = json.dumps(value)
    except TypeError as error:
        raise InputError(f"{at.rstrip(': .')}: {error}") from None
    try:
        return _adapter(kind).validate_json(text)
    except ValidationError as error:
        raise _one_line(error, kind, at) from None


def checked_file(kind: Any, path: Path | Traversable, what: str) -> Any:
    """The content of a TOML file (by its name) or else of a JSON file, as an object of ``kind``.

    Raises:
        InputError: unreadable, damaged, or as :func:`checked`; begins with ``what`` and the path.
    """
    is_toml = path.name.endswith(".toml")
    try:
        text = path.read_text(encoding="utf-8")
        value = tomllib.loads(text) if is_toml else json.loads(text)
    except OSError as error:
        raise InputError(f"{what}: {path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        language = "TOML" if is_toml else "JSON"
        raise InputError(f"{what}: {path} is not {language}: {error}") from None
    return checked(kind, value, at=f"{what}: {path}: ")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    if hasattr(kind, "__pydantic_config__"):  # a dataclass brings its own configuration
        return TypeAdapter(kind)
    return TypeAdapter(kind, config=_CONFIG)


def unknown(what: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the known ones, with the nearest of them.

    >>> raise unknown("objective", "dpao", ["dapo", "gspo"])
    Traceback (most recent call last):
    erc_bench.core.errors.InputError: objective: 'dpao' is unknown; did you mean dapo? (known: dapo, gspo)
    """
    names = list(known)
    return InputError(
        f"{what}: {name!r} is unknown{nearest(name, names)} (known: {', '.join(names)})"
    )


def nearest(name: object, known: Collection[str]) -> str:
    """``; did you mean X?`` with the most similar of the known names; empty if none is similar."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _one_line(error: ValidationError, kind: Any, at: str) -> InputError:
    """The first fault that pydantic found, in this project's words."""
    # A misspelt key is also reported as a missing one, which would explain less.
    found = min(error.errors(include_url=False), key=lambda e: e["type"] not in _UNKNOWN_KEY)
    what, place, value = found["type"], found["loc"], found["input"]
    details = {
        name: int(limit) if isinstance(limit, float) and limit.is_integer() else limit
        for name, limit in found.get("ctx", {}).items()
    }
    path = at + _path(place) if place else at.rstrip(": .")
    if what == "value_error":  # raised by a ``__post_init__``, with the field's name in front
        inner = str(details["error"])
        return InputError(f"{path}.{inner}" if place else f"{at}{inner}")
    if what in _UNKNOWN_KEY:
        known = _keys(kind, place[:-1])
        hint = nearest(place[-1], known)
        return InputError(f"{path}: unknown key{hint} (allowed: {', '.join(known)})")
    if place[-1:] == ("[key]",):  # a table whose keys are a Literal
        return InputError(f"{at}{_path(place[:-1])}: unknown key; must be {details['expected']}")
    if what in ("missing", "missing_argument"):
        return InputError(f"{path}: missing key")
    allowed = f"must be {_ALLOWED[what].format(**details)}" if what in _ALLOWED else found["msg"]
    return InputError(f"{path}: {value!r} is not allowed; {allowed}")


def _path(place: Sequence[str | int]) -> str:
    """``("claim", 0, "id")`` as ``claim[0].id``."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).removeprefix(".")


def _keys(kind: Any, place: Iterable[str | int]) -> list[str]:
    """The keys of the dataclass that stands at a place inside ``kind``."""
    for part in place:
        if hasattr(kind, "__pydantic_fields__"):
            kind = _fields(kind)[str(part)]
        else:  # of a list its first argument, of a table the type of its values
            kind = get_args(kind)[0 if isinstance(part, int) else -1]
        if get_origin(kind) in (Union, UnionType):  # X | None
            kind = next(arm for arm in get_args(kind) if arm is not type(None))
    return list(_fields(kind))


def _fields(kind: Any) -> dict[str, Any]:
    return {f.alias or n: f.annotation for n, f in kind.__pydantic_fields__.items()}
