"""One fixed batch through verl's own path: ``ppo_loss`` around our registered policy loss.

Imports verl when used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Fields = dict[str, Tensor]


def verl_loss(
    fields: Fields,
    objective_name: str,
    parameters: Mapping[str, float] | None = None,
    *,
    micro_batches: int = 1,
    **settings: Any,
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Loss, gradient with respect to ``logp``, and metrics, as verl's worker gets them.

    Args:
        fields: of a TokenBatch, ``(B, T)``; ``logp`` and ``entropy`` may be leaves.
        objective_name: a recipe.
        parameters: of the recipe.
        micro_batches: that the rows are split into; losses and gradients are summed, as verl does.
        settings: further keys of ``trainer.v1.erc_bench``.
    """
    loss, gradients, metrics = drive(
        fields, objective_name, parameters, micro_batches=micro_batches, **settings
    )
    return loss, gradients["logp"], metrics


def drive(
    fields: Fields,
    objective_name: str,
    parameters: Mapping[str, float] | None = None,
    *,
    micro_batches: int = 1,
    actor: Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[Tensor, Fields, dict[str, float]]:
    """As :func:`verl_loss`, with both leaves' gradients; ``actor`` sets keys of verl's actor."""
    from verl.utils import tensordict_utils as tu
    from verl.utils.metric import Metric
    from verl.workers.config import ActorConfig, PolicyLossConfig

    from erc_bench.adapters.verl import NAME, Settings
    from erc_bench.adapters.verl.loss import Loss, attach_denominators

    config = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        calculate_entropy=True,
        policy_loss=PolicyLossConfig(loss_mode=NAME),
        **(actor or {}),
    )
    loss_fn = Loss(config, Settings(objective_name, parameters or {}, **settings))
    data = _data(fields)
    leaves = {name: fields[name].detach().clone().requires_grad_() for name in ("logp", "entropy")}
    attach_denominators(data, loss_fn.objective, group=None)
    total, metrics = torch.zeros(()), {}
    rows = torch.arange(len(fields["logp"])).chunk(micro_batches)
    for part, chosen in zip(tu.chunk_tensordict(data, micro_batches), rows, strict=True):
        output = {
            "log_probs": _flat(leaves["logp"][chosen]),
            "entropy": _flat(leaves["entropy"][chosen]),
        }
        loss, found = loss_fn(model_output=output, data=part)
        loss.backward()
        total = total + loss.detach()
        for name, value in found.items():
            if isinstance(value, Metric):
                metrics.setdefault(name, value.init_list()).append(value)
    gradients = {
        name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in leaves.items()
    }
    return total, gradients, {name: float(m.aggregate()) for name, m in metrics.items()}


def _data(fields: Fields) -> Any:
    """What verl's worker has of a mini-batch; prompts of one token, responses padded to T."""
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu

    shape = fields["logp"].shape
    tokens = torch.ones(shape[0], shape[1] + 1, dtype=torch.long)
    tensors = {
        "prompts": tokens[:, :1],
        "responses": tokens[:, 1:],
        "attention_mask": tokens,
        "response_mask": fields["mask"].long(),
        "old_log_probs": fields["old_logp"],
        "entropy": fields["old_entropy"],
        "advantages": fields["advantage"],
    }
    for name, key in (("ref_logp", "ref_log_prob"), ("rollout_logp", "rollout_log_probs")):
        if name in fields:
            tensors[key] = fields[name]
    if "reward" in fields:
        tensors["rm_scores"] = torch.zeros(shape, dtype=torch.float64)
        tensors["rm_scores"][:, -1] = fields["reward"]
    data = TensorDict({name: x.detach() for name, x in tensors.items()}, batch_size=shape[:1])
    tu.assign_non_tensor(
        data,
        dp_size=1,
        global_batch_size=shape[0],
        batch_num_tokens=int(fields["mask"].sum()),
    )
    return data


def _flat(values: Tensor) -> Tensor:
    """Model outputs without padding: the response's values start at the prompt's last token."""
    return torch.nn.functional.pad(values, (0, 1)).flatten()
