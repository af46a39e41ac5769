"""verl's registered policy losses, called as verl's actor calls them; imports verl when used."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from differential.batches import Fields, gradients

#: a bound that never binds
NEVER = 1e30


@dataclass(frozen=True)
class Case:
    """One recipe beside one loss of verl.

    Attributes:
        recipe: name in RECIPES.
        loss: name in verl's registry.
        parameters: of the recipe.
        config: of verl's actor, that say the same.
        mode: verl's ``loss_agg_mode``.
        tolerance: relative; verl adds 1e-8 to some denominators, which bounds it from below.
        value: False where the values differ by design (the differences page says how).
        limit: largest log-ratio; beyond it they clamp differently.
        per_response: one advantage for a response.
        empty_rows: whether responses without a token are there.
        probabilities: whether the loss needs log-probabilities below 0.
    """

    recipe: str
    loss: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "token-mean"
    tolerance: float = 1e-12
    value: bool = True
    limit: float = 40.0
    per_response: bool = False
    empty_rows: bool = True
    probabilities: bool = False

    def __str__(self) -> str:
        changed = "".join(f"-{k}={v:g}" for k, v in self.parameters.items())
        return f"{self.loss}-{self.recipe}{changed}"


def clip(low: float, high: float, c: float = NEVER) -> dict[str, float]:
    """verl's clip; the dual clip is always on there, so its bound is put out of reach."""
    return {"clip_ratio_low": low, "clip_ratio_high": high, "clip_ratio_c": c}


def corrected(
    level: str | None = "token",
    threshold: float | str = NEVER,
    reject: tuple[str, float | str] | None = None,
    *,
    counted: bool = True,
) -> dict[str, Any]:
    """DAPO's clip, and verl's rollout correction: weights at a level, and what is rejected.

    ``counted``: whether what is rejected stays in the denominator, as here, or leaves it, as in verl.
    """
    return clip(0.2, 0.28) | {"rollout": (level, threshold, reject), "counted": counted}


#: The rollout's engine in the old policy's place, as verl hands its losses in ``bypass_mode``.
BYPASS = {"bypass": True}
SEQUENCE = "seq-mean-token-mean"
COV = {"clip_cov_ratio": 1.0, "clip_cov_lb": 0.2, "clip_cov_ub": 5.0}

CASES = (
    Case("reinforce", "gpg"),
    Case("ppo-clip", "vanilla", {}, clip(0.2, 0.2)),
    Case("ppo-clip", "vanilla", {"clip_low": 0.05, "clip_high": 0.6}, clip(0.05, 0.6)),
    Case("dual-clip", "vanilla", {}, clip(0.2, 0.2, 3.0)),
    Case("dual-clip", "vanilla", {"c": 10.0, "clip_high": 0.28}, clip(0.2, 0.28, 10.0)),
    Case("ppo-entropy", "vanilla", {}, clip(0.2, 0.2) | {"entropy_coeff": 0.01}),
    Case("grpo", "vanilla", {}, clip(0.2, 0.2), SEQUENCE, 2e-8),
    Case(
        "grpo", "vanilla", {"beta": 0.04}, clip(0.2, 0.2) | {"kl": 0.04}, SEQUENCE, 2e-8, limit=1.0
    ),
    Case("dr-grpo", "vanilla", {"horizon": 12}, clip(0.2, 0.2), "seq-mean-token-sum-norm"),
    Case("dapo", "vanilla", {}, clip(0.2, 0.28)),
    Case("dapo-entropy", "vanilla", {}, clip(0.2, 0.28) | {"entropy_coeff": 0.01}),
    Case("dapo-tis", "vanilla", {}, corrected(threshold=2.0)),
    Case("dapo-tis", "vanilla", {"cap": 1.1}, corrected(threshold=1.1)),
    Case("dapo-is", "vanilla", {}, corrected(threshold=NEVER)),
    Case("icepop", "vanilla", {}, corrected(threshold="0.5_5.0"), value=False),
    Case(
        "icepop",
        "vanilla",
        {"low": 0.8, "high": 1.2},
        corrected(threshold="0.8_1.2"),
        value=False,
    ),
    Case("seq-tis", "vanilla", {}, corrected("sequence", 2.0)),
    Case("seq-tis", "vanilla", {"cap": 0.9}, corrected("sequence", 0.9)),
    Case(
        "seq-mis",
        "vanilla",
        {},
        corrected("sequence", 2.0, reject=("seq_sum_k1", "0.5_2.0")),
        value=False,
    ),
    Case("seq-k3-rs", "vanilla", {}, corrected(None, reject=("seq_mean_k3", 0.01)), value=False),
    Case(
        "seq-k3-rs",
        "vanilla",
        {"high": 0.15},
        corrected(None, reject=("seq_mean_k3", 0.15)),
        value=False,
    ),
    Case("gspo", "gspo", {}, clip(3e-4, 4e-4), SEQUENCE, 2e-8, limit=9.0),
    Case(
        "gspo",
        "gspo",
        {"clip_low": 0.2, "clip_high": 0.3},
        clip(0.2, 0.3),
        SEQUENCE,
        2e-8,
        limit=9.0,
    ),
    Case(
        "gmpo",
        "geo_mean",
        {},
        clip(0.4, 0.4),
        "",
        2.5e-7,  # 1e-8 of the mean of log r, which is 19 at most
        limit=19.0,
        per_response=True,
        empty_rows=False,
    ),
    Case("cispo", "cispo", {}, clip(1.0, 4.0)),
    Case("cispo", "cispo", {"clip_low": 0.3, "clip_high": 0.4}, clip(0.3, 0.4)),
    Case("sapo", "sapo", {}, {}, SEQUENCE, 2e-8),
    Case(
        "sapo",
        "sapo",
        {"tau_positive": 2.0, "tau_negative": 5.0},
        {"tau_pos": 2.0, "tau_neg": 5.0},
        SEQUENCE,
        2e-8,
    ),
    Case("pg-is", "dppo_tv", {}, clip(NEVER, NEVER) | BYPASS, value=False, limit=17.0),
    Case("dppo-tv", "dppo_tv", {}, clip(0.15, 0.15) | BYPASS, value=False, limit=17.0),
    Case(
        "dppo-tv",
        "dppo_tv",
        {"delta_low": 0.3, "delta_high": 0.05},
        clip(0.3, 0.05) | BYPASS,
        value=False,
        limit=17.0,
    ),
    Case(
        "dppo-kl",
        "dppo_kl",
        {},
        clip(0.05, 0.05) | BYPASS,
        value=False,
        limit=17.0,
        probabilities=True,
    ),
    Case(
        "dppo-kl",
        "dppo_kl",
        {"delta_low": 0.3, "delta_high": 0.01},
        clip(0.3, 0.01) | BYPASS,
        value=False,
        limit=17.0,
        probabilities=True,
    ),
    Case(
        "clip-cov",
        "clip_cov",
        {"fraction": 1.0, "cov_low": 0.2, "cov_high": 5.0},
        clip(1.0, 1.0) | COV,
        value=False,
        limit=19.0,
    ),
    Case(
        "kl-cov", "kl_cov", {"fraction": 0.2}, {"kl_cov_ratio": 0.2, "ppo_kl_coef": 1.0}, limit=19.0
    ),
    Case("kl-cov", "kl_cov", {"beta": 0.3}, {"kl_cov_ratio": 2e-3, "ppo_kl_coef": 0.3}, limit=19.0),
)

#: losses of verl that no recipe is
WITHOUT_RECIPE = {
    "dro": "a quadratic penalty on log r, no recipe here",
    "bypass_mode": "chooses one of the others from how the rollout was corrected",
}

_POLICY_LOSS = {"clip_cov_ratio", "clip_cov_lb", "clip_cov_ub", "kl_cov_ratio", "ppo_kl_coef"}
_OURS_TO_ADD = {"entropy_coeff", "kl", "rollout", "counted", "bypass"}


def core() -> Any:
    """``verl.trainer.ppo.core_algos``; skips the test where verl is not installed."""
    pytest.importorskip("verl", reason="verl is not installed: see tests/differential/README.md")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of verl and what it imports
        from verl.trainer.ppo import core_algos  # noqa: PLC0415
    return core_algos


def actor_config(loss: str, mode: str, config: Mapping[str, Any]) -> Any:
    """verl's actor config with this loss; settings of the actor and of the loss may be mixed."""
    core()
    from verl.workers.config import ActorConfig, PolicyLossConfig  # noqa: PLC0415

    chosen = {k: v for k, v in config.items() if k in _POLICY_LOSS}
    rest = {k: v for k, v in config.items() if k not in _POLICY_LOSS | _OURS_TO_ADD}
    return ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        loss_agg_mode=mode or "token-mean",
        policy_loss=PolicyLossConfig(loss_mode=loss, **chosen),
        **rest,
    )


def theirs(
    given: Fields,
    loss: str,
    mode: str = "token-mean",
    config: Mapping[str, Any] | None = None,
    **global_batch: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients by verl's actor: policy loss, minus entropy bonus, plus KL penalty.

    ``global_batch`` is verl's ``global_batch_info``: the denominators of the whole batch.
    """
    algos, config = core(), dict(config or {})
    actor = actor_config(loss, mode, config)
    mask, weights = given["mask"].double(), None
    if "rollout" in config:
        if config["counted"]:
            actor.global_batch_info["batch_num_tokens"] = int(mask.sum())
        mask, weights = _rollout_correction(given, mask, *config["rollout"])
    actor.global_batch_info.update(global_batch)
    total, _ = algos.get_policy_loss_fn(loss)(
        old_log_prob=given["rollout_logp" if config.get("bypass") else "old_logp"],
        log_prob=given["logp"],
        advantages=given["advantage"],
        response_mask=mask,
        loss_agg_mode=actor.loss_agg_mode,
        config=actor,
        rollout_is_weights=weights,
    )
    if "entropy_coeff" in config:
        entropy = algos.agg_loss(given["entropy"], mask, actor.loss_agg_mode, **global_batch)
        total = total - config["entropy_coeff"] * entropy
    if "kl" in config:
        per_token = algos.kl_penalty(given["logp"], given["ref_logp"], "low_var_kl")
        kl = algos.agg_loss(per_token, mask, actor.loss_agg_mode, **global_batch)
        total = total + config["kl"] * kl
    return total.detach(), gradients(total, given)


def _rollout_correction(
    given: Fields,
    mask: Tensor,
    level: str | None,
    threshold: float | str,
    reject: tuple[str, float | str] | None,
) -> tuple[Tensor, Tensor | None]:
    """The mask that rejection leaves, and the weights."""
    from verl.trainer.ppo import rollout_corr_helper as helper  # noqa: PLC0415

    log_ratio, weights = given["old_logp"] - given["rollout_logp"], None
    if level is not None:
        # the metrics beside the weights divide by zero where every weight is zero
        with mock.patch.object(helper, "compute_is_metrics", return_value={}):
            weights, _ = helper.compute_rollout_correction_weights(
                log_ratio, mask, level, threshold
            )
        weights = weights.to(torch.float64)
    if reject is not None:
        mask, _ = helper.compute_rollout_rejection_mask(log_ratio, mask, *reject)
    return mask, weights
