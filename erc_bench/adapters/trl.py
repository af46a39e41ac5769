"""Any objective in TRL's GRPOTrainer: TRL generates, scores and runs the model, the loss is ours.

TRL's own loss is computed without a graph, for its metrics, and thrown away. Needs ``erc-bench[llm]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NamedTuple

import torch
import trl
from torch import Tensor

from erc_bench.adapters.reads import drift_shares, fields_read, require_fields
from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.objectives import Objective, make, recipe
from erc_bench.objectives.base import Denominators

__all__ = ["ObjectiveGRPOTrainer", "require_settings"]

#: Settings of GRPOConfig that shape TRL's loss. The objective takes their place.
LOSS_SETTINGS = (
    "loss_type",
    "epsilon",
    "epsilon_high",
    "delta",
    "importance_sampling_level",
    "sapo_temperature_neg",
    "sapo_temperature_pos",
    "vespo_k_pos",
    "vespo_lambda_pos",
    "vespo_k_neg",
    "vespo_lambda_neg",
    "top_entropy_quantile",
    "entropy_coef",
    "use_adaptive_entropy",
    "off_policy_mask_threshold",
    "use_bias_correction_kl",
    "use_liger_kernel",
    "router_aux_loss_coef",
)
#: Optional fields of a TokenBatch that TRL can fill; it keeps no whole distributions.
FIELDS = ("entropy", "old_entropy", "action", "ref_logp", "rollout_logp", "reward")
#: GRPOConfig.scale_rewards, for the advantages of recipes that TRL can compute.
SCALE_REWARDS = {"group-zscore": "group", "group-centred": "none"}


class _Scored(NamedTuple):
    """The model's scores of the tokens, ``(B, T)``, with gradients while training."""

    logp: Tensor
    entropy: Tensor | None


class ObjectiveGRPOTrainer(trl.GRPOTrainer):
    """TRL's GRPOTrainer with one of our objectives as its loss.

    ``loss = objective(tokens of one optimizer step)``: gradient accumulation and data parallelism
    change nothing, sums and denominators add up over micro-batches and ranks. The old policy is the
    one that the rollout was scored with; its entropies are stored with the batch.

    Metrics, one value per optimizer step, in TRL's log: those of ``Objective``, and
    ``drift/out_of_band_fraction`` (entropy ratio outside 0.95 to 1.05, gated or not),
    ``drift/entropy_old``, ``drift/entropy_new`` and ``drift/kl_k3`` (nats), ``rollout``, ``staleness``
    (updates since the rollout). TRL's ``clip_ratio/...`` use the objective's clip range.

    Args:
        arguments: as for ``trl.GRPOTrainer``.
        objective: a recipe's name, or an Objective.
        parameters: of the recipe.
        keywords: as for ``trl.GRPOTrainer``. In ``args``, settings of TRL's own loss stay at their
            defaults. ``beta`` is set by the objective's KL to a reference, if it has one.

    Raises:
        InputError: an objective that needs whole distributions, which TRL does not keep; a setting of
            GRPOConfig that would have no effect; an advantage that does not fit the recipe.
    """

    def __init__(
        self,
        *arguments: Any,
        objective: str | Objective = "erc-dapo",
        parameters: dict[str, float] | None = None,
        **keywords: Any,
    ) -> None:
        if len(arguments) > 2:
            raise TypeError("ObjectiveGRPOTrainer: pass args= and what follows it by keyword")
        self.objective = _objective(objective, parameters or {})
        config = keywords.get("args") or trl.GRPOConfig("erc-bench-trl", logging_steps=1)
        require_settings(config, self.objective, objective)
        references = [
            float(term.coefficient)
            for term in self.objective.regularizers
            if getattr(term, "reference", None) == "ref"
        ]
        beta = sum(references)  # the weight of the KL to a reference policy; 0 without one
        if config.beta not in (0.0, beta):
            raise InputError(
                f"GRPOConfig.beta: {config.beta} differs from the objective's {beta}; leave it at 0"
            )
        config.beta = beta  # TRL loads the reference model and scores with it where it is not 0
        self._scored: list[_Scored] | None = None
        self._rewards: Tensor | None = None
        self._rollout_began = 0
        super().__init__(*arguments, **(keywords | {"args": config}))
        if getattr(self, "aux_loss_enabled", False):
            raise InputError("model: router losses (mixture of experts) are not supported")
        if self.objective.surrogate.clip_range is not None:
            self.epsilon_low, self.epsilon_high = self.objective.surrogate.clip_range

    # The rollout: what TRL computes there is kept.

    @contextmanager
    def _recording(self) -> Iterator[list[_Scored]]:
        self._scored = []
        try:
            yield self._scored
        finally:
            self._scored = None

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's method, also asked for entropies. They are noted; TRL goes on with copies without a graph."""
        if self._scored is None or model is self.ref_model:
            return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        kwargs["compute_entropy"] = True
        logp, entropy, *rest = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        self._scored.append(_Scored(logp, entropy))
        return (logp.detach(), entropy.detach(), *rest)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        rewards = super()._calculate_rewards(*args, **kwargs)
        self._rewards = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        with self._recording() as scored:
            output = super()._generate_and_score_completions(inputs)
        self._rollout_began = self.state.global_step
        if (old := output.get("old_per_token_logps")) is not None:
            found = [one.entropy for one in scored if one.logp.data_ptr() == old.data_ptr()]
            if len(found) != 1 or found[0] is None:
                raise RuntimeError(f"TRL {trl.__version__}: the old policy's scoring was not found")
            output["old_entropies"] = found[0].detach()
        output["response_reward"] = self._local_rewards(len(output["completion_ids"]))
        return output

    def _local_rewards(self, responses: int) -> Tensor:
        """The weighted sum of the reward functions, of this process's responses."""
        assert self._rewards is not None
        weights = self.reward_weights.to(self._rewards)
        rewards = (self._rewards * weights).nansum(dim=1)
        first = self.accelerator.process_index * responses
        self._rewards = None
        local: Tensor = rewards[first : first + responses]
        return local

    # The update: the loss.

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        with self._recording() as scored:
            super()._compute_loss(model, inputs)
        if len(scored) != 1:
            raise RuntimeError(
                f"TRL {trl.__version__}: {len(scored)} forward passes in a loss, expected 1"
            )
        batch = self._token_batch(inputs, scored[0])
        step = self._step_denominators(batch)
        loss, metrics = self.objective(batch, step)
        self._log(metrics, drift_shares(batch, step.tokens))
        # Gradients are averaged over processes, but the denominators already count all of them.
        scaled: Tensor = loss * self.accelerator.num_processes
        return scaled

    def _token_batch(self, inputs: dict[str, Any], scored: _Scored | None) -> TokenBatch:
        """The tokens of a micro-batch. Where it was not scored, the old policy stands in for the new."""
        old = inputs.get("old_per_token_logps")
        old_entropy = inputs.get("old_entropies")
        if scored is None:
            if old is None:
                old = torch.zeros(inputs["completion_ids"].shape, device=self.accelerator.device)
                old_entropy = old
            scored = _Scored(old, old_entropy)
        if old is None:  # the rollout is of this very policy: TRL skips its scoring
            old = scored.logp.detach()
            old_entropy = None if scored.entropy is None else scored.entropy.detach()
        like = scored.logp
        advantage = inputs["advantages"].to(like)
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        optional = {
            "entropy": scored.entropy,
            "old_entropy": old_entropy,
            "action": inputs["completion_ids"],
            "ref_logp": inputs.get("ref_per_token_logps"),
            "rollout_logp": inputs.get("sampling_per_token_logps"),
            "reward": inputs.get("response_reward"),
        }
        return TokenBatch(
            logp=like,
            old_logp=old,
            advantage=(advantage if advantage.ndim == 2 else advantage[:, None]).expand_as(like),
            mask=mask.bool(),
            **{name: value for name, value in optional.items() if value is not None},
        )

    def _step_denominators(self, batch: TokenBatch) -> Denominators:
        """Denominators of all tokens of this optimizer step: every micro-batch, every process."""
        parts = [self.objective.denominators(batch)]
        if self.model.training:
            accumulate = self.args.gradient_accumulation_steps
            here = self._step % self.args.steps_per_generation
            first = here - here % accumulate
            for index in range(first, first + self.current_gradient_accumulation_steps):
                if index != here:
                    other = self._token_batch(self._buffered_inputs[index], None)
                    parts.append(self.objective.denominators(other))
        flat = [torch.stack([p.tokens, p.surrogate, *p.regularizers]).double() for p in parts]
        total = self.accelerator.reduce(torch.stack(flat).sum(0), reduction="sum")
        tokens, surrogate, *regularizers = total.to(batch.logp.dtype)
        return Denominators(tokens, surrogate, tuple(regularizers))

    def _log(self, *metrics: dict[str, Tensor]) -> None:
        """Hand TRL the step's metrics, times the number of micro-batches, over which it averages."""
        mode = "train" if self.model.training else "eval"
        parts = self.current_gradient_accumulation_steps if self.model.training else 1
        named = {name: value.detach() for group in metrics for name, value in group.items()}
        values = torch.stack([value.float() for value in named.values()])
        total = self.accelerator.reduce(values, reduction="sum") * parts
        log = self._metrics[mode]
        for name, value in zip(named, total.tolist(), strict=True):
            log[name].append(value)
        if self.model.training:
            accumulate = self.args.gradient_accumulation_steps
            updates = max(1, self.args.steps_per_generation * self.num_iterations // accumulate)
            log["staleness"].append(float(self._step // accumulate % updates))
            log["rollout"].append(float(self._rollout_began // updates))


def _objective(objective: str | Objective, parameters: dict[str, float]) -> Objective:
    if isinstance(objective, str):
        made = make(objective, **parameters)
    elif parameters:
        raise InputError("parameters: only for an objective given by name")
    else:
        made = objective
    require_fields(made, FIELDS, by="TRL")
    return made


def require_settings(config: Any, objective: Objective, named: str | Objective) -> None:
    """Refuse settings that would silently have no effect.

    Raises:
        InputError: names the setting, its value, and what to do.
    """
    defaults = {f.name: f.default for f in fields(trl.GRPOConfig)}
    for name in LOSS_SETTINGS:
        if name in defaults and getattr(config, name) != defaults[name]:
            raise InputError(
                f"GRPOConfig.{name}: {getattr(config, name)!r} has no effect, the objective takes its "
                f"place; leave it at {defaults[name]!r} and set the objective's parameters"
            )
    if isinstance(named, str):
        wanted = SCALE_REWARDS.get(recipe(named).advantage)
        found = "none" if config.scale_rewards is False else config.scale_rewards
        if wanted is not None and found != wanted:
            raise InputError(
                f"GRPOConfig.scale_rewards: {found!r}, but {named} is defined with {wanted!r}"
            )
    corrects = "rollout_logp" in fields_read(objective)
    if config.use_vllm and config.vllm_importance_sampling_correction and not corrects:
        raise InputError(
            "GRPOConfig.vllm_importance_sampling_correction: True has no effect; set it to False or "
            "choose an objective that reads the engine's probabilities, as dapo-tis"
        )
    accumulate, slices = config.gradient_accumulation_steps, config.steps_per_generation
    if slices % accumulate:
        raise InputError(
            f"GRPOConfig.steps_per_generation: {slices} must be a multiple of "
            f"gradient_accumulation_steps ({accumulate}): a step's tokens come from one rollout"
        )
    if objective.over_batch and accumulate > 1:
        raise InputError(
            f"GRPOConfig.gradient_accumulation_steps: {accumulate}, must be 1: the objective compares "
            "the tokens of a whole batch"
        )
