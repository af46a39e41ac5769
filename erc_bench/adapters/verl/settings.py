"""What a verl configuration must say for our objective to be what is trained; checked before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from erc_bench.adapters.needs import require_fields
from erc_bench.adapters.verl.names import AGGREGATIONS, FIELDS, NAME, Aggregation
from erc_bench.errors import InputError
from erc_bench.objectives import (
    Objective,
    PositiveNLL,
    SequenceMeanTokenMean,
    TokenMean,
    TruncatedImportance,
    make,
)

__all__ = ["Settings", "require_consistent", "settings"]


@dataclass(frozen=True)
class Settings:
    """The section ``trainer.v1.erc_bench``.

    Attributes:
        objective: a recipe's name.
        parameters: of the recipe.
        positive_nll: coefficient of ERC's release's ``-log pi`` on responses with reward 1; 0: none.
        aggregation: see :class:`erc_bench.adapters.verl.loss.ObjectiveLoss`.
    """

    objective: str = "erc-dapo"
    parameters: Mapping[str, float] = field(default_factory=dict)
    positive_nll: float = 0.0
    aggregation: Aggregation = "global"

    def build(self) -> Objective:
        """The objective.

        Raises:
            InputError: an unknown recipe or parameter, or one that verl cannot carry.
        """
        made = make(self.objective, **self.parameters)
        if self.positive_nll:
            made = made.regularized(PositiveNLL(self.positive_nll))
        require_fields(made, FIELDS, by="verl")
        if made.over_batch:
            raise InputError(
                f"trainer.v1.erc_bench.objective: {self.objective} compares the tokens of a whole "
                "batch, verl splits it into micro-batches"
            )
        return made


def settings(section: Mapping[str, Any] | None) -> Settings:
    """Read the section.

    Raises:
        InputError: an unknown key or a value that is not allowed.
    """
    given = dict(section or {})
    known = Settings.__dataclass_fields__
    for key in given:
        if key not in known:
            raise InputError(f"trainer.v1.{NAME}.{key}: unknown (allowed: {', '.join(known)})")
    found = Settings(**(given | {"parameters": dict(given.get("parameters") or {})}))
    if found.aggregation not in get_args(Aggregation):
        raise InputError(
            f"trainer.v1.{NAME}.aggregation: {found.aggregation!r} is not allowed; must be "
            f"{' or '.join(AGGREGATIONS)}"
        )
    if not isinstance(found.positive_nll, int | float) or found.positive_nll < 0:
        raise InputError(
            f"trainer.v1.{NAME}.positive_nll: {found.positive_nll!r}, must be a number >= 0"
        )
    for name, value in found.parameters.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"trainer.v1.{NAME}.parameters.{name}: {value!r}, must be a number")
    return found


def require_consistent(config: Any, objective: Objective) -> None:
    """Refuse settings of verl that would have no effect, or that the objective cannot do without.

    Args:
        config: verl's whole configuration, or anything that reads like it.
        objective: what will be trained.

    Raises:
        InputError: names the key, its value and what it must be.
    """
    actor = config.actor_rollout_ref.actor
    _equal("actor_rollout_ref.actor.policy_loss.loss_mode", actor.policy_loss.loss_mode, NAME)
    _equal("actor_rollout_ref.actor.calculate_entropy", actor.calculate_entropy, True)
    _equal("actor_rollout_ref.actor.entropy_coeff", float(actor.entropy_coeff), 0.0)
    correction = config.algorithm.get("rollout_correction") or {}
    _equal("algorithm.rollout_correction.bypass_mode", bool(correction.get("bypass_mode")), False)
    corrects = isinstance(objective.surrogate, TruncatedImportance)
    if correction.get("rollout_is") is not None:
        raise InputError(
            "algorithm.rollout_correction.rollout_is: has no effect; set it to null and choose an "
            "objective that corrects, as dapo-tis"
        )
    if corrects:
        key = "actor_rollout_ref.rollout.calculate_log_probs"
        _equal(key, config.actor_rollout_ref.rollout.calculate_log_probs, True)
    _equal("actor_rollout_ref.actor.use_kl_loss", actor.use_kl_loss, objective.reads_reference)
    if objective.surrogate.clip_range is not None:
        low, high = objective.surrogate.clip_range
        for name, mine, default in (
            ("clip_ratio_low", low, 0.2), ("clip_ratio_high", high, 0.2),
        ):  # fmt: skip
            value = actor.get(name)
            if value not in (None, default, mine):
                raise InputError(
                    f"actor_rollout_ref.actor.{name}: {value} has no effect, the objective's clip "
                    f"range is used ({mine}); set both alike"
                )
    modes = {TokenMean: "token-mean", SequenceMeanTokenMean: "seq-mean-token-mean"}
    mine_mode = modes.get(type(objective.aggregate), "token-mean")
    if actor.loss_agg_mode not in ("token-mean", mine_mode):
        raise InputError(
            f"actor_rollout_ref.actor.loss_agg_mode: {actor.loss_agg_mode!r} has no effect, the "
            f"objective aggregates by itself; leave it at {mine_mode!r}"
        )


def _equal(key: str, value: object, wanted: object) -> None:
    if value != wanted:
        raise InputError(f"{key}: {value!r} is not allowed here; must be {wanted!r}")
