"""From a spec, an objective, a builder or a function of any usual signature to a :class:`PolicyLoss`."""

from __future__ import annotations

import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from erc_bench.conformance import probes
from erc_bench.conformance.declarations import declared_band, declared_clip, defaults, numbers
from erc_bench.conformance.exemptions import exemptions_of
from erc_bench.conformance.loading import load
from erc_bench.conformance.losses import AGGREGATES, AggregateName, PolicyLoss
from erc_bench.conformance.nesting import build, built, types_of
from erc_bench.conformance.probes import Fields, tokens
from erc_bench.conformance.signatures import (
    ALIASES,
    SUPPORTED,
    Bound,
    bind,
    parameters_of,
    require_parameters,
)
from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.core.validation import nearest, unknown
from erc_bench.objectives import Objective

__all__ = ["adapt", "load_loss"]

_BATCH_FIELDS = frozenset(f.name for f in fields(TokenBatch))


def load_loss(
    spec: str,
    *,
    options: Mapping[str, Any] | None = None,
    binds: Mapping[str, str] | None = None,
    like: str | None = None,
    aggregate: AggregateName = "token-mean",
    band: tuple[float, float] | None = None,
    clip: tuple[float, float] | None = None,
) -> PolicyLoss:
    """Load and adapt a loss; imports and runs the code that ``spec`` names.

    Args:
        spec: a recipe's name, ``module:function`` or ``file.py:function``.
        options: arguments of the function or the class, or parameters of the recipe; ``config.low``
            is a part of the argument ``config``.
        binds: what a parameter, or a part of one, is given: a field, or ``field:form``.
        like: the framework whose way of calling a loss is used (:data:`PROFILES`).
        aggregate: for functions that return a loss per token.
        band: half-widths of the entropy-ratio band that the loss should have, if it has one.
        clip: how far below and above 1 the loss should clip the ratio.

    Raises:
        InputError: it cannot be loaded, or its signature is none of the supported ones.
    """
    return adapt(
        load(spec),
        name=spec,
        options=options,
        binds=binds,
        like=like,
        aggregate=aggregate,
        band=band,
        clip=clip,
    )


def adapt(
    loss: object,
    *,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    binds: Mapping[str, str] | None = None,
    like: str | None = None,
    aggregate: AggregateName = "token-mean",
    band: tuple[float, float] | None = None,
    clip: tuple[float, float] | None = None,
) -> PolicyLoss:
    """Give a loss of any supported signature the face that the properties look at.

    Raises:
        InputError: its signature is none of the supported ones, it cannot be called so, or an option
            has no effect.

    >>> adapt(lambda logp, advantage, mask: -(logp * advantage)).kind
    'by name'
    """
    title = name or str(getattr(loss, "__qualname__", type(loss).__name__))
    if aggregate not in AGGREGATES:
        raise unknown("aggregate", aggregate, AGGREGATES)
    for option, edges in (("band", band), ("clip", clip)):
        for edge in edges or ():
            if not edge > 0:
                raise InputError(f"{option}: {edge} is not allowed; must be greater than 0")
    errors = []
    with torch.random.fork_rng(devices=[]):  # the trial calls leave the caller's random state alone
        made, left = _built(loss, title, options or {})
        own = [vars(made)] if made is not loss and hasattr(made, "__dict__") else []
        for way in _ways(made, left, binds or {}, like, title, own):
            adapted = replace(
                way, aggregate=aggregate, band=band or way.band, clip=clip or way.clip
            )
            try:
                adapted(tokens())
                reduced_here = adapted.returned(tokens()).ndim > 0
            except Exception as error:
                errors.append(error)
                continue
            if isinstance(adapted.call, Bound):
                if not (reduced_here or adapted.call.masked):
                    told = "no parameter takes mask, and the loss is one number"
                    raise InputError(f"loss: {told}; use {SUPPORTED}")
                _require_effect(adapted, left, binds or {})
                adapted = replace(adapted, takes_denominators=adapted.call.takes_counts(tokens()))
            return replace(adapted, takes_denominators=reduced_here or adapted.takes_denominators)
    # The first way is the likeliest, except that jax's come last.
    refused = errors[-1 if "jax" in sys.modules else 0]
    raise InputError(_refusal(refused)) from refused


def _built(
    loss: object, name: str, options: Mapping[str, Any]
) -> tuple[Callable[..., Any], Mapping[str, Any]]:
    """The loss that a class or a builder makes with the options, and the options that are left.

    Options of a class go to its constructor where that has such a parameter, else to the call.
    """
    if not callable(loss):
        raise InputError(f"loss: {name} is of type {type(loss).__name__}; use {SUPPORTED}")
    if isinstance(loss, Objective):
        if options:
            raise InputError(f"set: {next(iter(options))!r}: an Objective takes no options")
        return loss, options
    parameters = parameters_of(loss)
    heads = {path.partition(".")[0] for path in options}
    required = any(
        p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        for p in parameters.values()
        if p.name not in heads
    )
    takes_tokens = any(p in ALIASES for p in parameters)
    is_class: bool = inspect.isclass(loss)
    if not is_class and (required or takes_tokens):
        return loss, options
    own, left = dict(options), dict[str, Any]()
    if is_class:
        own = {path: v for path, v in options.items() if path.partition(".")[0] in parameters}
        left = {path: v for path, v in options.items() if path not in own}
    else:
        require_parameters(options, parameters)
    types = types_of(loss)
    try:
        arguments = built(own, types, {})
        for p in parameters.values():
            if p.default is p.empty and p.name not in arguments and types.get(p.name) is not None:
                arguments[p.name] = build(p.name, {}, types[p.name], {})
        made: object = loss(**arguments)
    except InputError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise InputError(f"loss: building it failed: {type(error).__name__}: {text}") from error
    if not callable(made) or isinstance(made, torch.Tensor):
        raise InputError(f"loss: it takes no batch and returned {made!r:.60}; use {SUPPORTED}")
    return made, left


def _ways(
    loss: Callable[..., Any],
    options: Mapping[str, Any],
    binds: Mapping[str, str],
    like: str | None,
    name: str,
    own: Sequence[Mapping[str, Any]],
) -> Iterator[PolicyLoss]:
    """The ways in which the loss may expect to be called, the likeliest first."""
    if isinstance(loss, Objective):
        if binds or like:
            raise InputError(f"like, bind: {name} is an Objective, which is called as it is")
        yield _objective(loss, name)
        return
    parameters = parameters_of(loss)
    if not _takes_batch(parameters) or binds or like:
        yield from _by_name(loss, options, binds, like, name, own)
        return
    require_parameters(options, parameters)
    yield PolicyLoss(
        name,
        "TokenBatch",
        lambda part, _: loss(TokenBatch(**part), **options),
        reads=_BATCH_FIELDS,
        band=declared_band(defaults(parameters), options),
        clip=declared_clip(defaults(parameters), options, *own),
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
        band=numbers(bands[0]) if len(bands) == 1 else None,
        clip=numbers(objective.surrogate.clip_range or ()),
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
    function: Callable[..., Any],
    options: Mapping[str, Any],
    binds: Mapping[str, str],
    like: str | None,
    name: str,
    own: Sequence[Mapping[str, Any]],
) -> Iterator[PolicyLoss]:
    """The function itself; where its module has imported jax, as a function of jax arrays too."""
    names = defaults(parameters_of(function)), *own
    functions = [function]
    if "jax" in sys.modules:
        from erc_bench.conformance.jax_bridge import of_jax  # noqa: PLC0415  # jax is optional

        functions.append(of_jax(function))
    for called in functions:
        bound = bind(called, options, binds, like)
        values = {path.rpartition(".")[2]: value for path, value in bound.values.items()}
        parts = [vars(v) for v in bound.values.values() if hasattr(v, "__dict__")]
        for way in bound.ways():
            forms = {form for source in way.sources.values() for form in source.forms}
            kind = way.profile.title + (", jax" if called is not function else "")
            kind += ", one advantage per response" if "rows" in forms else ""
            yield PolicyLoss(
                name,
                kind,
                way,
                reads=way.reads,
                band=declared_band(*names, values),
                clip=declared_clip(*names, values, *parts),
            )


def _require_effect(loss: PolicyLoss, options: Mapping[str, Any], binds: Mapping[str, str]) -> None:
    """Require that every option makes a difference, or is at least read.

    Raises:
        InputError: one is swallowed by ``**kwargs``, or by an argument whose parts nothing reads.
    """
    bound = loss.call
    assert isinstance(bound, Bound)
    parameters = parameters_of(bound.function)
    named = [p.name for p in parameters.values() if p.kind is not p.VAR_KEYWORD]
    config = bound.profile.config
    unread = bound.unread(tokens())
    for path in (*options, *binds):
        inner = path if path in {*bound.values, *bound.sources} else f"{config}.{path}"
        option = "bind" if path in binds else "set"
        if inner in unread:
            raise InputError(f"{option}: {path!r} has no effect: the loss does not read it")
        if path.partition(".")[0] in named or inner != path:
            continue
        without = replace(
            bound,
            values={k: v for k, v in bound.values.items() if k != path},
            sources={k: v for k, v in bound.sources.items() if k != path},
        )
        if _same_everywhere(loss, replace(loss, call=without)):
            raise InputError(
                f"{option}: {path!r} is swallowed by **kwargs and changes nothing{nearest(path, named)} "
                f"(it has: {named})"
            )


def _same_everywhere(first: PolicyLoss, second: PolicyLoss) -> bool:
    """Whether two losses agree on an ordinary batch and at all sampled and entropy ratios."""
    grid = torch.logspace(math.log10(0.05), math.log10(20), 61, dtype=torch.float64)
    try:
        for part in (tokens(), probes.ratios(grid), probes.rhos(grid)):
            one, two = first.evaluate(part), second.evaluate(part)
            if not torch.equal(one.loss, two.loss):
                return False
            if any(not torch.equal(one.gradient[n], two.gradient[n]) for n in one.gradient):
                return False
    except Exception:  # without the option it cannot be called
        return False
    return True


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
