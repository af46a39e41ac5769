"""How the usual signatures name what a loss is given, and how a function with such names is called."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import torch

from erc_bench.conformance.nesting import Box, build, built, types_of
from erc_bench.conformance.probes import Fields
from erc_bench.conformance.profiles import BY_NAME, PROFILES, Profile
from erc_bench.conformance.sources import Source, View
from erc_bench.core.errors import InputError
from erc_bench.core.validation import nearest, unknown

__all__ = ["SUPPORTED", "Bound", "bind", "parameters_of", "profile_of", "require_parameters"]

SUPPORTED = (
    "an erc_bench Objective or a function returning one; "
    "f(batch: TokenBatch); "
    "verl's f(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, ...); "
    "TRL-like f(per_token_logps, old_per_token_logps, advantages, completion_mask, ...); "
    f"a framework's with --like {'|'.join(PROFILES)}; "
    "or any f with parameters named like logp, old_logp, advantage, mask, entropy, old_entropy, "
    "ref_logp, or named with --bind PARAMETER=FIELD"
)

#: The field that a parameter takes, by the parameter's name.
ALIASES: dict[str, str] = {
    alias: name
    for name, aliases in {
        "logp": "logp logps log_prob log_probs logprob logprobs new_logp new_logps new_log_prob "
        "new_log_probs new_logprobs logp_new log_probs_new curr_logp curr_log_probs "
        "curr_logprobs per_token_logps policy_logps policy_logprobs action_log_probs",
        "old_logp": "old_logp old_logps old_log_prob old_log_probs old_logprob old_logprobs "
        "logp_old log_probs_old old_per_token_logps old_action_log_probs behavior_logp "
        "prev_logp prev_logprobs prev_log_probs",
        "advantage": "advantage advantages adv advs",
        "mask": "mask masks response_mask completion_mask loss_mask action_mask token_mask "
        "response_masks padding_mask",
        "entropy": "entropy entropies new_entropy new_entropies token_entropy entropy_new",
        "old_entropy": "old_entropy old_entropies entropy_old old_token_entropy",
        "ref_logp": "ref_logp ref_logps ref_log_prob ref_log_probs ref_logprobs "
        "ref_per_token_logps reference_logp reference_logps",
        "rollout_logp": "rollout_logp rollout_log_prob rollout_log_probs "
        "sampling_per_token_logps rollout_logprobs generation_logprobs",
        "logits": "logits new_logits policy_logits",
        "old_logits": "old_logits",
        "ref_logits": "ref_logits reference_logits",
        "labels": "labels actions action target_ids targets completion_ids response_ids",
        "cu_seqlens": "cu_seqlens",
        "lengths": "lengths response_lengths seq_lens",
        "tokens": "num_items_in_batch batch_num_tokens num_tokens total_tokens",
        "rows": "global_batch_size num_sequences total_rows",
    }.items()
    for alias in aliases.split()
}

#: The types in which masks are tried, and the forms of advantages.
_MASKS = ("bool", "int", "float")


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters of a function, or of a module's ``forward``.

    Raises:
        InputError: Python cannot tell the parameters.
    """
    target = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        raise InputError(
            f"loss: the parameters of {function!r} cannot be read; use {SUPPORTED}"
        ) from None


def require_parameters(names: Iterable[str], allowed: Iterable[str]) -> None:
    """Check the names that the user sets or binds.

    Raises:
        InputError: one of them is no parameter.
    """
    known = list(allowed)
    for name in names:
        if name.partition(".")[0] not in known:
            near = nearest(name, known)
            raise InputError(f"set: {name!r} is no parameter of the loss{near} (it has: {known})")


def profile_of(parameters: Iterable[str], like: str | None) -> Profile:
    """The profile that is asked for, or whose marks the parameters have.

    Raises:
        InputError: there is none of that name.
    """
    if like is not None:
        if like not in PROFILES:
            raise unknown("like", like, PROFILES)
        return PROFILES[like]
    names = set(parameters)
    return next((p for p in PROFILES.values() if p.marks and p.marks <= names), BY_NAME)


@dataclass(frozen=True)
class Bound:
    """A function whose parameters are matched with sources and values.

    Attributes:
        sources: what is taken of the batch, by dotted path.
        values: what is always the same, by dotted path.
        fixed: paths whose form is the user's or the framework's, and is not varied.
    """

    function: Callable[..., Any]
    profile: Profile
    sources: Mapping[str, Source]
    values: Mapping[str, Any]
    fixed: frozenset[str] = frozenset()

    @property
    def reads(self) -> frozenset[str]:
        """The fields of the batch that it is given."""
        return frozenset().union(*(source.reads for source in self.sources.values()))

    @cached_property
    def masked(self) -> bool:
        """Whether it is given the mask, or only tokens that count."""
        packed = {"packed", "list", "each", "datum"}
        return "mask" in self.reads or any(packed & {*s.forms} for s in self.sources.values())

    @cached_property
    def each(self) -> bool:
        """Whether it is called once per response."""
        return any("each" in source.forms for source in self.sources.values())

    def ways(self) -> Iterator[Bound]:
        """The same with other types of masks, and with advantages per response."""
        masks = [p for p, s in self.sources.items() if s.field == "mask" and p not in self.fixed]
        advantages = [p for p, s in self.sources.items() if s == Source("advantage")]
        forms = ((), ("rows",)) if advantages and not self.each else ((),)
        for rows, mask in product(forms, _MASKS if masks else ("",)):
            changed = dict(self.sources)
            for path in masks:
                changed[path] = Source("mask", (*changed[path].forms, mask))
            for path in advantages:
                changed[path] = Source("advantage", rows)
            yield replace(self, sources=changed)

    def arguments(
        self, part: Fields, whole: Fields | None, row: int | None = None
    ) -> dict[str, Any]:
        """The arguments for a micro-batch ``part`` of ``whole``."""
        view = self._view(part, whole)
        given = dict(self.values)
        for path, source in self.sources.items():
            if source.is_count and whole is None:  # no counts are known
                if path in self._optional:
                    continue
                if "." in path and self.profile.config == path.partition(".")[0]:
                    given[path] = None
                    continue
            given[path] = view.take(source, row)
        return built(given, self._types, self.profile.types)

    @cached_property
    def _optional(self) -> frozenset[str]:
        parameters = parameters_of(self.function).values()
        return frozenset(p.name for p in parameters if p.default is not p.empty)

    @cached_property
    def _types(self) -> Mapping[str, Any]:
        return types_of(getattr(self.function, "forward", self.function))

    def _view(self, part: Fields, whole: Fields | None) -> View:
        return View(part, whole, masked=any(s.field == "mask" for s in self.sources.values()))

    def __call__(self, part: Fields, whole: Fields | None) -> object:
        """What the function returns; the sum over responses where it is called for each."""
        if not self.each:
            return self._called(part, whole)
        found = [self._called(part, whole, row) for row in range(len(part["mask"]))]
        return torch.stack([result.sum() for result in found]).sum()

    def _called(self, part: Fields, whole: Fields | None, row: int | None = None) -> Any:
        found = _first(self.function(**self.arguments(part, whole, row)))
        return self._view(part, whole).unpacked(found) if isinstance(found, torch.Tensor) else found

    def unread(self, part: Fields) -> set[str]:
        """The paths of parts of arguments that a call does not read."""
        if not any("." in path for path in (*self.values, *self.sources)):
            return set()
        arguments = self.arguments(part, part, 0)
        self.function(**arguments)
        boxes = [value for value in arguments.values() if isinstance(value, Box)]
        return {path for box in boxes for path in box.unread()}

    def takes_counts(self, part: Fields) -> bool:
        """Whether the whole batch's counts can be given: an own parameter, or parts that it reads."""
        counts = {path for path, source in self.sources.items() if source.is_count}
        return any("." not in path for path in counts) or bool(counts - self.unread(part))


def _first(result: Any) -> Any:
    """The loss in what a function returns: alone, first in a tuple, one for each response, or ``loss``."""
    if isinstance(result, list) and result and all(getattr(x, "ndim", 0) == 1 for x in result):
        return torch.cat(result)
    if isinstance(result, tuple | list) and result:
        return result[0]
    if isinstance(result, Mapping):
        return result.get("loss")
    return getattr(result, "loss", result)


def bind(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    binds: Mapping[str, str],
    like: str | None,
) -> Bound:
    """Match a function's parameters with sources and values, by name.

    Raises:
        InputError: a required parameter is unknown, or log-probabilities, advantages or mask have
            no parameter; names what is supported.
    """
    parameters = parameters_of(function)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {p: q for p, q in parameters.items() if q.kind in by_name}
    profile = profile_of(named, like)
    anything = any(q.kind is q.VAR_KEYWORD for q in parameters.values())
    if profile.config in named:
        options = {
            k if k.partition(".")[0] in named else f"{profile.config}.{k}": v
            for k, v in options.items()
        }
    if not anything:
        require_parameters([*options, *binds], named)
    own = {path: Source.parse(text) for path, text in binds.items()}
    sources = {}
    for line in profile.binds.split():
        path, _, text = line.partition("=")
        if path.partition(".")[0] in named and not {path, path.partition(".")[0]} & {
            *options,
            *own,
        }:
            sources[path] = Source.parse(text)
    fixed = frozenset({*sources, *own})
    sources |= own
    values = {
        path: value
        for path, value in profile.sets.items()
        if path.partition(".")[0] in named and path not in sources
    } | dict(options)
    heads = {path.partition(".")[0] for path in (*sources, *values)}
    matched = {p: ALIASES[p] for p in named if p in ALIASES and p not in heads}
    sources |= {p: Source(name) for p, name in matched.items()}
    _require_filled(function, named, {*heads, *matched}, values, profile)
    found = Bound(function, profile, sources, values, fixed)
    _require_tokens(found, matched, f"({', '.join(parameters)})")
    return found


def _require_filled(
    function: Callable[..., Any],
    named: Mapping[str, inspect.Parameter],
    filled: set[str],
    values: dict[str, Any],
    profile: Profile,
) -> None:
    """Fill required parameters whose type can be made without arguments; refuse others.

    Raises:
        InputError: names the parameter.
    """
    types = types_of(getattr(function, "forward", function))
    for p, parameter in named.items():
        if p in filled or parameter.default is not parameter.empty:
            continue
        try:
            made = build(p, {}, types.get(p), profile.types)
        except InputError as error:
            raise InputError(f"{error}; give its parts with --set {p}.NAME=VALUE") from None
        if isinstance(made, Box):
            raise InputError(
                f"loss: parameter {p!r} of ({', '.join(named)}) is not known; give it with "
                f"--bind {p}=FIELD, --set {p}=VALUE or, for its parts, --set {p}.NAME=VALUE, "
                f"or use {SUPPORTED}"
            )
        values[p] = made


def _require_tokens(bound: Bound, matched: Mapping[str, str], told: str) -> None:
    """Require parameters for what every policy loss is made of.

    Raises:
        InputError: names what is missing, or given twice.
    """
    for name in ("logp", "advantage"):
        if name not in bound.reads:
            raise InputError(f"loss: no parameter of {told} takes {name}; use {SUPPORTED}")
    for name, count in Counter(matched.values()).items():
        if count > 1:
            raise InputError(
                f"loss: two parameters of {told} take {name}; say what one of them takes with "
                f"--bind, or use {SUPPORTED}"
            )
