"""Which names verl's source reads: a key whose name is not among them is set and silently ignored."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["PASSED_WHOLE", "names_read"]

#: Sections that verl hands to something else as they are, which then reads names of its own.
PASSED_WHOLE = (
    "ray_kwargs.ray_init.",  # ray.init
    "transfer_queue.",  # TransferQueue
    "global_profiler.",  # nsys, torch
    "actor_rollout_ref.rollout.engine_kwargs.",  # vLLM, SGLang
    "actor_rollout_ref.model.override_config.",  # transformers
    "data.apply_chat_template_kwargs.",  # the tokenizer
    "actor_rollout_ref.actor.fsdp_config.wrap_policy.",  # FSDP
    "actor_rollout_ref.model.tiled_mlp.",  # the patched MLP
)
READERS = {"get", "getattr", "hasattr", "pop", "select", "setdefault"}


@cache
def names_read() -> frozenset[str]:
    """Names that occur as a read attribute, an index, a comparison or an argument of a getter.

    Declarations in dataclasses and words of docstrings do not count: they read nothing. A name that is
    read of something else than the configuration does count, so that this finds some ignored keys and
    accuses none wrongly, but for those of :data:`PASSED_WHOLE`.
    """
    spec = find_spec("verl")
    assert spec is not None
    assert spec.origin is not None
    found: set[str] = set()
    for path in Path(spec.origin).parent.rglob("*.py"):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            found.update(_read_by(node))
    return frozenset(found)


def _read_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        yield node.attr
    elif isinstance(node, ast.Subscript):
        yield from _words(node.slice)
    elif isinstance(node, ast.Compare):
        for side in (node.left, *node.comparators):
            yield from _words(side)
    elif isinstance(node, ast.Call):
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in READERS:
            for argument in node.args:
                yield from _words(argument)


def _words(node: ast.AST) -> Iterator[str]:
    """The parts of a dotted string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from node.value.split(".")
