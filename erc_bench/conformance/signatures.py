"""How the usual signatures name what a loss is given."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from erc_bench.conformance.probes import Fields
from erc_bench.core.errors import InputError

__all__ = ["SUPPORTED", "VerlConfig", "bind", "parameters_of"]

SUPPORTED = (
    "an erc_bench Objective or a function returning one; "
    "f(batch: TokenBatch); "
    "verl's f(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, ...); "
    "TRL-like f(per_token_logps, old_per_token_logps, advantages, completion_mask, ...); "
    "or any f with parameters named like logp, old_logp, advantage, mask, entropy, old_entropy, "
    "ref_logp"
)

#: Field by parameter name.
ALIASES: dict[str, str] = {
    alias: name
    for name, aliases in {
        "logp": "logp logps log_prob log_probs logprob logprobs new_logp new_logps new_log_prob "
        "new_log_probs new_logprobs logp_new log_probs_new curr_logp curr_log_probs "
        "per_token_logps policy_logps policy_logprobs action_log_probs",
        "old_logp": "old_logp old_logps old_log_prob old_log_probs old_logprob old_logprobs "
        "logp_old log_probs_old old_per_token_logps old_action_log_probs behavior_logp",
        "advantage": "advantage advantages adv advs",
        "mask": "mask masks response_mask completion_mask loss_mask action_mask token_mask "
        "response_masks padding_mask",
        "entropy": "entropy entropies new_entropy new_entropies token_entropy entropy_new",
        "old_entropy": "old_entropy old_entropies entropy_old old_token_entropy",
        "ref_logp": "ref_logp ref_logps ref_log_prob ref_log_probs ref_logprobs "
        "ref_per_token_logps reference_logp reference_logps",
        "rollout_logp": "rollout_logp rollout_log_prob rollout_log_probs "
        "sampling_per_token_logps rollout_logprobs",
    }.items()
    for alias in aliases.split()
}

#: What a whole batch's sums are divided by, by parameter name.
TOKEN_COUNTS = frozenset({"num_items_in_batch", "batch_num_tokens", "num_tokens", "total_tokens"})
ROW_COUNTS = frozenset({"global_batch_size", "num_sequences", "total_rows"})


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters of a function, or of a module's ``forward``.

    Raises:
        InputError: they cannot be read.
    """
    target = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        raise InputError(
            f"loss: the parameters of {function!r} cannot be read; use {SUPPORTED}"
        ) from None


@dataclass
class VerlConfig:
    """Stands in for verl's ``ActorConfig``: verl 0.9's defaults, and the whole batch's counts.

    verl itself need not be installed; where a loss has imported it, its other defaults are used too.
    """

    clip_ratio: float = 0.2
    clip_ratio_low: float = 0.2
    clip_ratio_high: float = 0.2
    clip_ratio_c: float = 3.0
    loss_agg_mode: str = "token-mean"
    global_batch_info: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        """A default of verl's own, where verl is loaded; dunder names have none."""
        known = {f.name: f for f in fields(self.__class__)}
        if name in known and known[name].default is not MISSING:
            return known[name].default
        factory = known[name].default_factory if name in known else MISSING
        if factory is not MISSING:
            return factory()
        raise AttributeError(f"config.{name} is unknown here; give it with --set {name}=VALUE")

    @property  # type: ignore[misc]  # verl's losses assert the type of their config
    def __class__(self) -> type:
        module = sys.modules.get("verl.workers.config")
        return getattr(module, "ActorConfig", VerlConfig)

    def get(self, name: str, default: Any = None) -> Any:
        """As OmegaConf and verl's configurations have it."""
        return self.__dict__.get(name, default)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


@dataclass(frozen=True)
class Bound:
    """A function's parameters matched with fields.

    Attributes:
        fields: field by parameter name.
        tokens, rows: parameters that take the whole batch's counts.
        config: whether a verl configuration is wanted.
        options: values given by the user, for the function and for the configuration.
    """

    function: Callable[..., Any]
    kind: str
    fields: Mapping[str, str]
    tokens: tuple[str, ...]
    rows: tuple[str, ...]
    config: bool
    options: Mapping[str, Any]
    config_options: Mapping[str, Any]

    @property
    def takes_denominators(self) -> bool:
        """Whether the whole batch's counts can be given to it."""
        return self.config or bool(self.tokens or self.rows)

    def __call__(
        self, part: Fields, whole: Fields | None, *, per_row: bool, mask: torch.dtype
    ) -> object:
        """Call the function on ``part``, a micro-batch of ``whole``."""
        given: dict[str, Any] = {p: part[name] for p, name in self.fields.items()}
        for parameter, name in self.fields.items():
            if name == "mask":
                given[parameter] = part["mask"].to(mask)
            elif name == "advantage" and per_row:
                given[parameter] = _per_row(part)
        info: dict[str, Any] = {"dp_size": 1, "batch_num_tokens": None, "global_batch_size": None}
        if whole is not None:
            tokens, rows = int(whole["mask"].sum()), int(whole["mask"].any(-1).sum())
            given |= {**dict.fromkeys(self.tokens, tokens), **dict.fromkeys(self.rows, rows)}
            info |= {"batch_num_tokens": tokens, "global_batch_size": rows}
        if self.config:
            config = VerlConfig(global_batch_info=info)
            config.__dict__.update(self.config_options)
            given["config"] = config
        return self.function(**given, **self.options)


def _per_row(part: Fields) -> Tensor:
    """``(B,)``: the mean over a response's unmasked tokens, which are all the same."""
    mask = part["mask"]
    total = torch.where(mask, part["advantage"], 0.0).sum(-1)
    return total / mask.sum(-1).clamp(min=1).to(total.dtype)


def bind(function: Callable[..., Any], options: Mapping[str, Any]) -> Bound:
    """Match a function's parameters with fields, by name.

    Raises:
        InputError: a required parameter is unknown, or log-probabilities, advantages or mask have
            no parameter; names what is supported.
    """
    parameters = parameters_of(function)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {p: q for p, q in parameters.items() if q.kind in by_name}
    matched = {p: ALIASES[p] for p in named if p in ALIASES and p not in options}
    verl = {"old_log_prob", "log_prob", "response_mask"} <= set(named)
    kind = "verl" if verl else "TRL-like" if "per_token_logps" in named else "by name"
    counts = {p: q for p, q in named.items() if p not in options}
    tokens = tuple(p for p in counts if p in TOKEN_COUNTS)
    rows = tuple(p for p in counts if p in ROW_COUNTS)
    config = "config" in counts and verl
    filled = {*matched, *tokens, *rows, *options, *(("config",) if config else ())}
    missing = [p for p, q in named.items() if p not in filled and q.default is q.empty]
    lacking = [n for n in ("logp", "advantage", "mask") if n not in matched.values()]
    told = f"({', '.join(parameters)})"
    if missing:
        raise InputError(
            f"loss: parameter {missing[0]!r} of {told} is not known; give it with "
            f"--set {missing[0]}=VALUE, or use {SUPPORTED}"
        )
    if lacking:
        raise InputError(f"loss: no parameter of {told} takes {lacking[0]}; use {SUPPORTED}")
    twice = [n for n in set(matched.values()) if list(matched.values()).count(n) > 1]
    if twice:
        raise InputError(f"loss: two parameters of {told} take {twice[0]}; use {SUPPORTED}")
    anything = any(q.kind is q.VAR_KEYWORD for q in parameters.values())
    own = {k: v for k, v in options.items() if k in named or (anything and not verl)}
    rest = {k: v for k, v in options.items() if k not in own}
    if rest and not config:
        allowed = ", ".join(p for p in named if p not in matched) or "none"
        raise InputError(f"set: {next(iter(rest))!r} is no parameter of {told}; allowed: {allowed}")
    return Bound(function, kind, matched, tokens, rows, config, own, rest)
