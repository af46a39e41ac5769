"""ERC in stable-baselines3: its PPO with one of our objectives as the policy loss.

Everything but the policy loss is SB3's: rollouts, advantages, value loss, entropy bonus, early stopping,
saving. With an infinite band the weights equal PPO's bit for bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from erc_bench.adapters.reads import (
    WHOLE_DISTRIBUTIONS,
    drift_shares,
    fields_read,
    require_fields,
)
from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.objectives import (
    GMPO,
    GSPO,
    EntropyBonus,
    EntropyRatio,
    Objective,
    PPOClip,
    TokenMean,
    make,
)

__all__ = ["ERCPPO"]

FIELDS = ("entropy", "old_entropy")
WHOLE = ("action", "log_probs", "old_log_probs")


class _Old(NamedTuple):
    """Measures of the policy that made the rollout, one row per transition."""

    entropy: np.ndarray
    log_probs: np.ndarray | None


class _Samples(NamedTuple):
    """A mini-batch of the rollout buffer, with the old policy's measures."""

    data: RolloutBufferSamples | DictRolloutBufferSamples
    entropy: Tensor
    log_probs: Tensor | None


class _WithOld:
    """A rollout buffer that keeps the old policy's entropies beside its transitions."""

    old: _Old | None = None

    def remember(self: Any, measure: Callable[[Any, Tensor], _Old]) -> None:
        """Measure every transition, in the order in which mini-batches index them."""
        observations = self.observations
        flat: Any
        if isinstance(observations, dict):
            flat = {k: self.to_torch(self.swap_and_flatten(v)) for k, v in observations.items()}
        else:
            flat = self.to_torch(self.swap_and_flatten(observations))
        self.old = measure(flat, self.to_torch(self.swap_and_flatten(self.actions)))

    def _get_samples(self: Any, batch_inds: np.ndarray, env: Any = None) -> _Samples:
        data = super()._get_samples(batch_inds, env)  # type: ignore[misc]
        whole = self.old.log_probs
        return _Samples(
            data,
            self.to_torch(self.old.entropy[batch_inds]),
            None if whole is None else self.to_torch(whole[batch_inds]),
        )


class _Buffer(_WithOld, RolloutBuffer):  # type: ignore[misc]  # its samples hold SB3's
    pass


class _DictBuffer(_WithOld, DictRolloutBuffer):  # type: ignore[misc]
    pass


class ERCPPO(PPO):
    """SB3's PPO whose transitions outside the entropy-ratio band give no policy gradient.

    ``keep = 1 - band_low < rho < 1 + band_high``, with ``rho = H_new / H_old`` of the state's action
    distribution (arXiv:2512.05591). For MultiDiscrete and MultiBinary actions H is the joint entropy,
    the sum over components. For Box actions differential entropy may be negative, so
    ``rho = exp(H_new - H_old)``, the ratio of perplexities; SB3's Gaussian has one standard deviation
    for all states, so there the band keeps all transitions of a mini-batch or none.

    Logs, beside PPO's ``train/...``, means over an iteration's updates: the objective's metrics, and
    ``drift/out_of_band_fraction``, ``drift/entropy_old``, ``drift/entropy_new``, ``drift/kl_k3``.

    Args:
        arguments: as for ``stable_baselines3.PPO``.
        band_low: half-width of the band below 1; inf means no gate.
        band_high: half-width of the band above 1.
        objective: a recipe's name or an Objective in place of PPO-clip with the band; it then sets
            clip and band, and ``clip_range``, ``band_low`` and ``band_high`` stay at their defaults.
        keywords: as for ``stable_baselines3.PPO``.

    Raises:
        InputError: a band that is no positive number; an objective over whole responses; one that
            needs distributions where actions are not Discrete; a setting that would have no effect.

    >>> model = ERCPPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, seed=0)
    >>> _ = model.learn(64)
    """

    def __init__(
        self,
        *arguments: Any,
        band_low: float = 0.05,
        band_high: float = 0.05,
        objective: str | Objective | None = None,
        **keywords: Any,
    ) -> None:
        self.band_low, self.band_high, self.objective = band_low, band_high, objective
        EntropyRatio(band_low, band_high)  # refuses a band that cannot be
        if objective is not None:
            clip = keywords.get("clip_range", 0.2)
            _default("band_low", band_low, 0.05)
            _default("band_high", band_high, 0.05)
            _default("clip_range", clip, 0.2)
        if keywords.get("rollout_buffer_class") is not None:
            raise InputError("rollout_buffer_class: ERCPPO has its own, which keeps old entropies")
        self._policy_objective(0.2)
        super().__init__(*arguments, **keywords)

    def _policy_objective(self, clip: float) -> Objective:
        """What is minimised while ``clip_range`` is ``clip``."""
        if self.objective is None:
            gate = EntropyRatio(self.band_low, self.band_high)
            return Objective(PPOClip(clip, clip)).gated(gate)
        chosen = make(self.objective) if isinstance(self.objective, str) else self.objective
        whole = isinstance(chosen.surrogate, GSPO | GMPO)
        if whole or not isinstance(chosen.aggregate, TokenMean):
            raise InputError(
                f"objective: {self.objective!r} is over whole responses, SB3 has single transitions"
            )
        return chosen

    def _setup_model(self) -> None:
        several = isinstance(self.observation_space, spaces.Dict)
        self.rollout_buffer_class = _DictBuffer if several else _Buffer
        super()._setup_model()
        chosen = self._policy_objective(0.2)
        discrete = isinstance(self.action_space, spaces.Discrete)
        require_fields(chosen, (*FIELDS, *WHOLE) if discrete else FIELDS, by="SB3")
        self._whole = bool(fields_read(chosen) & WHOLE_DISTRIBUTIONS)
        bonus = any(isinstance(r, EntropyBonus) for r in chosen.regularizers)
        if bonus and isinstance(self.action_space, spaces.Box):
            raise InputError("objective: an entropy bonus for Box actions is SB3's ent_coef")

    @torch.no_grad()
    def _measure(self, observations: Any, actions: Tensor) -> _Old:
        """Entropies (and distributions) of the policy as it is now, in chunks."""
        entropies, whole = [], []
        for first in range(0, len(actions), 4096):
            part = slice(first, first + 4096)
            seen = (
                {k: v[part] for k, v in observations.items()}
                if isinstance(observations, dict)
                else observations[part]
            )
            distribution = self.policy.get_distribution(seen)
            entropy = distribution.entropy()
            if entropy is None:
                raise InputError("policy: its distribution has no entropy in closed form")
            entropies.append(self._comparable(entropy).cpu().numpy())
            if self._whole:
                whole.append(_logits(distribution).cpu().numpy())
        return _Old(np.concatenate(entropies), np.concatenate(whole) if whole else None)

    def _comparable(self, entropy: Tensor) -> Tensor:
        """The quantity whose ratio is taken: entropy, or perplexity where entropy may be negative."""
        return entropy.exp() if isinstance(self.action_space, spaces.Box) else entropy

    def train(self) -> None:
        """One iteration's updates on the rollout buffer."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        left = self._current_progress_remaining
        clip = float(self.clip_range(left))  # type: ignore[operator]
        clip_vf = None if self.clip_range_vf is None else self.clip_range_vf(left)  # type: ignore[operator]
        objective = self._policy_objective(clip)
        self.rollout_buffer.remember(self._measure)  # type: ignore[attr-defined]
        log: dict[str, list[float]] = defaultdict(list)
        going = True
        for _ in range(self.n_epochs):
            for samples in self.rollout_buffer.get(self.batch_size):
                loss, log_ratio, metrics = self._loss(samples, objective, clip, clip_vf)  # type: ignore[arg-type]
                for name, value in metrics.items():
                    log[name].append(float(value))
                with torch.no_grad():
                    moved = float(torch.mean((torch.exp(log_ratio) - 1) - log_ratio))
                log["train/approx_kl"].append(moved)
                if self.target_kl is not None and moved > 1.5 * self.target_kl:
                    going = False
                    break
                self.policy.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                log["grad/norm"].append(float(norm))
                self.policy.optimizer.step()
            self._n_updates += 1
            if not going:
                break
        self._record(log, clip, clip_vf)

    def _loss(
        self, samples: _Samples, objective: Objective, clip: float, clip_vf: float | None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Loss of a mini-batch, log-ratios of its transitions, and what is logged of it."""
        data = samples.data
        discrete = isinstance(self.action_space, spaces.Discrete)
        actions = data.actions.long().flatten() if discrete else data.actions
        values, logp, entropy = self.policy.evaluate_actions(data.observations, actions)
        if entropy is None:
            raise InputError("policy: its distribution has no entropy in closed form")
        advantages = data.advantages
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        batch = self._batch(samples, logp, entropy, advantages, actions)
        policy_loss, metrics = objective(batch)
        values = values.flatten()
        if clip_vf is not None:
            change = torch.clamp(values - data.old_values, -clip_vf, clip_vf)
            values = data.old_values + change
        value_loss = torch.nn.functional.mse_loss(data.returns, values)
        entropy_loss = -torch.mean(entropy)
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
        log_ratio = (logp - data.old_log_prob).detach()
        outside = (torch.abs(torch.exp(log_ratio) - 1) > clip).float()
        metrics = (
            metrics
            | drift_shares(batch, batch.mask.sum())
            | {
                "train/policy_gradient_loss": policy_loss.detach(),
                "train/value_loss": value_loss.detach(),
                "train/entropy_loss": entropy_loss.detach(),
                "train/clip_fraction": outside.mean(),
                "train/loss": loss.detach(),
            }
        )
        return loss, log_ratio, metrics

    def _batch(
        self, samples: _Samples, logp: Tensor, entropy: Tensor, advantages: Tensor, actions: Tensor
    ) -> TokenBatch:
        """A mini-batch of N transitions as one row of N tokens."""
        whole: dict[str, Tensor] = {}
        if self._whole:
            assert samples.log_probs is not None
            now = _logits(self.policy.get_distribution(samples.data.observations))
            whole = {"log_probs": now[None], "old_log_probs": samples.log_probs[None]}
        if isinstance(self.action_space, spaces.Discrete):
            whole["action"] = actions[None]
        return TokenBatch(
            logp=logp[None],
            old_logp=samples.data.old_log_prob[None],
            advantage=advantages[None],
            mask=torch.ones_like(logp[None], dtype=torch.bool),
            entropy=self._comparable(entropy)[None],
            old_entropy=samples.entropy[None],
            **whole,
        )

    def _record(self, log: dict[str, list[float]], clip: float, clip_vf: Any) -> None:
        """Means over the iteration's updates; PPO logs the last loss and the last epoch's KL."""
        for name, values in log.items():
            self.logger.record(name, float(np.mean(values)))
        variance = explained_variance(
            self.rollout_buffer.values.flatten(), self.rollout_buffer.returns.flatten()
        )
        self.logger.record("train/explained_variance", variance)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip)
        if clip_vf is not None:
            self.logger.record("train/clip_range_vf", clip_vf)


def _logits(distribution: Any) -> Tensor:
    """Log-probabilities of every action of a Discrete space: torch normalises them."""
    found: Tensor = distribution.distribution.logits
    return found


def _default(name: str, value: object, default: float) -> None:
    if value != default:
        raise InputError(
            f"{name}: {value!r} has no effect beside an objective; leave it at {default}"
        )
