"""What an objective sees: sampled tokens under the trained policy and under earlier ones.

Axes: ``*run`` are any leading run axes, B responses, T tokens, V the vocabulary.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from erc_bench.core.numerics import clamp_log_ratio, entropy

__all__ = ["TokenBatch"]


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Tokens ``(*run, B, T)`` with what losses and measures need to know of them.

    The trained policy's ``logp``, ``entropy`` and ``log_probs`` carry gradients; everything else is
    detached on entry. Masked positions may hold anything, NaN included: every ``(*run, B, T)``
    field reads 0 there after entry, so that nothing can leak from them. The ``(*run, B, T, V)``
    fields are large and are kept as they are; code that reads them must mask them.

    Attributes:
        logp: log-probability of the sampled action under the trained policy, nats.
        old_logp: the same under the policy that made the rollout.
        advantage: per token; a response's advantage is expanded over its tokens by the caller.
        mask: tokens that count, bool or 0/1; bool after entry.
        entropy: full-vocabulary entropy of the trained policy, nats.
        old_entropy: the entropy of the old policy.
        action: sampled actions.
        log_probs: whole distributions of the trained policy.
        old_log_probs: whole distributions of the old policy.
        ref_logp: log-probability of the action under a fixed reference policy.
        ref_log_probs: whole distributions of the reference policy.
        rollout_logp: log-probability under the engine that generated the tokens, where it differs
            from the old policy; ``behaviour_logp`` is what drew the tokens in either case.
        reward: of each response.
        order: a random numbering of the run's unmasked tokens from 0, for gates that choose at random.

    Raises:
        ValueError: a field's shape, dtype or device does not fit ``logp``'s; one line.

    >>> batch = TokenBatch(
    ...     logp=torch.tensor([[-1.0, -2.0, torch.nan]]),
    ...     old_logp=torch.tensor([[-1.0, -1.0, 0.0]]),
    ...     advantage=torch.ones(1, 3),
    ...     mask=torch.tensor([[1, 1, 0]]),
    ... )
    >>> batch.ratio
    tensor([[1.0000, 0.3679, 1.0000]])
    >>> TokenBatch(batch.logp, torch.zeros(3), batch.advantage, batch.mask)
    Traceback (most recent call last):
    ValueError: TokenBatch.old_logp: shape (3,), expected (1, 3) like logp
    """

    logp: Float[Tensor, "*run B T"]
    old_logp: Float[Tensor, "*run B T"]
    advantage: Float[Tensor, "*run B T"]
    mask: Bool[Tensor, "*run B T"]
    entropy: Float[Tensor, "*run B T"] | None = None
    old_entropy: Float[Tensor, "*run B T"] | None = None
    action: Int[Tensor, "*run B T"] | None = None
    log_probs: Float[Tensor, "*run B T V"] | None = None
    old_log_probs: Float[Tensor, "*run B T V"] | None = None
    ref_logp: Float[Tensor, "*run B T"] | None = None
    ref_log_probs: Float[Tensor, "*run B T V"] | None = None
    rollout_logp: Float[Tensor, "*run B T"] | None = None
    reward: Float[Tensor, "*run B"] | None = None
    order: Float[Tensor, "*run B T"] | None = None

    _TRAINED: ClassVar[frozenset[str]] = frozenset({"logp", "entropy", "log_probs"})
    _WHOLE: ClassVar[frozenset[str]] = frozenset({"log_probs", "old_log_probs", "ref_log_probs"})

    def __post_init__(self) -> None:
        self._check()
        given = self._given()
        mask = self.mask if self.mask.dtype is torch.bool else self.mask != 0
        masked = ~mask
        for name, value in given.items():
            constant = value if name in self._TRAINED else value.detach()
            per_token = name not in self._WHOLE and name != "reward"
            given[name] = constant.masked_fill(masked, 0) if per_token else constant
        self.__dict__.update(given, mask=mask)

    def _check(self) -> None:
        """Raise an error of one line for the first field that does not fit ``logp``."""
        if not isinstance(self.logp, Tensor) or self.logp.ndim < 2:
            raise ValueError(f"TokenBatch.logp: {_kind(self.logp)}, expected (*run, B, T)")
        shape, device = self.logp.shape, self.logp.device
        vocabulary: int | None = None
        for name in _FIELDS:
            value = self.__dict__[name]
            if value is None and name not in _REQUIRED:
                continue
            expected: tuple[int | str, ...] = shape
            if name in self._WHOLE:
                if vocabulary is None and isinstance(value, Tensor) and value.ndim:
                    vocabulary = value.shape[-1]
                expected = (*shape, "V" if vocabulary is None else vocabulary)
            elif name == "reward":
                expected = shape[:-1]
            if not isinstance(value, Tensor) or value.shape != expected:
                wanted = f"{tuple(expected)} like logp"
                raise ValueError(f"TokenBatch.{name}: {_kind(value)}, expected {wanted}")
            if value.device != device:
                raise ValueError(
                    f"TokenBatch.{name}: on {value.device}, expected {device} like logp"
                )
            allowed = _dtype_wanted(name, value)
            if allowed:
                raise ValueError(f"TokenBatch.{name}: {value.dtype}, expected {allowed}")

    def _given(self) -> dict[str, Tensor]:
        """The fields that are not None."""
        values = ((name, self.__dict__.get(name)) for name in _FIELDS)
        return {name: value for name, value in values if value is not None}

    @classmethod
    def from_logits(
        cls,
        logits: Float[Tensor, "*run B T V"],
        old_logits: Float[Tensor, "*run B T V"],
        action: Int[Tensor, "*run B T"],
        advantage: Float[Tensor, "*run B T"],
        mask: Tensor,
        **optional: Tensor,
    ) -> Self:
        """Build a batch from logits: log-probabilities, their values at the actions, entropies.

        Args:
            logits: of the trained policy; gradients flow to them.
            old_logits: of the old policy.
            action: sampled actions; masked ones may be out of range.
            advantage: per token.
            mask: tokens that count.
            optional: further fields of the batch.

        Raises:
            ValueError: as TokenBatch does; shapes must fit those of ``logits``.

        >>> logits = torch.zeros(1, 2, 4)
        >>> action, ones = torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2)
        >>> TokenBatch.from_logits(logits, logits, action, ones, ones).entropy
        tensor([[1.3863, 1.3863]])
        """
        # Arithmetic would broadcast one row's actions over all rows, so shapes are compared first.
        shape = logits.shape[:-1]
        wanted = {"old_logits": (old_logits, logits.shape), "action": (action, shape)}
        for name, (value, expected) in (wanted | {"mask": (mask, shape)}).items():
            if not isinstance(value, Tensor) or value.shape != expected:
                message = f"{_kind(value)}, expected {tuple(expected)} like logits"
                raise ValueError(f"TokenBatch.{name}: {message}")
        allowed = _dtype_wanted("action", action)
        if allowed:
            raise ValueError(f"TokenBatch.action: {action.dtype}, expected {allowed}")
        masked = mask == 0
        # Masked logits are cleared first: the gradient of log_softmax at NaN is NaN, whatever the loss.
        action = action.masked_fill(masked, 0)
        log_probs = torch.log_softmax(logits.masked_fill(masked.unsqueeze(-1), 0.0), dim=-1)
        with torch.no_grad():
            old = torch.log_softmax(old_logits.masked_fill(masked.unsqueeze(-1), 0.0), dim=-1)
            old_entropy = entropy(old)
        index = action.long().unsqueeze(-1)
        return cls(
            logp=log_probs.gather(-1, index).squeeze(-1),
            old_logp=old.gather(-1, index).squeeze(-1),
            advantage=advantage,
            mask=mask,
            entropy=entropy(log_probs),
            old_entropy=old_entropy,
            action=action,
            log_probs=log_probs,
            old_log_probs=old,
            **optional,
        )

    @cached_property
    def log_ratio(self) -> Float[Tensor, "*run B T"]:
        """``log r = clamp(log pi - log pi_old, -20, 20)``; 0 where masked."""
        # The value is cached, and a gate may ask for it first, where gradients are switched off.
        with torch.enable_grad():
            return clamp_log_ratio(self.logp - self.old_logp)

    @cached_property
    def ratio(self) -> Float[Tensor, "*run B T"]:
        """``r = exp(log r)``; 1 where masked."""
        with torch.enable_grad():
            return self.log_ratio.exp()

    @property
    def behaviour_logp(self) -> Float[Tensor, "*run B T"]:
        """Log-probability under the policy that drew the tokens: ``rollout_logp``, else ``old_logp``."""
        return self.old_logp if self.rollout_logp is None else self.rollout_logp

    @cached_property
    def behaviour_log_ratio(self) -> Float[Tensor, "*run B T"]:
        """``log(pi/mu)``, ``mu`` the policy that drew the tokens; clamped and masked as ``log_ratio``."""
        if self.rollout_logp is None:
            return self.log_ratio
        with torch.enable_grad():
            return clamp_log_ratio(self.logp - self.rollout_logp)

    @property
    def run_shape(self) -> torch.Size:
        """The leading axes: ``()`` or ``(R,)``."""
        return self.logp.shape[:-2]

    def require(self, name: str, *, by: str) -> Tensor:
        """The optional field ``name``, which ``by`` cannot do without.

        Raises:
            ValueError: it was not given.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(f"TokenBatch.{name}: not given, but {by} needs it")
        return value

    def __getitem__(self, index: Any) -> Self:
        """The batch of some runs: index the leading axis of every field."""
        if not self.run_shape:
            raise IndexError("TokenBatch: has no run axis to index; rows(...) takes responses")
        return self._map(lambda value: value[index])

    def rows(self, part: slice) -> Self:
        """A micro-batch: some of the B responses, of every run."""
        index = (*[slice(None)] * len(self.run_shape), part)
        return self._map(lambda value: value[index])

    def _map(self, function: Any) -> Self:
        """Slice every field. A part of a batch that was checked and cleaned needs no further check."""
        return self.trusted(**{name: function(value) for name, value in self._given().items()})

    @classmethod
    def trusted(cls, **fields: Tensor) -> Self:
        """The batch of fields that are known to fit each other, detached, and 0 where masked."""
        new = object.__new__(cls)
        new.__dict__.update(dict.fromkeys(_FIELDS), **fields)
        return new


_FIELDS = tuple(field.name for field in fields(TokenBatch))
_REQUIRED = frozenset(field.name for field in fields(TokenBatch) if field.default is MISSING)


def _kind(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _dtype_wanted(name: str, value: Tensor) -> str | None:
    """What a field must hold, or None if it does. Values are read only of masks that are not bool."""
    if name == "mask":
        binary = value.dtype is torch.bool or bool(((value == 0) | (value == 1)).all())
        return None if binary else "bool, or 0 and 1"
    if name == "action":
        integer = not (value.is_floating_point() or value.dtype is torch.bool)
        return None if integer else "integers"
    return None if value.is_floating_point() else "floating point"
