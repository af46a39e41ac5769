"""The loss of one micro-batch as verl's workers call it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from erc_bench.adapters.verl.names import Aggregation
from erc_bench.batch import TokenBatch
from erc_bench.errors import InputError
from erc_bench.numerics import entropy_ratio, k3
from erc_bench.objectives import (
    FixedHorizon,
    Objective,
    SequenceMeanTokenMean,
    SequenceMeanTokenSum,
    TokenMean,
)
from erc_bench.objectives.base import Denominators

__all__ = ["ObjectiveLoss"]

#: Fields of verl's batch, where they are there, and ours.
OPTIONAL = {
    "entropy": "old_entropy", "responses": "action", "ref_log_prob": "ref_logp",
    "rollout_log_probs": "rollout_logp",
}  # fmt: skip


@dataclass(frozen=True)
class ObjectiveLoss:
    """A loss function for ``set_loss_fn``: one micro-batch's share of the mini-batch's loss.

    With ``global`` aggregation the shares of all micro-batches and data-parallel ranks add up to the
    objective on the whole mini-batch, as verl 0.9's own losses do. With ``micro-batch``, ERC's
    release: the objective on each micro-batch by itself, weighted by its number of responses.
    A regularizer over some responses only (``PositiveNLL``) is averaged within each micro-batch, which
    is weighted by its share of the tokens: verl does not say how many such tokens the others have.

    Attributes:
        objective: what is minimised.
        aggregation: see above.
    """

    objective: Objective
    aggregation: Aggregation = "global"

    def __call__(self, *, model_output: Any, data: Any, dp_group: Any = None) -> tuple[Tensor, Any]:
        """Loss and metrics as verl's ``ppo_loss`` gives them; gradients are averaged over ranks."""
        batch = token_batch(model_output, data)
        ranks, responses = int(data["dp_size"]), int(data["global_batch_size"])
        tokens = int(data["batch_num_tokens"])
        if self.aggregation == "global":
            whole = self._denominators(batch, tokens, responses)
            loss, metrics = self.objective(batch, whole)
            measured = drift(batch, tokens)
            scale = float(ranks)
        else:
            loss, metrics = self.objective(batch)
            measured = drift(batch, int(batch.mask.sum()))
            scale = ranks * batch.mask.shape[0] / responses
        named = {f"actor/{name}": value * scale for name, value in (metrics | measured).items()}
        named["actor/pg_loss"] = loss.detach() * scale
        return loss * scale, Metric.from_dict(
            {name: value.item() for name, value in named.items()}, aggregation=AggregationType.SUM
        )

    def _denominators(self, batch: TokenBatch, tokens: int, responses: int) -> Denominators:
        """Of the whole mini-batch, of which verl tells the numbers of tokens and of responses."""
        like = batch.logp

        def number(value: Tensor | float) -> Tensor:
            return torch.as_tensor(value, dtype=like.dtype, device=like.device)

        here = batch.mask.sum().clamp(min=1)
        parts = []
        for piece in self.objective.regularizers:
            mask = piece.mask(batch)
            if torch.equal(mask, batch.mask):
                parts.append(number(self._whole(tokens, responses)))
            else:
                parts.append(number(self.objective.aggregate.denominator(mask) * tokens / here))
        return Denominators(number(tokens), number(self._whole(tokens, responses)), tuple(parts))

    def _whole(self, tokens: int, responses: int) -> float:
        aggregate = self.objective.aggregate
        match aggregate:
            case TokenMean():
                return float(tokens)
            case SequenceMeanTokenMean() | SequenceMeanTokenSum():
                return float(responses)
            case FixedHorizon():
                return float(responses * aggregate.horizon)
        raise InputError(
            f"objective: verl cannot add up {type(aggregate).__name__} over micro-batches"
        )


def token_batch(model_output: Any, data: Any) -> TokenBatch:
    """Padded to ``(responses, tokens)`` from verl's ragged tensors."""
    logp = no_padding_2_padding(model_output["log_probs"], data)
    if model_output.get("entropy") is None:
        raise InputError("actor.calculate_entropy: must be True, the objective's metrics need it")
    entropy = no_padding_2_padding(model_output["entropy"], data)
    wanted = [name for name in (*OPTIONAL, "rm_scores") if name in data.keys()]  # noqa: SIM118
    padded = data.select("response_mask", "old_log_probs", "advantages", *wanted)
    padded = padded.to_padded_tensor()
    width = logp.shape[-1]
    given = {OPTIONAL[name]: padded[name][..., :width] for name in wanted if name in OPTIONAL}
    if "rm_scores" in wanted:
        given["reward"] = padded["rm_scores"].to(logp.dtype).sum(-1)
    return TokenBatch(
        logp=logp,
        old_logp=padded["old_log_probs"],
        advantage=padded["advantages"],
        mask=padded["response_mask"].bool(),
        entropy=entropy,
        **given,
    )


@torch.no_grad()
def drift(batch: TokenBatch, tokens: int) -> dict[str, Tensor]:
    """What can be measured without distributions, as shares of ``tokens``."""
    new, old = batch.require("entropy", by="drift"), batch.require("old_entropy", by="drift")
    rho = entropy_ratio(new, old)
    measured = {
        "drift/out_of_band_fraction": ((rho <= 0.95) | (rho >= 1.05)).to(new.dtype),
        "drift/entropy_old": old,
        "drift/entropy_new": new,
        "drift/kl_k3": k3(batch.log_ratio),
    }
    return {name: (v * batch.mask).sum() / max(tokens, 1) for name, v in measured.items()}
