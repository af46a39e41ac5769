"""How the frameworks of the field call a policy loss: names, forms and defaults, a few lines each.

``erc-bench check my_loss.py:loss --like skyrl`` calls the loss as SkyRL does. A line is
``parameter=source`` as after ``--bind``; parameters that a loss does not have are left out. verl's and
TRL's are recognised by their names and need no ``--like``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["BY_NAME", "PROFILES", "Profile"]


@dataclass(frozen=True)
class Profile:
    """One framework's manner of calling a loss.

    Attributes:
        title: what reports call the signature.
        source: the file of the framework that was read, with its date.
        binds: ``parameter=source`` separated by blanks.
        sets: constants by dotted path.
        config: the parameter that takes the options which are no parameters.
        types: the framework's own type of a parameter, as ``module:name``; used where it is loaded.
        marks: parameters by which the signature is recognised.
    """

    title: str
    source: str
    binds: str
    sets: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    marks: frozenset[str] = frozenset()


def _alone(value: Tensor, **_: object) -> Tensor:
    """What a gather or a reduction gives where there is one process."""
    return value


#: The signature of a loss that is recognised by the names of its parameters alone.
BY_NAME = Profile("by name", "", "")

PROFILES: Mapping[str, Profile] = {
    "verl": Profile(
        "verl",
        "verl/trainer/ppo/core_algos.py, 2026-08-22",
        "old_log_prob=old_logp log_prob=logp advantages=advantage response_mask=mask:int "
        "rollout_is_weights=rollout_weight config.global_batch_info.batch_num_tokens=tokens "
        "config.global_batch_info.global_batch_size=rows",
        sets={
            "config.clip_ratio": 0.2,
            "config.clip_ratio_low": 0.2,
            "config.clip_ratio_high": 0.2,
            "config.clip_ratio_c": 3.0,
            "config.loss_agg_mode": "token-mean",
            "config.global_batch_info.dp_size": 1,
        },
        config="config",
        types={"config": "verl.workers.config:ActorConfig"},
        marks=frozenset({"old_log_prob", "log_prob", "response_mask"}),
    ),
    "trl": Profile(
        "TRL-like",
        "trl/trainer/grpo_trainer.py, 2026-07-24",
        "advantages=advantage:rows completion_mask=mask:int "
        "self._get_per_token_logps_and_entropies=logp,entropy,none:call inputs.prompt_ids=labels "
        "inputs.prompt_mask=mask:int inputs.completion_ids=labels inputs.completion_mask=mask:int "
        "inputs.advantages=advantage:rows inputs.old_per_token_logps=old_logp "
        "inputs.ref_per_token_logps=ref_logp inputs.sampling_per_token_logps=rollout_logp "
        "inputs.importance_sampling_ratio=rollout_weight inputs.num_items_in_batch=tokens",
        sets={
            "model": None,
            "self.model.training": True,
            "self.loss_type": "dapo",
            "self.importance_sampling_level": "token",
            "self.epsilon_low": 0.2,
            "self.epsilon_high": 0.2,
            "self.beta": 0.0,
            "self.top_entropy_quantile": 1.0,
            "self.off_policy_mask_threshold": None,
            "self.use_vllm": False,
            "self.vllm_importance_sampling_correction": False,
            "self._entropy_bonus_enabled": False,
            "self.use_adaptive_entropy": False,
            "self.entropy_coef": 0.0,
            "self.aux_loss_enabled": False,
            "self.current_gradient_accumulation_steps": 1,
            "self.max_completion_length": 5,
            "self.args.delta": None,
            "self.args.steps_per_generation": 1,
            "self.args.use_bias_correction_kl": False,
            "self.args.sapo_temperature_pos": 1.0,
            "self.args.sapo_temperature_neg": 1.05,
            "self.accelerator.num_processes": 1,
            "self.accelerator.sync_gradients": False,
            "self.accelerator.gather": _alone,
            "self.accelerator.reduce": _alone,
            "self._metrics": defaultdict(lambda: defaultdict(list)),
        },
        marks=frozenset({"per_token_logps"}),
    ),
    "openrlhf": Profile(
        "OpenRLHF",
        "openrlhf/models/loss.py, 2026-08-13",
        "log_probs=logp old_log_probs=old_logp advantages=advantage action_mask=mask:int "
        "rollout_log_probs=rollout_logp batch_num_tokens=tokens global_batch_size=rows",
    ),
    "skyrl": Profile(
        "SkyRL",
        "skyrl/backends/skyrl_train/utils/ppo_utils.py, 2026-08-21",
        "log_probs=logp old_log_probs=old_logp advantages=advantage loss_mask=mask:float "
        "rollout_logprobs=rollout_logp",
        sets={
            "config.policy_loss_type": "regular",
            "config.loss_reduction": "token_mean",
            "config.eps_clip_low": 0.2,
            "config.eps_clip_high": 0.2,
            "config.clip_ratio_c": 3.0,
            "config.off_policy_correction.tis_ratio_type": None,
            "config.off_policy_correction.sequence_mask_metric": None,
            "config.off_policy_correction.outlier_token_is_threshold_low": None,
            "config.off_policy_correction.outlier_token_is_threshold_high": None,
            "config.off_policy_correction.token_mask_is_threshold_low": None,
            "config.off_policy_correction.token_mask_is_threshold_high": None,
        },
        config="config",
    ),
    "slime": Profile(
        "slime",
        "slime/utils/ppo_utils.py, 2026-08-21",
        "ppo_kl=negative_log_ratio:packed log_probs=logp:packed advantages=advantage:packed",
        sets={"eps_clip": 0.2, "eps_clip_high": 0.28},
    ),
    "prime-rl": Profile(
        "prime-rl",
        "src/prime_rl/trainer/rl/loss.py, 2026-08-21",
        "inputs.trainer_logprobs=logp:each inputs.inference_logprobs=rollout_logp:each "
        "inputs.ref_logprobs=ref_logp:each inputs.advantages=advantage:each "
        "inputs.loss_mask=mask:each",
        sets={"inputs.loss_weights": None},
    ),
    "areal": Profile(
        "AReaL",
        "areal/utils/functional/functional.py and areal/trainer/ppo/actor.py, 2026-05-21",
        "logprobs=logp:packed proximal_logprobs=old_logp:packed old_logprobs=rollout_logp:packed "
        "advantages=advantage:packed loss_mask=mask:packed entropy=entropy:packed "
        "cu_seqlens=cu_seqlens input_data.logprobs=rollout_logp:packed "
        "input_data.prox_logp=old_logp:packed input_data.advantages=advantage:packed "
        "input_data.loss_mask=mask:packed input_data.cu_seqlens=cu_seqlens",
        sets={"eps_clip": 0.2, "eps_clip_higher": None, "c_clip": None},
    ),
    "nemo-rl": Profile(
        "NeMo-RL",
        "nemo_rl/algorithms/loss/loss_functions.py, 2026-08-22",
        "next_token_logprobs=logp data.token_mask=mask:shifted:int data.sample_mask=row_mask:int "
        "data.advantages=advantage:shifted data.prev_logprobs=old_logp:shifted "
        "data.generation_logprobs=rollout_logp:shifted "
        "data.reference_policy_logprobs=ref_logp:shifted "
        "global_valid_seqs=rows global_valid_toks=tokens",
    ),
    "roll": Profile(
        "ROLL",
        "roll/pipeline/rlvr/actor_worker.py, 2026-08-19",
        "output_tensor=logp data.batch.response_mask=mask:shifted:int "
        "data.batch.ref_log_probs=ref_logp data.batch.advantages=advantage "
        "data.batch.old_log_probs=old_logp data.batch.infer_logprobs=rollout_logp "
        "data.batch.train_infer_is_weight=rollout_weight "
        "data.meta_info.batch_num_tokens.response_mask=tokens "
        "data.meta_info.global_valid_samples.response_mask=rows "
        "self.strategy.op_compute_log_probs=logp:call "
        "self.get_old_log_probs_with_cache=old_logp:call "
        "self.compute_sample_weights=row_ones:call",
        sets={
            "data.batch.input_ids": None,
            "self.pipeline_config.enable_old_logprobs_recompute": True,
            "self.pipeline_config.train_infer_correction.is_weight.enabled": False,
            "self.pipeline_config.loss_agg_mode": "seq-mean-token-mean",
            "self.pipeline_config.importance_sampling": "token",
            "self.pipeline_config.use_pg_clip_range": False,
            "self.pipeline_config.pg_clip": 0.2,
            "self.pipeline_config.dual_clip_loss": False,
            "self.pipeline_config.use_kl_loss": False,
            "self.pipeline_config.kl_loss_coef": 0.0,
            "self.pipeline_config.rl_loss_coef": 1.0,
            "self.pipeline_config.entropy_loss_coef": 0.0,
        },
    ),
    "tinker": Profile(
        "tinker",
        "tinker_cookbook/preference/train_dpo.py (forward_backward_custom), 2026-08-19",
        "logprobs=logp:list logprobs_list=logp:list data.*.loss_fn_inputs.logprobs=rollout_logp:datum "
        "data.*.loss_fn_inputs.advantages=advantage:datum data.*.loss_fn_inputs.mask=mask:datum "
        "data.*.loss_fn_inputs.weights=mask:float:datum "
        "data.*.loss_fn_inputs.target_tokens=labels:datum",
    ),
    "torchrl": Profile(
        "torchrl",
        "torchrl/objectives/llm/grpo.py (_compute_policy_objective), 2026-08-22",
        "log_weight=log_ratio:last advantage=advantage:last",
        sets={"self._clip_bounds": (torch.tensor(0.8).log(), torch.tensor(1.2).log())},
    ),
}
