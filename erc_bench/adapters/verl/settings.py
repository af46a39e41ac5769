"""``trainer.v1.erc_bench`` of verl's configuration, and what the rest of it must say beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any, Literal

from erc_bench.adapters.reads import WHOLE_DISTRIBUTIONS, fields_read
from erc_bench.core.errors import InputError
from erc_bench.core.validation import NonNegative, checked, checked_dataclass
from erc_bench.objectives import (
    CEGPPO,
    GPPO,
    DualClip,
    FixedHorizon,
    Objective,
    PositiveNLL,
    PPOClip,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    TokenMean,
    make,
)

__all__ = ["NAME", "Settings"]

#: The name of the policy loss, of the trainer and of the configuration's section.
NAME = "erc_bench"

SECTION = f"trainer.v1.{NAME}"
_ACTOR = "actor_rollout_ref.actor"

#: verl's names for our aggregates.
_MODES = {
    TokenMean: "token-mean",
    SequenceMeanTokenMean: "seq-mean-token-mean",
    SequenceMeanTokenSum: "seq-mean-token-sum",
    FixedHorizon: "seq-mean-token-sum-norm",
}


@checked_dataclass
class Settings:
    """What the plug-in trains with. The fields are the keys under ``trainer.v1.erc_bench``.

    Attributes:
        objective: a recipe's name (``erc-bench list objectives``).
        parameters: the recipe's parameters that are changed.
        positive_nll: weight of the negative log-likelihood of responses with reward 1, as in ERC's
            release (0.1 there, not in the paper); 0 turns it off.
        dual_clip: bound c of a second clip at negative advantages, as verl's ``clip_ratio_c`` (ERC's
            release uses 10); 0 turns it off.
        aggregation: what a mini-batch's loss is. ``global`` is the objective of the whole mini-batch
            over all ranks, however it is split. ``micro-batch`` is that of each micro-batch alone,
            weighted by its share of the responses, as in ERC's release.

    Raises:
        InputError: a value that is not allowed, or an objective that needs whole distributions.

    >>> Settings("erc-dapo", {"band_low": 0.1}).built.gates[0].low
    0.1
    >>> Settings("kl-gate-dapo")
    Traceback (most recent call last):
    erc_bench.core.errors.InputError: objective: kl-gate-dapo needs whole distributions \
(log_probs, old_log_probs), which verl does not keep
    """

    objective: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    positive_nll: NonNegative = 0.0
    dual_clip: NonNegative = 0.0
    aggregation: Literal["global", "micro-batch"] = "global"

    def __post_init__(self) -> None:
        whole = sorted(WHOLE_DISTRIBUTIONS & self.reads)
        if whole:
            raise InputError(
                f"objective: {self.objective} needs whole distributions ({', '.join(whole)}), "
                "which verl does not keep"
            )

    @property
    def built(self) -> Objective:
        """The objective."""
        made = make(self.objective, **self.parameters)
        if self.dual_clip:
            if type(made.surrogate) not in (PPOClip, GPPO, CEGPPO):
                raise InputError(
                    f"dual_clip: {self.objective} has no clip of a token's ratio to bound"
                )
            made = replace(made, surrogate=DualClip(made.surrogate, self.dual_clip))
        return made.regularized(PositiveNLL(self.positive_nll)) if self.positive_nll else made

    @property
    def reads(self) -> frozenset[str]:
        """Fields of a batch that the objective looks at."""
        return fields_read(self.built)

    @classmethod
    def from_config(cls, config: Any) -> Settings:
        """Read ``trainer.v1.erc_bench`` of verl's configuration, and check the keys it depends on.

        Args:
            config: verl's, a ``DictConfig`` or nested dictionaries.

        Raises:
            InputError: names the key, its value and what is needed.
        """
        section = _plain(_at(config, SECTION))
        if not section:
            raise InputError(f"{SECTION}.objective: not set; add +{SECTION}.objective=erc-dapo")
        settings: Settings = checked(cls, section, at=f"{SECTION}.")
        _require_wiring(config)
        _require_fields(config, settings)
        _require_no_contradiction(config, settings.built)
        return settings


#: Keys of verl that must have a value for the plug-in's trainer to work, and why where it is not plain.
_WIRING: dict[str, tuple[Any, str]] = {
    f"{_ACTOR}.policy_loss.loss_mode": (NAME, ""),
    f"{_ACTOR}.calculate_entropy": (True, ""),
    "algorithm.rollout_correction.bypass_mode": (False, ": it leaves old entropies uncomputed"),
    "algorithm.rollout_correction.rollout_is": (None, "; the objective dapo-tis has these weights"),
    "distillation.enabled": (False, ""),
}


def _require_wiring(config: Any) -> None:
    for key, (value, why) in _WIRING.items():
        found = _at(config, key)
        if found != value and (found or value):
            needed = "null" if value is None else value
            raise InputError(f"{key}: {found!r}, must be {needed} with trainer_mode={NAME}{why}")


def _require_fields(config: Any, settings: Settings) -> None:
    """Require that verl computes what the objective reads."""
    logged = "actor_rollout_ref.rollout.calculate_log_probs"
    if "rollout_logp" in settings.reads and not _at(config, logged):
        raise InputError(f"{logged}: False, must be True: {settings.objective} reads them")
    if "ref_logp" in settings.reads:
        weight = _at(config, f"{_ACTOR}.kl_loss_coef")
        if not _at(config, f"{_ACTOR}.use_kl_loss") or weight != 0:
            raise InputError(
                f"{_ACTOR}.use_kl_loss: {settings.objective} reads the reference policy; set it to "
                f"True and {_ACTOR}.kl_loss_coef to 0, so that verl adds no second penalty"
            )


def _require_no_contradiction(config: Any, objective: Objective) -> None:
    """Refuse keys of verl's own losses that say something else than the objective, which decides."""
    surrogate, range_ = objective.surrogate, objective.surrogate.clip_range
    low, high = (None, None) if range_ is None else range_
    says: dict[str, tuple[Any, Any]] = {
        "clip_ratio": (0.2, low if low == high else None),
        "clip_ratio_low": (0.2, low),
        "clip_ratio_high": (0.2, high),
        "clip_ratio_c": (3.0, surrogate.c if isinstance(surrogate, DualClip) else None),
        "loss_agg_mode": ("token-mean", _MODES.get(type(objective.aggregate))),
    }
    for key, (default, ours) in says.items():
        found = _at(config, f"{_ACTOR}.{key}")
        if found not in (None, default, ours):
            hint = f"; set {SECTION}.dual_clip" if key == "clip_ratio_c" else ""
            raise InputError(
                f"{_ACTOR}.{key}: {found!r}, but the objective has {ours} and decides{hint}; "
                f"leave the key at {default}"
            )


def _at(config: Any, key: str) -> Any:
    """The value at a dotted key; None where a part is missing."""
    for part in key.split("."):
        if config is None or not hasattr(config, "get"):
            return None
        config = config.get(part)
    return config


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value
