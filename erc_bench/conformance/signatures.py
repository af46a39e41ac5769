"""How the usual signatures name what a loss is given, and how a function with such names is called."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from erc_bench.conformance.probes import Fields
from erc_bench.core.errors import InputError
from erc_bench.core.validation import nearest

__all__ = ["SUPPORTED", "VerlConfig", "bind", "parameters_of", "require_parameters"]

SUPPORTED = (
    "an erc_bench Objective or a function returning one; "
    "f(batch: TokenBatch); "
    "verl's f(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, ...); "
    "TRL-like f(per_token_logps, old_per_token_logps, advantages, completion_mask, ...); "
    "or any f with parameters named like logp, old_logp, advantage, mask, entropy, old_entropy, "
    "ref_logp"
)

#: The field that a parameter takes, by the parameter's name.
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

#: Names of parameters that take the counts by which a whole batch's sums are divided.
TOKEN_COUNTS = frozenset({"num_items_in_batch", "batch_num_tokens", "num_tokens", "total_tokens"})
ROW_COUNTS = frozenset({"global_batch_size", "num_sequences", "total_rows"})


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
    """Check the names that the user sets.

    Raises:
        InputError: one of them is no parameter; names the nearest one and all that are allowed.
    """
    known = list(allowed)
    for name in names:
        if name not in known:
            told = ", ".join(known) or "none"
            raise InputError(
                f"set: {name!r} is no parameter{nearest(name, known)} (allowed: {told})"
            )


@dataclass
class VerlConfig:
    """Stands in for verl's ``ActorConfig``: verl 0.9's defaults, and the whole batch's counts.

    verl itself need not be installed. Where a loss has imported it, its other defaults hold too.
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
        """The same method that OmegaConf's and verl's configurations have."""
        return self.__dict__.get(name, default)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


@dataclass(frozen=True)
class Bound:
    """A function whose parameters are matched with fields.

    Attributes:
        fields: field by parameter name.
        tokens, rows: parameters that take the whole batch's counts.
        options: values given by the user, for the function.
        config: values given by the user, for the verl configuration; None: it takes no such.
    """

    function: Callable[..., Any]
    kind: str
    fields: Mapping[str, str]
    tokens: tuple[str, ...]
    rows: tuple[str, ...]
    options: Mapping[str, Any]
    config: Mapping[str, Any] | None

    @property
    def takes_denominators(self) -> bool:
        """Whether the whole batch's counts can be given to it."""
        return self.config is not None or bool(self.tokens or self.rows)

    def __call__(
        self, part: Fields, whole: Fields | None, *, per_row: bool, mask: torch.dtype
    ) -> object:
        """Call the function on ``part``, a micro-batch of ``whole``."""
        values = {**part, "mask": part["mask"].to(mask)}
        if per_row:
            values["advantage"] = _per_row(part)
        given: dict[str, Any] = {p: values[name] for p, name in self.fields.items()}
        tokens = rows = None
        if whole is not None:
            tokens, rows = int(whole["mask"].sum()), int(whole["mask"].any(-1).sum())
            given |= {**dict.fromkeys(self.tokens, tokens), **dict.fromkeys(self.rows, rows)}
        if self.config is not None:
            info = {"dp_size": 1, "batch_num_tokens": tokens, "global_batch_size": rows}
            given["config"] = VerlConfig(global_batch_info=info)
            given["config"].__dict__.update(self.config)
        return self.function(**given, **self.options)


def _per_row(part: Fields) -> Tensor:
    """``(B,)``: the mean over a response's unmasked tokens, whose advantages are all the same."""
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
    is_verl = {"old_log_prob", "log_prob", "response_mask"} <= set(named)
    kind = "verl" if is_verl else "TRL-like" if "per_token_logps" in named else "by name"
    free = [p for p in named if p not in options]
    matched = {p: ALIASES[p] for p in free if p in ALIASES}
    tokens = tuple(p for p in free if p in TOKEN_COUNTS)
    rows = tuple(p for p in free if p in ROW_COUNTS)
    takes_config = is_verl and "config" in free
    told = f"({', '.join(parameters)})"
    for p in free:
        filled = p in matched or p in tokens or p in rows or (takes_config and p == "config")
        if not filled and named[p].default is inspect.Parameter.empty:
            raise InputError(
                f"loss: parameter {p!r} of {told} is not known; give it with "
                f"--set {p}=VALUE, or use {SUPPORTED}"
            )
    taken = Counter(matched.values())
    for name in ("logp", "advantage", "mask"):
        if not taken[name]:
            raise InputError(f"loss: no parameter of {told} takes {name}; use {SUPPORTED}")
    for name, count in taken.items():
        if count > 1:
            raise InputError(f"loss: two parameters of {told} take {name}; use {SUPPORTED}")
    anything = any(q.kind is q.VAR_KEYWORD for q in parameters.values())
    own = {k: v for k, v in options.items() if k in named or (anything and not is_verl)}
    rest = {k: v for k, v in options.items() if k not in own}
    if not takes_config:
        require_parameters(rest, [p for p in named if p not in matched])
    return Bound(function, kind, matched, tokens, rows, own, rest if takes_config else None)
