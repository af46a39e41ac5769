"""The policy loss ``erc_bench``: verl's micro-batch as a TokenBatch, and our Objective on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from erc_bench.adapters.reads import BAND, drift_shares
from erc_bench.adapters.verl.settings import NAME, SECTION, Settings
from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.objectives import Denominators, EntropyRatio, Objective

__all__ = ["Loss", "attach_denominators", "register_loss"]


@dataclass
class _Call:
    """What verl's signature of a policy loss has no argument for, and the metrics of the call."""

    settings: Settings
    objective: Objective
    fields: dict[str, Tensor]
    denominators: Denominators
    weight: float | None
    metrics: dict[str, Tensor] = field(default_factory=dict)


_CALL: ContextVar[_Call | None] = ContextVar("erc_bench_verl_call", default=None)


@contextmanager
def _calling(call: _Call) -> Iterator[None]:
    token = _CALL.set(call)
    try:
        yield
    finally:
        _CALL.reset(token)


def policy_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a micro-batch with verl's signature, tensors ``(B, T)``; its metrics go to the caller.

    Raises:
        InputError: called without :class:`Loss` around it.
    """
    call = _CALL.get()
    if call is None:
        raise InputError(
            f"trainer.v1.trainer_mode: must be {NAME} with policy_loss.loss_mode={NAME}; another "
            f"trainer gives the loss no entropies"
        )
    if rollout_is_weights is not None:
        raise InputError("algorithm.rollout_correction.rollout_is: must be null")
    batch = TokenBatch(
        logp=log_prob,
        old_logp=old_log_prob,
        advantage=advantages.to(log_prob),
        mask=response_mask,
        **call.fields,
    )
    loss, metrics = call.objective(batch, None if call.weight is not None else call.denominators)
    local = call.objective.denominators(batch).tokens if call.weight is not None else None
    if call.weight is not None and local is not None:
        loss = loss * call.weight
        share = local / call.denominators.tokens.clamp(min=1)
        metrics = {
            name: value * (call.weight if name.startswith("loss/") else share)
            for name, value in metrics.items()
        }
    # An objective with an entropy gate is measured against its own band.
    band = next((g for g in call.objective.gates if isinstance(g, EntropyRatio)), BAND)
    call.metrics.update(metrics | drift_shares(batch, call.denominators.tokens, band))
    return loss, {}


@dataclass
class Loss:
    """What verl's workers call on each micro-batch: verl's own ``ppo_loss`` around our policy loss.

    verl's ``entropy_coeff`` and ``use_kl_loss`` keep their meaning.

    Args:
        config: verl's ActorConfig.
        settings: the plug-in's.
    """

    config: Any
    settings: Settings

    def __post_init__(self) -> None:
        self.objective = self.settings.built

    def __call__(
        self, model_output: Any, data: Any, dp_group: Any = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Loss to differentiate, and metrics ``actor/...`` that sum over the mini-batch."""
        from verl.utils.metric import AggregationType, Metric  # noqa: PLC0415
        from verl.workers.utils.losses import ppo_loss  # noqa: PLC0415

        call = self._call(model_output, data)
        with _calling(call):
            loss, metrics = ppo_loss(
                config=self.config, model_output=model_output, data=data, dp_group=dp_group
            )
        ours = {
            f"actor/{name}": Metric(value=value, aggregation=AggregationType.SUM)
            for name, value in call.metrics.items()
        }
        return loss, {**metrics, **ours}

    def _call(self, model_output: Any, data: Any) -> _Call:
        from verl.workers.utils.padding import no_padding_2_padding  # noqa: PLC0415

        if model_output.get("entropy") is None:
            raise InputError("actor_rollout_ref.actor.calculate_entropy: must be True")
        fields = {
            "entropy": no_padding_2_padding(model_output["entropy"], data),
            "old_entropy": _padded(data["entropy"]),
        }
        for name, key in (("ref_logp", "ref_log_prob"), ("rollout_logp", "rollout_log_probs")):
            if name in self.settings.reads:
                fields[name] = _padded(data[key])
        if "reward" in self.settings.reads:
            fields["reward"] = _reward(data)
        ranks, rows = data["dp_size"], data["response_mask"].shape[0]
        alone = self.settings.aggregation == "micro-batch"
        weight = rows * ranks / data["global_batch_size"] if alone else None
        like = fields["entropy"]
        return _Call(
            self.settings,
            self.objective,
            {name: value.to(like.device) for name, value in fields.items()},
            _attached(data, self.objective, like.device),
            weight,
        )


def _padded(value: Tensor) -> Tensor:
    return torch.nested.to_padded_tensor(value, 0.0) if value.is_nested else value


def _reward(data: Any) -> Tensor:
    """Reward of each response, ``(B,)``: verl keeps it per token, on the last one."""
    return _padded(data["rm_scores"]).float().sum(-1)


def attach_denominators(data: Any, objective: Objective, group: Any, device: Any = "cpu") -> None:
    """Write into a mini-batch what its sums, over all micro-batches and ranks, are divided by.

    verl gives losses the number of tokens and responses of the mini-batch; a regularizer that is
    averaged over some of the tokens needs its own number. All are summed over the data-parallel
    ranks and divided by their number, as gradients are averaged over ranks.

    Args:
        data: a rank's mini-batch, as verl's TensorDict.
        objective: that will be called on its micro-batches.
        group: data-parallel process group; None: one rank.
        device: that ``group`` communicates from.
    """
    from verl.utils import tensordict_utils as tu  # noqa: PLC0415

    mask = _padded(data["response_mask"]) != 0
    zeros = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device)
    reward = _reward(data) if "rm_scores" in data else None
    batch = TokenBatch(zeros, zeros, zeros, mask, reward=reward)
    found = objective.denominators(batch)
    flat = torch.stack(
        [torch.as_tensor(x).double() for x in (found.tokens, found.surrogate, *found.regularizers)]
    ).to(device)
    ranks = 1
    if group is not None:
        torch.distributed.all_reduce(flat, group=group)
        ranks = torch.distributed.get_world_size(group)
    values = (flat / ranks).tolist()
    tu.assign_non_tensor(data, **{_key(i): value for i, value in enumerate(values)})


def _key(index: int) -> str:
    return f"{NAME}_denominator_{index}"


def _attached(data: Any, objective: Objective, device: torch.device) -> Denominators:
    if _key(0) not in data:
        raise InputError(
            f"{SECTION}: the mini-batch carries no denominators; run with trainer.v1.trainer_mode={NAME}"
        )
    count = 2 + len(objective.regularizers)
    values = [torch.tensor(data[_key(i)], dtype=torch.float64, device=device) for i in range(count)]
    return Denominators(values[0], values[1], tuple(values[2:]))


def register_loss() -> None:
    """Register :func:`policy_loss` in verl, once."""
    from verl.trainer.ppo.core_algos import (  # noqa: PLC0415
        POLICY_LOSS_REGISTRY,
        register_policy_loss,
    )

    if NAME not in POLICY_LOSS_REGISTRY:
        register_policy_loss(NAME)(policy_loss)
