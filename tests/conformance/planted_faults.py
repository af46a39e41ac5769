"""A clean clipped loss with an entropy band, a bonus, a penalty and a weight, made of pieces; and faults.

Each fault replaces one piece.
"""

from __future__ import annotations

import math
from functools import partial

import torch


def clean(logp, old_logp, advantage, mask, entropy, old_entropy):
    logp, old_logp, advantage = (x.masked_fill(~mask, 0.0) for x in (logp, old_logp, advantage))
    entropy, old_entropy = (x.masked_fill(~mask, 1.0) for x in (entropy, old_entropy))
    return logp, old_logp.detach(), advantage.detach(), entropy.detach(), old_entropy.detach()


def ratio(logp, old_logp):
    largest = math.floor(math.log(torch.finfo(logp.dtype).max))
    limit = min(20.0, largest)
    return (logp - old_logp).clamp(-limit, limit).exp()


def ppo(r, advantage, logp, low=0.2, high=0.28):
    return -torch.minimum(r * advantage, r.clamp(1 - low, 1 + high) * advantage)


def dual(losses, advantage, c=3.0):
    return torch.where(advantage < 0, torch.minimum(losses, -c * advantage), losses)


def rho(entropy, old_entropy):
    return (entropy.float() + 1e-8) / (old_entropy.float() + 1e-8)


def inside(band_ratio, low, high):
    return (band_ratio > 1 - low) & (band_ratio < 1 + high)


def weight(logp, old_logp, rollout_logp):
    return (old_logp - rollout_logp).clamp(-10, 10).exp().clamp(max=2.0)


def distance(logp, ref_logp):
    return (logp - ref_logp).clamp(-8, 8)


def penalty(logp, ref_logp):
    d = -distance(logp, ref_logp)
    return 0.05 * (d.exp() - 1 - d)


def bonus(entropy):
    return 0.01 * entropy


def gate(losses, keep, mask, band_ratio):
    return torch.where(keep, losses, losses.detach()), mask


def token_mean(losses, mask, num_tokens):
    count = mask.sum() if num_tokens is None else num_tokens
    total = torch.where(mask, losses, 0.0).sum()
    return total / (count.clamp(min=1) if isinstance(count, torch.Tensor) else max(count, 1))


def built(
    *,
    clean=clean,
    ratio=ratio,
    surrogate=ppo,
    dual=dual,
    weight=weight,
    rho=rho,
    inside=inside,
    gate=gate,
    penalty=penalty,
    bonus=bonus,
    reduce=token_mean,
):
    """A loss of the plain signature; asymmetric band, so that every swap shows."""

    def loss(
        logp,
        old_logp,
        advantage,
        mask,
        entropy,
        old_entropy,
        ref_logp,
        rollout_logp,
        num_tokens=None,
        band_low=0.05,
        band_high=0.1,
        clip_low=0.2,
        clip_high=0.28,
    ):
        real = mask
        raw = entropy.masked_fill(~mask, 0.0)
        ref_logp, rollout_logp = (
            x.masked_fill(~mask, 0.0).detach() for x in (ref_logp, rollout_logp)
        )
        logp, old_logp, advantage, entropy, old_entropy = clean(
            logp, old_logp, advantage, mask, entropy, old_entropy
        )
        losses = dual(surrogate(ratio(logp, old_logp), advantage, logp), advantage)
        losses = losses * weight(logp, old_logp.detach(), rollout_logp)
        measured = rho(entropy, old_entropy)
        losses, mask = gate(losses, inside(measured, band_low, band_high), real, measured)
        losses = losses + penalty(logp, ref_logp) - bonus(raw)
        return reduce(losses, mask, num_tokens)

    return loss


def _clean_keeping(*keep):
    """Cleaned, with some gradients left in."""

    def change(logp, old_logp, advantage, mask, entropy, old_entropy):
        done = clean(logp, old_logp, advantage, mask, entropy, old_entropy)
        raw = {
            1: old_logp.masked_fill(~mask, 0.0),
            2: advantage.masked_fill(~mask, 0.0),
            3: entropy.masked_fill(~mask, 1.0),
        }
        return tuple(raw[i] if i in keep else x for i, x in enumerate(done))

    return change


def _no_cleaning(logp, old_logp, advantage, mask, entropy, old_entropy):
    return logp, old_logp.detach(), advantage.detach(), entropy.detach(), old_entropy.detach()


def _normalised(logp, old_logp, advantage, mask, entropy, old_entropy):
    logp, old_logp, a, *entropies = clean(logp, old_logp, advantage, mask, entropy, old_entropy)
    return logp, old_logp, a / (a[mask].std(correction=0) + 1e-8), *entropies


def _in_place(logp, old_logp, advantage, mask, entropy, old_entropy):
    advantage *= mask
    return clean(logp, old_logp, advantage, mask, entropy, old_entropy)


def _first_row_as_baseline(logp, old_logp, advantage, mask, entropy, old_entropy):
    logp, old_logp, a, *entropies = clean(logp, old_logp, advantage, mask, entropy, old_entropy)
    return logp, old_logp, torch.where(mask, a - 0.1 * a[:1, :1], 0.0), *entropies


def _unmasked_sum(losses, mask, num_tokens):
    count = mask.sum() if num_tokens is None else num_tokens
    return losses.sum() / max(int(count), 1)


def _mean_of_all_slots(losses, mask, num_tokens):
    return torch.where(mask, losses, 0.0).mean()


def _mean_over_all_rows(losses, mask, num_tokens):
    return torch.where(mask, losses, 0.0).sum() / len(mask)


def _mean_of_micro_batch(losses, mask, num_tokens):
    return token_mean(losses, mask, None)


def _unguarded_mean(losses, mask, num_tokens):
    count = mask.sum() if num_tokens is None else num_tokens
    return torch.where(mask, losses, 0.0).sum() / count


def _selected_rows_only(losses, mask, num_tokens):
    return torch.stack([row[kept].mean() for row, kept in zip(losses, mask, strict=True)]).mean()


def _noisy(losses, mask, num_tokens):
    return token_mean(losses * (1 + 1e-3 * torch.rand_like(losses)), mask, num_tokens)


def _by_position(losses, mask, num_tokens):
    place = torch.arange(1, losses.shape[1] + 1, dtype=losses.dtype)
    return token_mean(losses / place, mask, num_tokens)


def _in_float64(losses, mask, num_tokens):
    return token_mean(losses.double(), mask, num_tokens)


def _on_default_device(losses, mask, num_tokens):
    return token_mean(losses * torch.ones(losses.shape, dtype=losses.dtype), mask, num_tokens)


def _not_finite(losses, mask, num_tokens):
    return token_mean(losses, mask, num_tokens) + (losses.detach().min() - 1e3).log()


def _weighted_by_entropy(losses, keep, mask, band_ratio):
    weight = (band_ratio / band_ratio.detach()).to(losses)
    return torch.where(keep, losses, losses.detach()) * weight, mask


def _live_rho(entropy, old_entropy):
    return (entropy + 1e-8) / (old_entropy + 1e-8)


def _difference(entropy, old_entropy):
    return 1 + (entropy - old_entropy).float()


def _wall(logp, old_logp):
    """No gradient for a ratio whose probability has moved by more than 0.1, in either direction."""
    near = (logp.exp() - old_logp.exp()).abs() <= 0.1
    return torch.where(near, ratio(logp, old_logp), ratio(logp, old_logp).detach())


def _unclipped(r, a, logp):
    """The surrogate as it is, for reductions that look at the whole batch."""
    return torch.where(((r > 1.28) & (a > 0)) | ((r < 0.8) & (a < 0)), torch.zeros_like(r), -r * a)


def _clipped_leave_the_mean(losses, mask, num_tokens):
    kept = mask & (losses.abs() > 0.02)
    return torch.where(kept, losses, 0.0).sum() / kept.sum().clamp(min=1)


def _clipped_leave_the_mean_of_a_row(losses, mask, num_tokens):
    kept = mask & (losses.abs() > 0.02)
    means = torch.where(kept, losses, 0.0).sum(-1) / kept.sum(-1).clamp(min=1)
    return means.sum() / mask.any(-1).sum().clamp(min=1)


def _scaled_by_the_largest(losses, mask, num_tokens):
    return token_mean(losses / losses.detach().abs().amax().clamp(min=1e-3), mask, num_tokens)


def _centred(logp, old_logp, advantage, mask, entropy, old_entropy):
    logp, old_logp, a, *entropies = clean(logp, old_logp, advantage, mask, entropy, old_entropy)
    mean = torch.where(mask, a, 0.0).sum() / mask.sum().clamp(min=1)
    return logp, old_logp, a - mean, *entropies


def _sign_as_a_quotient(logp, old_logp, advantage, mask, entropy, old_entropy):
    logp, old_logp, a, *entropies = clean(logp, old_logp, advantage, mask, entropy, old_entropy)
    return logp, old_logp, torch.where(mask, a * (a / a.abs()), 0.0) * a.sign(), *entropies


def _lottery(losses, mask, num_tokens):
    lost = torch.rand(mask.shape).lt(2e-4)
    return token_mean(torch.where(lost, losses.detach(), losses), mask, num_tokens)


def _idle_draw(losses, mask, num_tokens):
    torch.rand(())
    return token_mean(losses, mask, num_tokens)


def _mean_in_half(losses, mask, num_tokens):
    return token_mean(losses, mask, num_tokens) + 0.01 * losses.mean()


FAULTS = {
    "k1 in the loss": (
        "reference_penalty",
        {"penalty": lambda logp, ref: 0.05 * distance(logp, ref)},
    ),
    "penalty pushes away": ("reference_penalty", {"penalty": lambda *two: -penalty(*two)}),
    "penalty detached": ("reference_penalty", {"penalty": lambda *two: penalty(*two).detach()}),
    "penalty on one side": (
        "reference_penalty",
        {"penalty": lambda logp, ref: 0.05 * distance(logp, ref).clamp(min=0.0) ** 2},
    ),
    "penalty around another point": (
        "reference_penalty",
        {"penalty": lambda logp, ref: 0.05 * (distance(logp, ref) + 0.5) ** 2},
    ),
    "reference and policy exchanged in k3's gradient": (
        "reference_penalty",
        {"penalty": lambda logp, ref: 0.05 * (distance(logp, ref).detach().exp() * (ref - logp))},
    ),
    "bonus detached": ("entropy_gradient", {"bonus": lambda entropy: 0.01 * entropy.detach()}),
    "penalty and bonus over all slots": (
        "masked_tokens",
        {"reduce": _unmasked_sum, "clean": _no_cleaning},
    ),
    "band on the difference": ("gate_direction", {"rho": _difference}),
    "band in the logarithm": (
        "gate_direction",
        {"inside": lambda rho, low, high: (rho.log() > -low) & (rho.log() < high)},
    ),
    "band on the square": (
        "gate_direction",
        {"rho": lambda new, old: rho(new, old) ** 2},
    ),
    "wall on the change of probability": (
        "clip_restoring_side",
        {"ratio": _wall, "surrogate": lambda r, a, logp: -r * a},
    ),
    "low and high of the clip exchanged": (
        "clip_bounds",
        {"surrogate": partial(ppo, low=0.28, high=0.2)},
    ),
    "another clip than declared": ("clip_bounds", {"surrogate": partial(ppo, low=0.1, high=0.1)}),
    "clip above only": (
        "clip_bounds",
        {"surrogate": lambda r, a, logp: -torch.minimum(r * a, r.clamp(max=1.28) * a)},
    ),
    "clip below only": (
        "clip_bounds",
        {"surrogate": lambda r, a, logp: -torch.minimum(r * a, r.clamp(min=0.8) * a)},
    ),
    "lower bound without 1 minus": ("clip_bounds", {"surrogate": partial(ppo, low=0.8)}),
    "clipped tokens leave the mean": (
        "clip_denominator",
        {
            "surrogate": _unclipped,
            "reduce": _clipped_leave_the_mean,
            "penalty": lambda *_: 0.0,
            "bonus": lambda _: 0.0,
        },
    ),
    "clipped tokens leave their response's mean": (
        "clip_denominator",
        {
            "surrogate": _unclipped,
            "reduce": _clipped_leave_the_mean_of_a_row,
            "penalty": lambda *_: 0.0,
            "bonus": lambda _: 0.0,
        },
    ),
    "scaled by the batch's largest loss": ("clip_denominator", {"reduce": _scaled_by_the_largest}),
    "sampler's weight upside down": (
        "rollout_weight",
        {"weight": lambda logp, old, rollout: weight(logp, rollout, old)},
    ),
    "sampler's weight with a gradient": (
        "rollout_weight",
        {"weight": lambda logp, old, rollout: weight(logp, logp, rollout)},
    ),
    "advantages centred inside": ("advantage_zero", {"clean": _centred}),
    "sign as a quotient": ("advantage_zero", {"clean": _sign_as_a_quotient}),
    "rare tokens dropped by chance": ("determinism", {"reduce": _lottery}),
    "a number drawn and not used": ("determinism", {"reduce": _idle_draw}),
    "a mean over all slots beside the other": ("padding_columns", {"reduce": _mean_in_half}),
    "not finite": ("scalar_finite_loss", {"reduce": _not_finite}),
    "surrogate detached": (
        "gradient_exists",
        {"surrogate": lambda r, a, logp: ppo(r.detach(), a, logp)},
    ),
    "weighted by position": ("on_policy_gradient", {"reduce": _by_position}),
    "ratio squared": (
        "on_policy_gradient",
        {"surrogate": lambda r, a, logp: ppo(r**2, a, logp) * (1 + a.abs())},
    ),
    "mask forgotten in the numerator": (
        "masked_tokens",
        {"clean": _no_cleaning, "reduce": _unmasked_sum},
    ),
    "multiplied by the mask": (
        "masked_nan",
        {
            "clean": _no_cleaning,
            "reduce": lambda x, mask, count: _unmasked_sum(x * mask, mask, count),
        },
    ),
    "mask forgotten in the denominator": ("padding_columns", {"reduce": _mean_of_all_slots}),
    "rows without a token counted": ("padding_rows", {"reduce": _mean_over_all_rows}),
    "mean over the micro-batch": ("micro_batches", {"reduce": _mean_of_micro_batch}),
    "first row as a baseline": ("permutation", {"clean": _first_row_as_baseline}),
    "advantage normalised inside": ("advantage_scale", {"clean": _normalised}),
    "advantage's sign flipped": (
        "advantage_sign",
        {"surrogate": lambda r, a, logp: ppo(r, -a, logp)},
    ),
    "gradient through old_logp": ("old_quantities", {"clean": _clean_keeping(1)}),
    "gradient through the advantage": ("old_quantities", {"clean": _clean_keeping(2)}),
    "no clamp": ("extreme_log_ratios", {"ratio": lambda new, old: (new - old).exp()}),
    "clamp too wide for float16": (
        "half_precision",
        {"ratio": lambda new, old: (new - old).clamp(-20, 20).exp()},
    ),
    "empty row divided by 0": ("degenerate_batches", {"reduce": _selected_rows_only}),
    "no token divided by 0": ("degenerate_batches", {"reduce": _unguarded_mean}),
    "float64 whatever comes": ("dtype_kept", {"reduce": _in_float64}),
    "tensor on the default device": ("device_kept", {"reduce": _on_default_device}),
    "noise inside": ("determinism", {"reduce": _noisy}),
    "advantage changed in place": ("inputs_unmodified", {"clean": _in_place}),
    "clip range inside out": (
        "clip_near_policy",
        {"surrogate": lambda r, a, logp: -torch.minimum(r * a, r.clamp(1.28, 0.8) * a)},
    ),
    "clip range too narrow": (
        "clip_near_policy",
        {"surrogate": partial(ppo, low=0.02, high=0.028)},
    ),
    "max for min": (
        "clip_restoring_side",
        {"surrogate": lambda r, a, logp: -torch.maximum(r * a, r.clamp(0.8, 1.28) * a)},
    ),
    "clip on both sides": (
        "clip_restoring_side",
        {"surrogate": lambda r, a, logp: -r.clamp(0.8, 1.28) * a},
    ),
    "dual clip at A > 0": ("dual_clip", {"dual": lambda x, a: torch.minimum(x, -3.0 * a)}),
    "dual clip that ends": (
        "dual_clip",
        {
            "surrogate": lambda r, a, logp: torch.where(
                (r > 4) & (r < 6), ppo(r, a, logp).detach(), ppo(r, a, logp)
            ),
            "dual": lambda x, a: x,
        },
    ),
    "entropy with a gradient": (
        "entropy_gradient",
        {"clean": _clean_keeping(3), "rho": _live_rho, "gate": _weighted_by_entropy},
    ),
    "dropped token out of the denominator": (
        "gate_value",
        {"gate": lambda x, keep, mask, _: (x, mask & keep)},
    ),
    "sign of the band": ("gate_band", {"inside": lambda rho, low, high: ~inside(rho, low, high)}),
    "band with one side": ("gate_band", {"inside": lambda rho, low, high: rho < 1 + high}),
    "band signs swapped": (
        "gate_band",
        {"inside": lambda rho, low, high: (rho > 1 + low) & (rho < 1 - high)},
    ),
    "old and new entropy swapped": (
        "gate_direction",
        {"rho": lambda entropy, old_entropy: rho(old_entropy, entropy)},
    ),
    "low and high swapped": (
        "gate_direction",
        {"inside": lambda rho, low, high: inside(rho, high, low)},
    ),
    "entropy ratio of 0 / 0": ("zero_entropy", {"rho": lambda new, old: new / old}),
}


def as_verl(core):
    """The loss as verl calls one."""

    def loss(
        old_log_prob,
        log_prob,
        advantages,
        response_mask,
        loss_agg_mode="token-mean",
        config=None,
        rollout_is_weights=None,
        entropy=None,
        old_entropy=None,
        ref_log_prob=None,
        rollout_log_probs=None,
        band_low=0.05,
        band_high=0.1,
        clip_low=0.2,
        clip_high=0.28,
        **kwargs,
    ):
        assert loss_agg_mode == "token-mean"
        count = config.global_batch_info["batch_num_tokens"]
        found = core(
            log_prob,
            old_log_prob,
            advantages,
            response_mask.bool(),
            entropy,
            old_entropy,
            ref_log_prob,
            rollout_log_probs,
            count,
            band_low,
            band_high,
        )
        return found, {"actor/pg_clipfrac": 0.0}

    return loss


def as_trl(core):
    """The loss as TRL's trainer would call one: an advantage per response."""

    def loss(
        per_token_logps,
        old_per_token_logps,
        advantages,
        completion_mask,
        entropies,
        old_entropies,
        ref_per_token_logps,
        sampling_per_token_logps,
        num_items_in_batch=None,
        band_low=0.05,
        band_high=0.1,
        clip_low=0.2,
        clip_high=0.28,
    ):
        assert advantages.ndim == 1
        return core(
            per_token_logps,
            old_per_token_logps,
            advantages.unsqueeze(1).expand_as(per_token_logps),
            completion_mask.bool(),
            entropies,
            old_entropies,
            ref_per_token_logps,
            sampling_per_token_logps,
            num_items_in_batch,
            band_low,
            band_high,
        )

    return loss
