"""Arguments with parts: ``config.clip.low`` is the ``low`` of the ``clip`` of a configuration."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from erc_bench.core.errors import InputError

__all__ = ["Box", "Tree", "build", "built", "tree", "types_of"]

#: Values by name; a nested mapping is an argument with parts.
Tree: TypeAlias = Mapping[str, Any]


class Box(dict[str, Any]):
    """A configuration whose values are read as attributes, by key or with ``get``.

    It notes which are read, so that a setting without effect can be told.
    """

    def __init__(self, path: str, values: Tree, stands_for: str | None = None) -> None:
        super().__init__(values)
        self.__dict__.update(_path=path, _stands_for=stands_for, _read=set())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self and name not in self._defaults():
            path = f"{self._path}.{name}"
            raise AttributeError(
                f"{path} is unknown here; give it with --set {path}=VALUE or --bind {path}=FIELD"
            )
        return self[name]

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    def __missing__(self, name: str) -> Any:
        defaults = self._defaults()
        if name not in defaults:
            raise KeyError(f"{self._path}.{name}")
        return defaults[name]

    def __contains__(self, name: object) -> bool:
        self._read.add(name)
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As a dict's."""
        try:
            return self[name]
        except KeyError:
            return default

    def __iter__(self) -> Iterator[str]:
        self._read.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        """As a dict's; everything counts as read, as it does where ``**`` unpacks it."""
        self._read.update(super().keys())
        return super().keys()

    def _type(self) -> type | None:
        """The framework's own type, where the loss has imported it."""
        module, _, name = (self._stands_for or "").partition(":")
        return getattr(sys.modules.get(module), name, None)

    def _defaults(self) -> dict[str, Any]:
        known = self._type()
        found = {}
        for f in dataclasses.fields(known) if dataclasses.is_dataclass(known) else ():
            if f.default is not dataclasses.MISSING:
                found[f.name] = f.default
            elif f.default_factory is not dataclasses.MISSING:
                found[f.name] = f.default_factory()
        return found

    @property  # type: ignore[misc]  # losses assert the type of their configuration
    def __class__(self) -> type:
        return self._type() or Box

    def unread(self) -> Iterator[str]:
        """The paths of the values that nothing has read."""
        for name, value in self.items():
            if isinstance(value, Box):
                yield from value.unread()
            elif name not in self._read:
                yield f"{self._path}.{name}"


def tree(paths: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values from values by dotted path.

    Raises:
        InputError: a path is a value and has parts too.

    >>> tree({"a.b": 1, "a.c": 2, "d": 3})
    {'a': {'b': 1, 'c': 2}, 'd': 3}
    """
    found: dict[str, Any] = {}
    for path, value in paths.items():
        *parents, name = path.split(".")
        inner = found
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise InputError(f"set: {path!r}: {parent!r} is given a value too")
        if name in inner:
            raise InputError(f"set: {path!r} is given twice")
        inner[name] = value
    return found


def types_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The annotations of a function or of a class's constructor, as far as they can be resolved."""
    target = function.__init__ if inspect.isclass(function) else function
    if not inspect.isroutine(target):
        target = type(target).__call__
    try:
        return typing.get_type_hints(target)
    except Exception:  # names that only a type checker can resolve
        return {}


def built(
    paths: Mapping[str, Any], types: Mapping[str, Any], stands_for: Mapping[str, str]
) -> dict[str, Any]:
    """Arguments by name from values by dotted path; those with parts are made by :func:`build`.

    Raises:
        InputError: as :func:`tree` and :func:`build` do.
    """
    nested = {path.partition(".")[0] for path in paths if "." in path}
    return {
        name: build(name, value, types.get(name), stands_for) if name in nested else value
        for name, value in tree(paths).items()
    }


def build(path: str, values: Tree, annotation: Any, stands_for: Mapping[str, str]) -> Any:
    """An argument with parts, of the annotated type where that is a class with such fields.

    Dataclasses and models are built by their constructors, everything else is a :class:`Box`.

    Raises:
        InputError: the annotated type does not take the values.
    """
    if set(values) == {"*"}:  # one for each response
        return [
            build(f"{path}[{i}]", one, None, stands_for)
            for i, one in enumerate(_parted(values["*"]))
        ]
    made = _class_of(annotation)
    inner = types_of(made) if made else {}
    parts = {
        name: build(f"{path}.{name}", value, inner.get(name), stands_for)
        if type(value) is dict  # made by :func:`tree`
        else value
        for name, value in values.items()
    }
    if made is None or path in stands_for:
        return Box(path, parts, stands_for.get(path))
    try:
        return made(**parts)
    except Exception as error:
        text = " ".join(str(error).split())
        raise InputError(f"set: {path}: {made.__name__}: {text}") from error


def _parted(values: Any) -> Iterator[Any]:
    """Nested lists of values, one value for each response, as nested values for each response."""
    if not isinstance(values, dict):
        yield from values
        return
    for parts in zip(*(_parted(value) for value in values.values()), strict=True):
        yield dict(zip(values, parts, strict=True))


def _class_of(annotation: Any) -> type | None:
    """The one dataclass or model that an annotation names, as in ``Config | None``."""
    for kind in (annotation, *typing.get_args(annotation)):
        if inspect.isclass(kind) and (
            dataclasses.is_dataclass(kind) or hasattr(kind, "model_fields")
        ):
            return kind
    return None
