"""One face for every loss: called on fields, it returns a scalar whose gradients can be asked for."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from erc_bench.conformance.exemptions import exemptions_of
from erc_bench.conformance.loading import load
from erc_bench.conformance.probes import TRAINED, Fields, tokens
from erc_bench.conformance.signatures import ALIASES, SUPPORTED, bind, parameters_of
from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.objectives import (
    Aggregate,
    Objective,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    TokenMean,
)

__all__ = ["AGGREGATES", "AggregateName", "Evaluation", "PolicyLoss", "adapt", "load_loss"]

AggregateName = Literal["token-mean", "sequence-mean", "sequence-sum"]
AGGREGATES: Mapping[AggregateName, Aggregate] = dict(
    zip(
        get_args(AggregateName),
        (TokenMean(), SequenceMeanTokenMean(), SequenceMeanTokenSum()),
        strict=True,
    )
)

#: (micro-batch, the whole batch where its counts are to be used) to what the loss returns.
Call = Callable[[Fields, Fields | None], object]

_BATCH_FIELDS = frozenset(f.name for f in fields(TokenBatch))

_BAND_NAMES = (
    ("band_low", "band_high"), ("beta_low", "beta_high"), ("erc_low", "erc_high"),
    ("rho_low", "rho_high"), ("entropy_low", "entropy_high"),
)  # fmt: skip


class Evaluation(NamedTuple):
    """A loss's value and its gradients by field, both detached."""

    loss: Tensor
    gradient: Mapping[str, Tensor]


@dataclass(frozen=True)
class PolicyLoss:
    """An adapted loss.

    Attributes:
        name: as the caller wrote it.
        kind: which signature it has.
        call: the loss on raw fields.
        aggregate: reduces per-token or per-row losses; not used where the loss is a scalar.
        takes_denominators: whether micro-batches can be told the whole batch's counts.
        reads: fields it is given; whole distributions only through a TokenBatch.
        band: (low, high), half-widths of the entropy-ratio band it declares.
        exemptions: reasons by property, of what it does not claim to satisfy.
        objective: the objective itself, where it is one of ours.
    """

    name: str
    kind: str
    call: Call
    aggregate: AggregateName = "token-mean"
    takes_denominators: bool = False
    reads: frozenset[str] = frozenset()
    band: tuple[float, float] | None = None
    exemptions: Mapping[str, str] = field(default_factory=dict)
    objective: Objective | None = None

    def __call__(self, part: Fields, whole: Fields | None = None) -> Tensor:
        """The scalar loss; per-token losses are aggregated, by the whole batch's count if given."""
        result = _tensor(self.call(part, whole))
        if result.ndim == 0:
            return result
        mask, aggregate = part["mask"], AGGREGATES[self.aggregate]
        if result.ndim == 1 and result.shape == mask.shape[:1]:
            count = (mask if whole is None else whole["mask"]).any(-1).sum()
            return torch.where(mask.any(-1), result, 0.0).sum() / count.clamp(min=1)
        if result.shape == mask.shape:
            divisor = None if whole is None else aggregate.denominator(whole["mask"])
            return aggregate(result, mask, divisor)
        raise InputError(
            f"loss: returned shape {tuple(result.shape)}, expected (), {tuple(mask.shape[:1])} or "
            f"{tuple(mask.shape)}"
        )

    def evaluate(self, part: Fields, *wanted: str, whole: Fields | None = None) -> Evaluation:
        """Value and gradients with respect to fields; the trained ones where none is named.

        A field that the loss does not depend on has gradient zero.
        """
        leaves = {k: v.detach().clone() for k, v in part.items()}
        names = [k for k in wanted or TRAINED if k in leaves]
        for name in {*names, *TRAINED} & leaves.keys():
            leaves[name].requires_grad_(leaves[name].is_floating_point())
        loss = self(leaves, whole)
        inputs = [leaves[name] for name in names]
        found: Sequence[Tensor | None] = [None] * len(names)
        if loss.requires_grad:
            found = torch.autograd.grad(loss, inputs, allow_unused=True)
        gradients = {
            name: torch.zeros_like(x) if g is None else g
            for name, x, g in zip(names, inputs, found, strict=True)
        }
        return Evaluation(loss.detach(), gradients)

    def push(self, part: Fields) -> Tensor:
        """``dL/dlogp`` at the sampled actions, ``(B, T)``.

        A loss that takes them from the whole distributions instead has the gradient there.
        """
        found = self.evaluate(part).gradient
        return _at_actions(found, part) if _elsewhere(found) else found["logp"]

    def push_of_advantage(self, part: Fields) -> Tensor:
        """:meth:`push` without what is there at A = 0 already: penalties, such as a KL estimate."""
        found = self.evaluate(part).gradient
        none = self.evaluate({**part, "advantage": torch.zeros_like(part["advantage"])}).gradient
        if _elsewhere(found):
            return _at_actions(found, part) - _at_actions(none, part)
        return found["logp"] - none["logp"]


def _elsewhere(gradient: Mapping[str, Tensor]) -> bool:
    """Whether the sampled actions get their gradient through the whole distributions alone."""
    return not bool((gradient["logp"] != 0).any()) and bool((gradient["log_probs"] != 0).any())


def _at_actions(gradient: Mapping[str, Tensor], part: Fields) -> Tensor:
    return gradient["log_probs"].gather(-1, part["action"][..., None]).squeeze(-1)


def _tensor(result: object) -> Tensor:
    """The loss in what a function returned: alone, first of a tuple, or under ``loss``."""
    if isinstance(result, tuple | list) and result:
        result = result[0]
    elif isinstance(result, Mapping):
        result = result.get("loss")
    if not isinstance(result, Tensor):
        raise InputError(
            f"loss: returned {type(result).__name__}; expected a tensor, a tuple that starts with "
            "one, or a dict with 'loss'"
        )
    return result


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
    given = dict(options or {})
    title = name or str(getattr(loss, "__qualname__", type(loss).__name__))
    if aggregate not in AGGREGATES:
        raise InputError(f"aggregate: {aggregate!r} is unknown; allowed: {', '.join(AGGREGATES)}")
    for edge in band or ():
        if not edge > 0:
            raise InputError(f"band: {edge} is not allowed; must be greater than 0")
    with torch.random.fork_rng(devices=[]):  # trying it leaves the caller's random state alone
        adapted = _adapted(_built(loss, given), title, given, aggregate)
        adapted = replace(adapted, aggregate=aggregate, band=band or adapted.band)
        try:
            adapted(tokens())
            reduced_here = _tensor(adapted.call(tokens(), None)).ndim > 0
        except Exception as error:
            raise InputError(_refusal(error)) from error
    return replace(adapted, takes_denominators=adapted.takes_denominators or reduced_here)


def _adapted(
    loss: object, name: str, options: Mapping[str, Any], aggregate: AggregateName
) -> PolicyLoss:
    if isinstance(loss, Objective):
        return _objective(loss, name)
    if not callable(loss):
        raise InputError(f"loss: {name} is a {type(loss).__name__}; use {SUPPORTED}")
    if _takes_batch(parameters_of(loss)):
        return _on_batches(loss, name, options)
    return _by_name(loss, name, options, aggregate)


def _built(loss: object, options: dict[str, Any]) -> object:
    """What a class or a builder makes; the options go into it."""
    if isinstance(loss, Objective) or not callable(loss):
        if options:
            raise InputError(f"set: {next(iter(options))!r}: an Objective takes no options")
        return loss
    parameters = parameters_of(loss)
    required = [p for p in parameters.values() if p.default is p.empty and p.name not in options
                and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]  # fmt: skip
    takes_tokens = any(p in ALIASES for p in parameters)
    if not inspect.isclass(loss) and (required or takes_tokens):
        return loss
    unknown = [k for k in options if k not in parameters]
    if unknown:
        allowed = ", ".join(parameters) or "none"
        raise InputError(f"set: {unknown[0]!r} is no parameter (allowed: {allowed})")
    try:
        made: object = loss(**options)
    except InputError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise InputError(f"loss: building it failed: {type(error).__name__}: {text}") from error
    options.clear()
    if not callable(made):
        raise InputError(f"loss: it takes no batch and returned {made!r:.60}; use {SUPPORTED}")
    return made


def _token_batch(part: Fields) -> TokenBatch:
    return TokenBatch(**part)


def _objective(objective: Objective, name: str) -> PolicyLoss:
    def call(part: Fields, whole: Fields | None) -> object:
        divisors = None if whole is None else objective.denominators(_token_batch(whole))
        return objective(_token_batch(part), divisors)

    return PolicyLoss(
        name, "Objective", call, takes_denominators=True,
        reads=_BATCH_FIELDS, band=_declared_band(objective),
        exemptions=exemptions_of(objective), objective=objective,
    )  # fmt: skip


def _declared_band(objective: Objective) -> tuple[float, float] | None:
    bands = [
        (float(low), float(high))
        for gate in objective.gates
        if "Entropy" in type(gate).__name__
        and isinstance(low := getattr(gate, "low", None), float)
        and isinstance(high := getattr(gate, "high", None), float)
    ]
    return bands[0] if len(bands) == 1 else None


def _takes_batch(parameters: Mapping[str, inspect.Parameter]) -> bool:
    first = next(iter(parameters.values()), None)
    if first is None:
        return False
    annotation = first.annotation
    told = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return told.rpartition(".")[2] == "TokenBatch" or first.name in ("batch", "token_batch")


def _on_batches(function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> PolicyLoss:
    parameters = parameters_of(function)
    unknown = [k for k in options if k not in parameters]
    if unknown:
        raise InputError(f"set: {unknown[0]!r} is no parameter (allowed: {', '.join(parameters)})")

    def call(part: Fields, whole: Fields | None) -> object:
        return function(_token_batch(part), **options)

    return PolicyLoss(
        name, "TokenBatch", call, reads=_BATCH_FIELDS, band=_named_band(parameters, options)
    )


def _named_band(
    parameters: Mapping[str, inspect.Parameter], options: Mapping[str, Any]
) -> tuple[float, float] | None:
    """The band in a function's own parameters, where they are called so."""
    for pair in _BAND_NAMES:
        edges = [options.get(n, parameters[n].default) for n in pair if n in parameters]
        if len(edges) == 2 and all(isinstance(e, float) for e in edges):
            return edges[0], edges[1]
    return None


def _by_name(
    function: Callable[..., Any],
    name: str,
    options: Mapping[str, Any],
    aggregate: AggregateName,
) -> PolicyLoss:
    """Frameworks pass integer masks; elsewhere masks are bool, or numbers where bool fails."""
    bound = bind(function, options)
    per_row = {"TRL-like": (True, False)}.get(bound.kind, (False, True))
    masks = (torch.int64,) if bound.kind != "by name" else (torch.bool, torch.int64)
    errors: list[Exception] = []
    for row in per_row:
        for kind in masks:

            def call(
                part: Fields, whole: Fields | None, row: bool = row, kind: torch.dtype = kind
            ) -> object:
                return bound(part, whole, per_row=row, mask=kind)

            reads = frozenset(bound.fields.values())
            adapted = PolicyLoss(
                name, bound.kind + (", one advantage per response" if row else ""), call,
                aggregate=aggregate, takes_denominators=bound.takes_denominators, reads=reads,
                band=_named_band(parameters_of(function), options),
                exemptions=_of_framework(bound.kind),
            )  # fmt: skip
            try:
                adapted(tokens())
            except Exception as error:
                errors.append(error)
            else:
                return adapted
    raise InputError(_refusal(errors[0])) from errors[0]


def _of_framework(kind: str) -> Mapping[str, str]:
    if kind == "by name":
        return {}
    return {"old_quantities": f"{kind.removesuffix('-like')} passes them without a graph"}


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
