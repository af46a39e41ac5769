"""A loss of our own in the signature of each framework, read in that framework's source."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from erc_bench import cli
from erc_bench.conformance import adapt, check
from erc_bench.conformance.profiles import PROFILES
from erc_bench.core.errors import InputError


def clipped(logp, old_logp, advantages, low=0.2, high=0.2):
    r = (logp - old_logp).clamp(-10, 10).exp()
    return -torch.minimum(r * advantages, r.clamp(1 - low, 1 + high) * advantages)


def mean(x, mask, count=None):
    return (x * mask).sum() / (mask.sum().clamp(min=1) if count is None else count)


def verl(
    old_log_prob,
    log_prob,
    advantages,
    response_mask,
    loss_agg_mode="token-mean",
    config=None,
    rollout_is_weights=None,
):
    losses = clipped(
        log_prob, old_log_prob, advantages, config.clip_ratio_low, config.clip_ratio_high
    )
    count = config.global_batch_info["batch_num_tokens"]
    return mean(losses * rollout_is_weights, response_mask, count), {}


def trl(per_token_logps, old_per_token_logps, advantages, completion_mask, num_items_in_batch=None):
    losses = clipped(per_token_logps, old_per_token_logps, advantages.unsqueeze(1))
    return mean(losses, completion_mask, num_items_in_batch)


class OpenRLHF(torch.nn.Module):
    """Made with options, and called as openrlhf.models.loss.PolicyLoss is."""

    def __init__(self, clip_eps_low=0.2, clip_eps_high=0.2):
        super().__init__()
        self.clip_eps_low, self.clip_eps_high = clip_eps_low, clip_eps_high

    def forward(
        self,
        log_probs,
        old_log_probs,
        advantages,
        action_mask=None,
        rollout_log_probs=None,
        dp_size=1,
        batch_num_tokens=None,
        global_batch_size=None,
    ):
        weight = (old_log_probs - rollout_log_probs).exp().clamp(0.5, 2.0)
        losses = clipped(
            log_probs, old_log_probs, advantages, self.clip_eps_low, self.clip_eps_high
        )
        return mean(weight * losses, action_mask, batch_num_tokens), 0.0, 0.0, None


def skyrl(log_probs, old_log_probs, advantages, config, loss_mask=None, rollout_logprobs=None):
    """SkyRL divides the advantages; the loss is a sum."""
    losses = clipped(
        log_probs, old_log_probs, advantages, config.eps_clip_low, config.eps_clip_high
    )
    assert config.off_policy_correction.tis_ratio_type is None
    return (losses * loss_mask).sum(), {"clip_ratio": 0.0}


def slime(ppo_kl, advantages, eps_clip, eps_clip_high, eps_clip_c=None):
    losses = clipped(-ppo_kl, 0.0, advantages, eps_clip, eps_clip_high)
    return losses, torch.zeros_like(losses)


@dataclass
class LossInputs:
    trainer_logprobs: torch.Tensor
    inference_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor | None
    advantages: torch.Tensor
    loss_mask: torch.Tensor
    loss_weights: torch.Tensor | None = field(default=None)


def prime_rl(inputs: LossInputs, kl_tau=1e-3):
    """Once for each response; the trainer divides the sum."""
    d = (inputs.trainer_logprobs - inputs.inference_logprobs).clamp(-10, 10)
    moved = inputs.trainer_logprobs.exp() - inputs.inference_logprobs.exp()
    lost = torch.where(inputs.advantages > 0, moved > 0.2, moved < -0.2)
    losses = clipped(d, 0.0, inputs.advantages, 1.0, 1e9) * ~lost + kl_tau * d**2
    return SimpleNamespace(loss=losses[inputs.loss_mask].sum(), metrics={})


def areal(
    logprobs,
    proximal_logprobs,
    old_logprobs,
    advantages,
    eps_clip,
    loss_mask,
    eps_clip_higher=None,
    c_clip=None,
    cu_seqlens=None,
):
    """On packed responses, which are averaged each."""
    assert logprobs.ndim == 1
    weight = (proximal_logprobs - old_logprobs).exp().clamp(max=5.0)
    losses = weight * clipped(logprobs, proximal_logprobs, advantages, eps_clip, eps_clip)
    total, ends = 0.0, cu_seqlens.tolist()
    for start, end in pairwise(ends):
        total = total + mean(losses[start:end], loss_mask[start:end])
    rows = sum(bool(loss_mask[a:b].any()) for a, b in pairwise(ends))
    return total / max(rows, 1), {}


class NeMoRL:
    """Made of a configuration; called on log-probabilities and a dictionary of wider tensors."""

    def __init__(self, cfg):
        self.ratio_clip_min, self.ratio_clip_max = cfg["ratio_clip_min"], cfg["ratio_clip_max"]

    def __call__(self, next_token_logprobs, data, global_valid_seqs, global_valid_toks):
        mask = data["token_mask"][:, 1:] * data["sample_mask"].unsqueeze(-1)
        given = [data[name][:, 1:] for name in ("prev_logprobs", "advantages")]
        losses = clipped(next_token_logprobs, *given, self.ratio_clip_min, self.ratio_clip_max)
        return mean(losses, mask, global_valid_toks.clamp(min=1)), {}


def roll(self, data, output_tensor):
    """A worker's method; the tokens are counted over the whole batch."""
    mask = data.batch["response_mask"][:, 1:].long()
    logits = {"logits": output_tensor, "input_ids": data.batch["input_ids"]}
    log_probs = self.strategy.op_compute_log_probs(**logits, attention_mask=mask)
    old = self.get_old_log_probs_with_cache(data, log_probs)
    losses = clipped(log_probs, old, data.batch["advantages"])
    weights = self.compute_sample_weights(data, mask).unsqueeze(-1)
    count = data.meta_info["batch_num_tokens"]["response_mask"].clamp(min=1)
    return mean(losses * weights, mask, count), {}


def torchrl(self, log_weight, advantage):
    """What a subclass of GRPOLoss overrides; the class masks and averages."""
    low, high = (float(bound.exp()) for bound in self._clip_bounds)
    return clipped(log_weight, 0.0, advantage, 1 - low, high - 1), torch.zeros(())


def tinker(data, logprobs):
    """As forward_backward_custom calls it: a list of data, and a list of log-probabilities."""
    total, count = 0.0, 0
    for datum, new in zip(data, logprobs, strict=True):
        old, advantages = (
            datum.loss_fn_inputs[name].to_torch() for name in ("logprobs", "advantages")
        )
        mask = datum.loss_fn_inputs["mask"].to_torch()
        total = total + (clipped(new, old, advantages) * mask).sum()
        count += int(mask.sum())
    return total / max(count, 1), {}


#: What a user writes beside --like: nothing, or a line.
LOSSES = {
    "verl": (verl, {}),
    "trl": (trl, {"clip": (0.2, 0.2)}),
    "openrlhf": (OpenRLHF, {"options": {"clip_eps_high": 0.28}}),
    "skyrl": (skyrl, {"options": {"config.eps_clip_high": 0.28}}),
    "slime": (slime, {}),
    "prime-rl": (prime_rl, {}),
    "areal": (areal, {}),
    "nemo-rl": (NeMoRL, {"options": {"cfg.ratio_clip_min": 0.2, "cfg.ratio_clip_max": 0.28}}),
    "roll": (roll, {}),
    "torchrl": (torchrl, {"clip": (0.2, 0.2)}),
    "tinker": (tinker, {"clip": (0.2, 0.2)}),
}
AGGREGATES = {
    "areal": "sequence-mean of token-means",
    "skyrl": "sum over tokens",
    "prime-rl": "sum over tokens",
}


def outcomes(name, loss=None, **more):
    ours, how = LOSSES[name]
    return {
        r.property.name: r for r in check(adapt(loss or ours, like=name, **how, **more)).results
    }


def test_every_profile_has_a_loss():
    """And its source, with the date on which it was read."""
    assert set(LOSSES) == set(PROFILES)
    assert all(p.source.rpartition(", ")[2].startswith("2026-") for p in PROFILES.values())


def test_the_command_names_every_profile(capsys):
    """In its help."""
    with pytest.raises(SystemExit):
        cli.main(["check", "--help"])
    told = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    listed = re.search(r"as a framework does: ([\w, -]+)\.", told)[1]
    assert set(listed.split(", ")) == set(PROFILES)


@pytest.mark.parametrize("name", LOSSES)
def test_a_right_loss_in_a_framework_s_signature_passes(name):
    """At the level of the objective, without glue; its aggregate and its clip are found."""
    found = outcomes(name)
    wrong = {n: r.message for n, r in found.items() if r.status == "failed"}
    assert not {n for n in wrong if found[n].property.level == "objective"}, wrong
    told = found["on_policy_gradient"].message
    assert told.startswith(AGGREGATES.get(name, "token-mean")), told
    if name != "prime-rl":
        assert found["clip_bounds"].status == "passed"
        assert "as declared" in found["clip_bounds"].message


@pytest.mark.parametrize("name", LOSSES)
def test_a_wrong_loss_in_a_framework_s_signature_does_not_pass(name, monkeypatch):
    """With the sign of the surrogate turned: the profile hands over what the loss reads."""
    right = clipped
    monkeypatch.setitem(globals(), "clipped", lambda *given: -right(*given))
    assert outcomes(name)["on_policy_gradient"].status == "failed"


def compute_loss(self, model, inputs):
    """As a subclass of TRL's GRPOTrainer overrides _compute_loss."""
    mask, advantages = inputs["completion_mask"], inputs["advantages"].unsqueeze(1)
    logps, entropies, _ = self._get_per_token_logps_and_entropies(
        model, inputs["completion_ids"], mask, mask.size(1), compute_entropy=True
    )
    losses = clipped(
        logps, inputs["old_per_token_logps"], advantages, self.epsilon_low, self.epsilon_high
    )
    mode = "train" if self.model.training else "eval"
    self._metrics[mode]["entropy"].append(self.accelerator.gather(entropies.mean()))
    return mean(losses, mask, inputs["num_items_in_batch"].clamp(min=1))


def test_a_method_of_a_trainer_is_called_with_a_stand_in(monkeypatch):
    """TRL's losses are methods; what they read of the trainer comes from the profile."""
    how = {"like": "trl", "options": {"self.epsilon_high": 0.28}}
    found = {r.property.name: r for r in check(adapt(compute_loss, **how)).results}
    wrong = {n for n, r in found.items() if r.status == "failed"}
    assert not {n for n in wrong if found[n].property.level == "objective"}
    assert found["clip_bounds"].message.startswith(
        "A > 0 clipped from r = 1.28, A < 0 up to r = 0.8"
    )
    assert "given the whole batch's counts" in found["micro_batches"].message
    right = clipped
    monkeypatch.setitem(globals(), "clipped", lambda *given: -right(*given))
    turned = {r.property.name: r.status for r in check(adapt(compute_loss, **how)).results}
    assert turned["on_policy_gradient"] == "failed"


def test_an_unknown_framework_is_named_with_the_nearest():
    """In one line."""
    with pytest.raises(InputError, match=r"like: 'skyrll' is unknown; did you mean skyrl\?"):
        adapt(skyrl, like="skyrll")
