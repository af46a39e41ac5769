"""Keys of verl that do nothing in a given configuration: not read at all, or only under another setting.

Each rule was read in verl 0.9.1's source; the file that decides is named beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["RULES", "Rule", "inert"]

ACTOR = "actor_rollout_ref.actor"

#: The value of a composed configuration at a dotted key; None where there is none.
At = Callable[[str], Any]


@dataclass(frozen=True)
class Rule:
    """Some keys do nothing where ``when`` holds.

    Attributes:
        keys: full keys, or sections with their dot at the end.
        when: a condition on the composed configuration.
        why: what is so, and what to use.
    """

    keys: tuple[str, ...]
    when: Callable[[At], bool]
    why: str

    def covers(self, key: str) -> bool:
        """Whether the rule is about this key."""
        return any(key.startswith(k) if k.endswith(".") else key == k for k in self.keys)


def _never(why: str, *keys: str) -> Rule:
    """Keys that are not read at all."""
    return Rule(keys, lambda _: True, why)


def _needs(switch: str, *keys: str, why: str = "") -> Rule:
    """Keys that are read only where a switch is on."""
    return Rule(keys, lambda at: not at(switch), why or f"has no effect without {switch}=true")


def _unless(key: str, expected: Any, why: str, *keys: str) -> Rule:
    """Keys that are read only where another has this value."""
    return Rule(keys, lambda at: at(key) != expected, why)


def _no_reference(at: At) -> bool:
    return not (at(_USE_KL) or at("algorithm.use_kl_in_reward"))


def _no_critic(at: At) -> bool:
    enabled = at("critic.enable")
    return not (at("algorithm.adv_estimator") == "gae" if enabled is None else enabled)


def _group_advantage(at: At) -> bool:
    return at("algorithm.adv_estimator") in ("grpo", "rloo", "grpo_passk")


def _split_generation(at: At) -> bool:
    return bool(at(f"{_FILTER}.enable")) and at("data.gen_batch_size") != 1


def _dynamic(at: At) -> bool:
    return bool(at(_DYNAMIC))


_FILTER = "algorithm.filter_groups"
_DYNAMIC, _USE_KL = f"{ACTOR}.use_dynamic_bsz", f"{ACTOR}.use_kl_loss"
_MICRO, _LOSS = f"{ACTOR}.ppo_micro_batch_size", f"{ACTOR}.policy_loss"
_WARMUP = f"{ACTOR}.optim.lr_warmup_steps"
_KWARGS, _CUSTOM = "reward.reward_kwargs", "reward.custom_reward_function.path"
_OVERLONG = f"{_KWARGS}.overlong_buffer_cfg"
_OLD = "is an old section that the synchronous trainer does not read; use reward."
_RELATIVE = "is not used by an advantage relative to a group"
_OTHER_MODE = "belongs to another trainer_mode"
_OWN_LOSS = (
    "belongs to verl's own losses; the objective under trainer.v1.erc_bench takes their place"
)
RULES = (
    # experimental/reward_loop migrates these three; main_ppo never calls it
    _never(f"{_OLD}reward_manager and reward.reward_model", "reward_model."),
    _never(f"{_OLD}custom_reward_function", "custom_reward_function."),
    _never(f"{_OLD}sandbox_fusion", "sandbox_fusion."),
    # trainer/ppo/v1/trainer_base.py
    Rule(
        ("data.gen_batch_size",),
        _split_generation,
        "is set to 1 where groups are filtered; leave it at 1",
    ),
    _never(
        f"is ignored by the synchronous trainer; use {_FILTER}.max_inflight_gen_batches",
        f"{_FILTER}.max_num_gen_batches",
    ),
    _needs(f"{_FILTER}.enable", f"{_FILTER}."),
    _needs("algorithm.use_kl_in_reward", "algorithm.kl_ctrl.", "algorithm.kl_penalty"),
    Rule(("algorithm.gamma", "algorithm.lam"), _group_advantage, _RELATIVE),
    _unless(
        "trainer.resume_mode",
        "resume_path",
        "is read only with trainer.resume_mode=resume_path",
        "trainer.resume_from_path",
    ),
    _never(_OTHER_MODE, "trainer.v1.colocate_async.", "trainer.v1.separate_async."),
    # trainer/ppo/utils.py
    Rule(
        ("actor_rollout_ref.ref.",),
        _no_reference,
        f"has no effect: nothing needs the reference policy ({_USE_KL})",
    ),
    Rule(("critic.",), _no_critic, "has no effect: algorithm.adv_estimator needs no critic"),
    # workers/utils/losses.py, which the plug-in's loss replaces
    _needs(_USE_KL, f"{ACTOR}.kl_loss_coef", f"{ACTOR}.kl_loss_type"),
    _never(_OWN_LOSS, f"{ACTOR}.tau_pos", f"{ACTOR}.tau_neg", f"{ACTOR}.loss_scale_factor"),
    _never(_OWN_LOSS, f"{_LOSS}.clip_cov_ratio", f"{_LOSS}.clip_cov_lb", f"{_LOSS}.clip_cov_ub"),
    _never(_OWN_LOSS, f"{_LOSS}.kl_cov_ratio", f"{_LOSS}.ppo_kl_coef", f"{_LOSS}.dro_beta"),
    # workers/engine_workers.py, workers/engine/fsdp
    Rule(
        (_MICRO, f"{_MICRO}_per_gpu"),
        _dynamic,
        f"has no effect with {_DYNAMIC}; use ppo_max_token_len_per_gpu",
    ),
    _needs(_DYNAMIC, f"{ACTOR}.ppo_max_token_len_per_gpu"),
    Rule(
        (f"{_WARMUP}_ratio",),
        lambda at: (at(_WARMUP) or 0) > 0,
        f"has no effect where {_WARMUP} is positive",
    ),
    # experimental/reward_loop/reward_manager/dapo.py, trainer/ppo/reward.py
    _needs("reward.reward_model.enable", "reward.reward_model."),
    Rule(
        ("reward.sandbox_fusion.",),
        lambda at: bool(at(_CUSTOM)),
        "has no effect with a custom reward function",
    ),
    _unless(
        "reward.reward_manager.name",
        "dapo",
        "is read by reward.reward_manager.name=dapo only",
        f"{_KWARGS}.",
    ),
    _needs(
        f"{_OVERLONG}.enable",
        *(f"{_OVERLONG}.{name}" for name in ("len", "penalty_factor", "log")),
        f"{_KWARGS}.max_resp_len",
        why="has no effect without .enable of overlong_buffer_cfg",
    ),
)


def inert(key: str, at: At) -> str | None:
    """Why this key does nothing, or None.

    Args:
        key: dotted, without a leading +.
        at: the composed configuration's value at a key; None where there is none.
    """
    return next((rule.why for rule in RULES if rule.covers(key) and rule.when(at)), None)
