"""From a spec, an objective, a builder or a function of any usual signature to a :class:`PolicyLoss`."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from erc_bench.conformance.exemptions import exemptions_of
from erc_bench.conformance.loading import load
from erc_bench.conformance.losses import AGGREGATES, AggregateName, PolicyLoss
from erc_bench.conformance.probes import Fields, tokens
from erc_bench.conformance.signatures import (
    ALIASES,
    SUPPORTED,
    bind,
    parameters_of,
    require_parameters,
)
from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.core.validation import unknown
from erc_bench.objectives import Objective

__all__ = ["adapt", "load_loss"]

_BATCH_FIELDS = frozenset(f.name for f in fields(TokenBatch))

#: Parameters ``<prefix>_low`` and ``<prefix>_high`` declare a band on the entropy ratio.
_BAND_PREFIXES = ("band", "beta", "erc", "rho", "entropy")


def load_loss(
    spec: str,
    *,
    options: Mapping[str, Any] | None = None,
    aggregate: AggregateName = "token-mean",
    band: tuple[float, float] | None = None,
) -> PolicyLoss:
    """Load and adapt a loss; imports and runs the code that ``spec`` names.

    Args:
        spec: a recipe's name, ``module:function`` or ``file.py:function``.
        options: keyword arguments of the function, or parameters of the recipe.
        aggregate: for functions that return a loss per token.
        band: half-widths of the entropy-ratio band that the loss should have, if it has one.

    Raises:
        InputError: it cannot be loaded, or its signature is none of the supported ones.
    """
    return adapt(load(spec), name=spec, options=options, aggregate=aggregate, band=band)


def adapt(
    loss: object,
    *,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    aggregate: AggregateName = "token-mean",
    band: tuple[float, float] | None = None,
) -> PolicyLoss:
    """Give a loss of any supported signature the face that the properties look at.

    Raises:
        InputError: its signature is none of the supported ones, or it cannot be called so.

    >>> adapt(lambda logp, advantage, mask: -(logp * advantage)).kind
    'by name'
    """
    title = name or str(getattr(loss, "__qualname__", type(loss).__name__))
    if aggregate not in AGGREGATES:
        raise unknown("aggregate", aggregate, AGGREGATES)
    for edge in band or ():
        if not edge > 0:
            raise InputError(f"band: {edge} is not allowed; must be greater than 0")
    errors = []
    with torch.random.fork_rng(devices=[]):  # the trial calls leave the caller's random state alone
        for way in _ways(*_built(loss, title, options or {}), title):
            adapted = replace(way, aggregate=aggregate, band=band or way.band)
            try:
                adapted(tokens())
                reduced_here = adapted.returned(tokens()).ndim > 0
            except Exception as error:
                errors.append(error)
            else:
                takes = adapted.takes_denominators or reduced_here
                return replace(adapted, takes_denominators=takes)
    raise InputError(_refusal(errors[0])) from errors[0]


def _built(
    loss: object, name: str, options: Mapping[str, Any]
) -> tuple[Callable[..., Any], Mapping[str, Any]]:
    """The loss that a class or a builder makes with the options, else the loss itself and the options."""
    if not callable(loss):
        raise InputError(f"loss: {name} is of type {type(loss).__name__}; use {SUPPORTED}")
    if isinstance(loss, Objective):
        if options:
            raise InputError(f"set: {next(iter(options))!r}: an Objective takes no options")
        return loss, options
    parameters = parameters_of(loss)
    required = any(
        p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        for p in parameters.values()
        if p.name not in options
    )
    takes_tokens = any(p in ALIASES for p in parameters)
    if not inspect.isclass(loss) and (required or takes_tokens):
        return loss, options
    require_parameters(options, parameters)
    try:
        made: object = loss(**options)
    except InputError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise InputError(f"loss: building it failed: {type(error).__name__}: {text}") from error
    if not callable(made):
        raise InputError(f"loss: it takes no batch and returned {made!r:.60}; use {SUPPORTED}")
    return made, {}


def _ways(loss: Callable[..., Any], options: Mapping[str, Any], name: str) -> Iterator[PolicyLoss]:
    """The ways in which the loss may expect to be called, the likeliest first."""
    if isinstance(loss, Objective):
        yield _objective(loss, name)
        return
    parameters = parameters_of(loss)
    if not _takes_batch(parameters):
        yield from _by_name(loss, options, name)
        return
    require_parameters(options, parameters)
    band = _named_band(parameters, options)
    yield PolicyLoss(
        name,
        "TokenBatch",
        lambda part, _: loss(TokenBatch(**part), **options),
        reads=_BATCH_FIELDS,
        band=band,
    )


def _objective(objective: Objective, name: str) -> PolicyLoss:
    def call(part: Fields, whole: Fields | None) -> object:
        divisors = None if whole is None else objective.denominators(TokenBatch(**whole))
        return objective(TokenBatch(**part), divisors)

    bands = [gate.band for gate in objective.gates if hasattr(gate, "band")]
    return PolicyLoss(
        name,
        "Objective",
        call,
        takes_denominators=True,
        reads=_BATCH_FIELDS,
        band=_numbers(bands[0]) if len(bands) == 1 else None,
        exemptions=exemptions_of(objective),
        objective=objective,
    )


def _takes_batch(parameters: Mapping[str, inspect.Parameter]) -> bool:
    first = next(iter(parameters.values()), None)
    if first is None:
        return False
    annotation = first.annotation
    told = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return told.rpartition(".")[2] == "TokenBatch" or first.name in ("batch", "token_batch")


def _by_name(
    function: Callable[..., Any], options: Mapping[str, Any], name: str
) -> Iterator[PolicyLoss]:
    """Frameworks pass integer masks; other losses get bool ones, or integers where bool fails."""
    bound = bind(function, options)
    framework = None if bound.kind == "by name" else bound.kind.removesuffix("-like")
    untracked = {"old_quantities": f"{framework} passes them without a graph"}
    for per_row in (True, False) if framework == "TRL" else (False, True):
        for mask in (torch.int64,) if framework else (torch.bool, torch.int64):
            yield PolicyLoss(
                name,
                bound.kind + (", one advantage per response" if per_row else ""),
                partial(bound, per_row=per_row, mask=mask),
                takes_denominators=bound.takes_denominators,
                reads=frozenset(bound.fields.values()),
                band=_named_band(parameters_of(function), options),
                exemptions=untracked if framework else {},
            )


def _named_band(
    parameters: Mapping[str, inspect.Parameter], options: Mapping[str, Any]
) -> tuple[float, float] | None:
    """The band that a function's own parameters declare, with the values they are called with."""
    for prefix in _BAND_PREFIXES:
        pair = (f"{prefix}_low", f"{prefix}_high")
        edges = tuple(options.get(n, parameters[n].default) for n in pair if n in parameters)
        if found := _numbers(edges):
            return found
    return None


def _numbers(edges: tuple[object, ...]) -> tuple[float, float] | None:
    match edges:
        case (float(low), float(high)):
            return low, high
    return None


def _refusal(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    theirs = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).parent != Path(__file__).parent
    ]
    if theirs:
        text += f" ({Path(theirs[-1].filename).name}:{theirs[-1].lineno})"
    return f"loss: calling it on a batch of 6 x 5 tokens failed: {type(error).__name__}: {text}"
