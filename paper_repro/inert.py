"""Keys of verl that do nothing in a given configuration: not read at all, or only under another setting.

Each rule was read in verl 0.9.1's source; the file that decides is named beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["RULES", "Rule", "inert"]

ACTOR = "actor_rollout_ref.actor"


@dataclass(frozen=True)
class Rule:
    """Keys that begin with ``prefix`` do nothing where ``when`` holds.

    Attributes:
        prefix: a key, or a section with its dot at the end.
        when: of the composed configuration, as a function of a dotted key.
        why: what is so, and what to use.
    """

    prefix: str
    when: Callable[[Callable[[str], Any]], bool]
    why: str

    def covers(self, key: str) -> bool:
        """Whether the rule is about this key."""
        return key.startswith(self.prefix) if self.prefix.endswith(".") else key == self.prefix


def _always(_: Callable[[str], Any]) -> bool:
    return True


def _no_reference(at: Callable[[str], Any]) -> bool:
    return not (at(f"{ACTOR}.use_kl_loss") or at("algorithm.use_kl_in_reward"))


def _no_critic(at: Callable[[str], Any]) -> bool:
    enabled = at("critic.enable")
    return not (at("algorithm.adv_estimator") == "gae" if enabled is None else enabled)


def _dynamic(at: Callable[[str], Any]) -> bool:
    return bool(at(f"{ACTOR}.use_dynamic_bsz"))


def _filtering(at: Callable[[str], Any]) -> bool:
    return bool(at("algorithm.filter_groups.enable"))


def _group_advantage(at: Callable[[str], Any]) -> bool:
    return at("algorithm.adv_estimator") in ("grpo", "rloo", "grpo_passk")


def _no_overlong(at: Callable[[str], Any]) -> bool:
    return not at("reward.reward_kwargs.overlong_buffer_cfg.enable")


_LOSS = "belongs to verl's own losses; the objective under trainer.v1.erc_bench takes their place"
_OLD = "is an old section that the synchronous trainer does not read; use reward.{}"
_KL = f"has no effect without {ACTOR}.use_kl_loss=true"
RULES = (
    # experimental/reward_loop migrates these three; main_ppo never calls it
    Rule("reward_model.", _always, _OLD.format("reward_manager and reward.reward_model")),
    Rule("custom_reward_function.", _always, _OLD.format("custom_reward_function")),
    Rule("sandbox_fusion.", _always, _OLD.format("sandbox_fusion")),
    # trainer/ppo/v1/trainer_base.py
    Rule("data.gen_batch_size", lambda at: _filtering(at) and at("data.gen_batch_size") != 1,
         "is set to 1 where groups are filtered; leave it at 1"),
    Rule(
        "algorithm.filter_groups.max_num_gen_batches", _always,
        "is ignored by the synchronous trainer; use algorithm.filter_groups.max_inflight_gen_batches",
    ),
    Rule(
        "algorithm.filter_groups.", lambda at: not _filtering(at),
        "has no effect without algorithm.filter_groups.enable=true",
    ),
    Rule("algorithm.kl_ctrl.", lambda at: not at("algorithm.use_kl_in_reward"),
         "has no effect without algorithm.use_kl_in_reward=true"),
    Rule("algorithm.kl_penalty", lambda at: not at("algorithm.use_kl_in_reward"),
         "has no effect without algorithm.use_kl_in_reward=true"),
    Rule("algorithm.gamma", _group_advantage, "is not used by an advantage relative to a group"),
    Rule("algorithm.lam", _group_advantage, "is not used by an advantage relative to a group"),
    Rule("trainer.resume_from_path", lambda at: at("trainer.resume_mode") != "resume_path",
         "is read only with trainer.resume_mode=resume_path"),
    Rule("trainer.v1.colocate_async.", _always, "belongs to another trainer_mode"),
    Rule("trainer.v1.separate_async.", _always, "belongs to another trainer_mode"),
    # trainer/ppo/utils.py
    Rule("actor_rollout_ref.ref.", _no_reference,
         f"has no effect: nothing needs the reference policy ({ACTOR}.use_kl_loss)"),
    Rule("critic.", _no_critic, "has no effect: algorithm.adv_estimator needs no critic"),
    # workers/utils/losses.py, which the plug-in's loss replaces
    Rule(f"{ACTOR}.kl_loss_coef", lambda at: not at(f"{ACTOR}.use_kl_loss"), _KL),
    Rule(f"{ACTOR}.kl_loss_type", lambda at: not at(f"{ACTOR}.use_kl_loss"), _KL),
    Rule(f"{ACTOR}.tau_pos", _always, _LOSS),
    Rule(f"{ACTOR}.tau_neg", _always, _LOSS),
    Rule(f"{ACTOR}.loss_scale_factor", _always, _LOSS),
    Rule(f"{ACTOR}.policy_loss.clip_cov_ratio", _always, _LOSS),
    Rule(f"{ACTOR}.policy_loss.clip_cov_lb", _always, _LOSS),
    Rule(f"{ACTOR}.policy_loss.clip_cov_ub", _always, _LOSS),
    Rule(f"{ACTOR}.policy_loss.kl_cov_ratio", _always, _LOSS),
    Rule(f"{ACTOR}.policy_loss.ppo_kl_coef", _always, _LOSS),
    Rule(f"{ACTOR}.policy_loss.dro_beta", _always, _LOSS),
    # workers/engine_workers.py, workers/engine/fsdp
    Rule(f"{ACTOR}.ppo_micro_batch_size", _dynamic, f"has no effect with {ACTOR}.use_dynamic_bsz"),
    Rule(f"{ACTOR}.ppo_micro_batch_size_per_gpu", _dynamic,
         f"has no effect with {ACTOR}.use_dynamic_bsz; use ppo_max_token_len_per_gpu"),
    Rule(f"{ACTOR}.ppo_max_token_len_per_gpu", lambda at: not _dynamic(at),
         f"has no effect without {ACTOR}.use_dynamic_bsz=true"),
    Rule(f"{ACTOR}.optim.lr_warmup_steps_ratio",
         lambda at: (at(f"{ACTOR}.optim.lr_warmup_steps") or 0) > 0,
         f"has no effect where {ACTOR}.optim.lr_warmup_steps is positive"),
    # experimental/reward_loop/reward_manager/dapo.py, trainer/ppo/reward.py
    Rule("reward.reward_model.", lambda at: not at("reward.reward_model.enable"),
         "has no effect without reward.reward_model.enable=true"),
    Rule("reward.sandbox_fusion.", lambda at: bool(at("reward.custom_reward_function.path")),
         "has no effect with a custom reward function"),
    Rule("reward.reward_kwargs.", lambda at: at("reward.reward_manager.name") != "dapo",
         "is read by reward.reward_manager.name=dapo only"),
    Rule("reward.reward_kwargs.overlong_buffer_cfg.len", _no_overlong, "has no effect without .enable"),
    Rule("reward.reward_kwargs.overlong_buffer_cfg.penalty_factor", _no_overlong,
         "has no effect without .enable"),
    Rule("reward.reward_kwargs.overlong_buffer_cfg.log", _no_overlong, "has no effect without .enable"),
    Rule("reward.reward_kwargs.max_resp_len", _no_overlong, "has no effect without overlong_buffer_cfg"),
)  # fmt: skip


def inert(key: str, at: Callable[[str], Any]) -> str | None:
    """Why this key does nothing, or None.

    Args:
        key: dotted, without a leading +.
        at: the composed configuration's value at a key; None where there is none.
    """
    return next((rule.why for rule in RULES if rule.covers(key) and rule.when(at)), None)
