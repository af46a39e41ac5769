"""From ``name``, ``module:function`` or ``file.py:function`` to the object it names."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from erc_bench.core.errors import InputError
from erc_bench.objectives import RECIPES, recipe

__all__ = ["load", "names_code", "pairs", "value"]


def names_code(spec: str) -> bool:
    """Whether loading ``spec`` imports, and so runs, the caller's code."""
    return ":" in spec


def load(spec: str) -> object:
    """The object that ``spec`` names: a recipe's builder, or an attribute of a module or a file.

    Modules are found from the current folder first.

    Raises:
        InputError: there is no such recipe, module, file or attribute, or importing it fails; the
            exception's ``__cause__`` is then the reason.
    """
    if not names_code(spec):
        if spec not in RECIPES and ("." in spec or "/" in spec):
            raise InputError(f"loss: {spec!r} names no function; write module:function")
        return recipe(spec).build
    place, _, path = spec.rpartition(":")
    if not place or not path:
        raise InputError(f"loss: {spec!r} is not module:function or file.py:function")
    is_file = place.endswith(".py")
    try:
        found: object = _from_file(Path(place)) if is_file else _from_folder(place)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"loss: importing {place} failed: {_one_line(error)}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise InputError(f"loss: {place} has no {name!r}{_public(found)}")
        found = getattr(found, name)
    return found


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"loss: {path} is not a file")
    name = f"_erc_bench_checked_{path.stem}"
    made = importlib.util.spec_from_file_location(name, path)
    assert made is not None
    assert made.loader is not None
    module = importlib.util.module_from_spec(made)
    sys.modules[name] = module  # dataclasses in it look themselves up
    made.loader.exec_module(module)
    return module


def _from_folder(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    return importlib.import_module(name)


def _public(owner: object) -> str:
    names = [n for n in vars(owner) if not n.startswith("_") and callable(getattr(owner, n))]
    return f" (it has: {', '.join(names[:12])})" if names else ""


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Parse ``name=value`` texts.

    Raises:
        InputError: one is not of that form, has nothing after the sign, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, content = (part.strip() for part in text.partition("="))
        if not (name and equals and content):
            raise InputError(f"{option}: {text!r} is not NAME=VALUE")
        if name in found:
            raise InputError(f"{option}: {name!r} is given twice")
        found[name] = content
    return found


def value(text: str) -> Any:
    """A Python literal, else the text itself.

    >>> value("0.2"), value("None"), value("token-mean")
    (0.2, None, 'token-mean')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
