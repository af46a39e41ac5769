"""A policy objective is a composition of four small pure pieces.

    surrogate (per-token loss) x gate (per-token keep mask) -> aggregate (reduce) + regularizers

Pieces are elementwise over ``(..., B, T)``; only the aggregate reduces. Hyperparameters are floats,
or tensors ``(R,)`` with one value for each run of a ``(R, B, T)`` batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from erc_bench.core.batch import TokenBatch
from erc_bench.core.errors import InputError
from erc_bench.core.numerics import Hyper, over_tokens
from erc_bench.objectives.aggregates import Aggregate, TokenMean

__all__ = [
    "Adaptive",
    "Aggregate",
    "Denominators",
    "Gate",
    "Objective",
    "Regularizer",
    "Surrogate",
    "describe",
]


@runtime_checkable
class Surrogate(Protocol):
    """The loss of every token. Subclasses inherit what holds for surrogates without a clip."""

    @property
    def name(self) -> str:
        """What messages and tables call it."""
        return type(self).__name__

    @property
    def clip_range(self) -> tuple[Hyper, Hyper] | None:
        """``(low, high)`` of a clip to ``1 - low <= ratio <= 1 + high``; None: there is no clip."""
        return None

    def ratio(self, batch: TokenBatch) -> Tensor:
        """What a clip bounds, ``(..., B, T)``: the token's ratio, or its response's; 1 where masked."""
        return batch.ratio

    def __call__(self, batch: TokenBatch) -> Tensor:
        """Loss of each token, ``(..., B, T)``; minimising it improves the policy."""
        ...

    def bound(self, batch: TokenBatch) -> Tensor:
        """Tokens whose loss VALUE a clip determines, bool ``(..., B, T)``."""
        return torch.zeros_like(batch.mask)


@runtime_checkable
class Gate(Protocol):
    """Decides which tokens keep their gradient; values and denominators stay.

    A gate that compares the tokens of a batch with each other sets ``over_batch = True``: what it
    keeps of a micro-batch is not what it keeps of the whole batch. Such a gate compares tokens of the
    same run only. A gate that keeps or drops whole responses sets ``over_sequences = True``. A gate
    that keeps tokens inside a band ``1 - low < rho < 1 + high`` on the entropy ratio has an attribute
    ``band = (low, high)``.
    """

    def keep(self, batch: TokenBatch) -> Tensor:
        """Tokens that keep their gradient, bool ``(..., B, T)``; differentiable in nothing."""
        ...


@runtime_checkable
class Regularizer(Protocol):
    """A penalty per token, aggregated as the surrogate is and added with a coefficient."""

    @property
    def name(self) -> str:
        """The name in its metric ``loss/<name>``."""
        ...

    @property
    def coefficient(self) -> Hyper:
        """Weight of the aggregated penalty."""
        ...

    def penalty(self, batch: TokenBatch) -> Tensor:
        """Penalty of each token, ``(..., B, T)``."""
        ...

    def mask(self, batch: TokenBatch) -> Tensor:
        """The tokens over which it is aggregated, among the unmasked ones."""
        return batch.mask


@runtime_checkable
class Adaptive(Protocol):
    """A regularizer whose coefficient follows a measurement, from rollout to rollout."""

    def adapted(self, metrics: Mapping[str, Tensor]) -> Regularizer:
        """The regularizer for the next rollout; the receiver does not change."""
        ...

    def with_coefficient(self, coefficient: Hyper) -> Regularizer:
        """The regularizer with this coefficient, for a run that is resumed."""
        ...


class Denominators(NamedTuple):
    """What the sums over a batch are divided by, each ``(...)``; additive over micro-batches and ranks."""

    tokens: Tensor
    surrogate: Tensor
    regularizers: tuple[Tensor, ...]


@dataclass(frozen=True)
class Objective:
    """A policy loss, called on batches ``(..., B, T)``.

    ``loss = agg(where(keep, s, sg(s))) + sum_j c_j agg_j(penalty_j)``, with ``sg`` the
    stop-gradient and ``keep`` the tokens that all gates keep.

    Args:
        surrogate: loss of each token.
        gates: which tokens keep their gradient.
        aggregate: how tokens become one number per run.
        regularizers: what is added; their names must differ.

    Raises:
        InputError: two regularizers with one name.

    >>> from erc_bench.objectives import EntropyRatio, PPOClip
    >>> dapo = Objective(PPOClip(0.2, 0.28))
    >>> erc_dapo = dapo.gated(EntropyRatio(0.05, 0.05))
    >>> one = torch.ones(1, 2)
    >>> old_entropy = torch.tensor([[1.0, 2.0]])
    >>> batch = TokenBatch(-one, -one, one, one, entropy=one, old_entropy=old_entropy)
    >>> loss, metrics = erc_dapo(batch)
    >>> loss, metrics["gate/dropped_fraction"]
    (tensor(-1.), tensor(0.5000))
    """

    surrogate: Surrogate
    gates: tuple[Gate, ...] = ()
    aggregate: Aggregate = TokenMean()  # noqa: RUF009  # frozen, without fields
    regularizers: tuple[Regularizer, ...] = ()

    def __post_init__(self) -> None:
        names = [r.name for r in self.regularizers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"Objective.regularizers: {', '.join(twice)} more than once")

    def gated(self, *gates: Gate) -> Objective:
        """The same objective with further gates."""
        return replace(self, gates=(*self.gates, *gates))

    @property
    def base(self) -> Objective:
        """The same objective without its gates.

        >>> from erc_bench.objectives import make
        >>> make("erc-dapo", clip_high=0.4).base == make("dapo", clip_high=0.4)
        True
        """
        return replace(self, gates=())

    @property
    def band(self) -> tuple[Hyper, Hyper] | None:
        """The band of its first gate on the entropy ratio, ``(low, high)``; None: there is no such gate."""
        return next((g.band for g in self.gates if hasattr(g, "band")), None)

    def regularized(self, *regularizers: Regularizer) -> Objective:
        """The same objective with further regularizers."""
        return replace(self, regularizers=(*self.regularizers, *regularizers))

    @torch.no_grad()
    def keep(self, batch: TokenBatch) -> Tensor:
        """Tokens that keep their gradient, bool ``(..., B, T)``; True where masked."""
        dropped = torch.zeros_like(batch.mask)
        for gate in self.gates:
            dropped |= ~gate.keep(batch)
        return ~(dropped & batch.mask)

    @torch.no_grad()
    def bound(self, batch: TokenBatch) -> Tensor:
        """Tokens whose loss value a clip determines, bool ``(..., B, T)``; False where masked."""
        return self.surrogate.bound(batch) & batch.mask

    def denominators(self, batch: TokenBatch) -> Denominators:
        """The denominators of a batch. With them, losses and metrics of its parts add up to the whole's."""
        return Denominators(
            tokens=batch.mask.sum((-2, -1)),
            surrogate=self.aggregate.denominator(batch.mask),
            regularizers=tuple(
                self.aggregate.denominator(r.mask(batch)) for r in self.regularizers
            ),
        )

    def __call__(
        self, batch: TokenBatch, denominators: Denominators | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and metrics of every run.

        Args:
            batch: tokens ``(..., B, T)``.
            denominators: of the whole batch, where this is one of its micro-batches.

        Returns:
            The loss ``(...)``, 0 without tokens; and detached metrics ``(...)``:

            - ``loss/surrogate`` and ``loss/<regularizer>``: the terms whose sum is the loss.
            - ``clip/ratio_bound_fraction``: tokens whose loss value the clip determines.
            - ``clip/ratio_outside_fraction``: tokens whose ratio (the response's, at sequence level)
              lies outside ``[1 - low, 1 + high]``, whether or not the clip binds there. Both only
              where the surrogate has a clip range.
            - ``gate/dropped_fraction``: tokens whose gradient a gate has dropped.

            Fractions are of unmasked tokens.

        Raises:
            ValueError: hyperparameters of another number of runs, or a field that is missing.
        """
        self._require_runs(batch)
        divisors = self.denominators(batch) if denominators is None else denominators
        per_token = self.surrogate(batch)
        keep = self.keep(batch)
        if self.gates:
            per_token = torch.where(keep, per_token, per_token.detach())
        loss = self.aggregate(per_token, batch.mask, divisors.surrogate)
        metrics = {"loss/surrogate": loss.detach()}
        for piece, divisor in zip(self.regularizers, divisors.regularizers, strict=True):
            penalty = self.aggregate(piece.penalty(batch), piece.mask(batch), divisor)
            coefficient = piece.coefficient
            if isinstance(coefficient, Tensor):
                coefficient = coefficient.to(penalty)
            term = coefficient * penalty
            loss = loss + term
            metrics[f"loss/{piece.name}"] = term.detach()
        counted = {"gate/dropped_fraction": ~keep}
        if self.surrogate.clip_range is not None:
            counted["clip/ratio_bound_fraction"] = self.bound(batch)
            counted["clip/ratio_outside_fraction"] = self._outside(batch)
        tokens = divisors.tokens.clamp(min=1)
        for name, chosen in counted.items():
            metrics[name] = chosen.sum((-2, -1), dtype=loss.dtype) / tokens
        return loss, metrics

    @torch.no_grad()
    def _outside(self, batch: TokenBatch) -> Tensor:
        """Tokens with a ratio outside the clip range; False where masked, as the ratio is 1 there."""
        assert self.surrogate.clip_range is not None
        low, high = self.surrogate.clip_range
        ratio = self.surrogate.ratio(batch)
        return (ratio < over_tokens(1 - low, ratio)) | (ratio > over_tokens(1 + high, ratio))

    @cached_property
    def _per_run(self) -> tuple[tuple[str, int], ...]:
        """Hyperparameters with one value per run: their names and how many runs."""
        return tuple(_per_run(self))

    def _require_runs(self, batch: TokenBatch) -> None:
        for name, runs in self._per_run:
            if batch.run_shape != (runs,):
                raise ValueError(
                    f"{name}: {runs} values, one per run, but the batch's run axes are "
                    f"{tuple(batch.run_shape)}"
                )

    @property
    def reads_reference(self) -> bool:
        """Whether a regularizer needs the reference policy (``ref_logp`` or ``ref_log_probs``)."""
        return any(getattr(r, "reference", None) == "ref" for r in self.regularizers)

    @property
    def over_batch(self) -> bool:
        """Whether a piece selects among a batch's tokens, so that micro-batches change the loss.

        Such pieces have an attribute ``over_batch``. They compare tokens of the same run only.
        """
        pieces = (*self.gates, *self.regularizers)
        return any(getattr(piece, "over_batch", False) for piece in pieces)

    @property
    def adaptive(self) -> bool:
        """Whether :meth:`adapted` can change anything."""
        return any(isinstance(r, Adaptive) for r in self.regularizers)

    def adapted(self, metrics: Mapping[str, Tensor]) -> Objective:
        """The objective for the next rollout, given what the last updates did; this one does not change.

        Args:
            metrics: what the adaptive pieces read, one value for each run ``(...)``; such as
                ``drift/kl_exact`` of the updated policy, over the rollout's tokens.

        Raises:
            ValueError: a metric that a piece needs is missing.
        """
        if not self.adaptive:
            return self
        return replace(
            self,
            regularizers=tuple(
                r.adapted(metrics) if isinstance(r, Adaptive) else r for r in self.regularizers
            ),
        )

    def coefficients(self, runs: int) -> dict[str, Tensor]:
        """The coefficient of every adaptive piece, ``(runs,)``, which :meth:`adapted` may have changed."""
        return {
            r.name: torch.as_tensor(r.coefficient, dtype=torch.float64).expand(runs).clone()
            for r in self.regularizers
            if isinstance(r, Adaptive)
        }

    def with_coefficients(self, values: Mapping[str, Tensor]) -> Objective:
        """The same objective with coefficients that :meth:`coefficients` has returned."""
        return replace(
            self,
            regularizers=tuple(
                r.with_coefficient(values[r.name]) if isinstance(r, Adaptive) else r
                for r in self.regularizers
            ),
        )

    def spec(self) -> dict[str, Any]:
        """The composition and ``over_batch`` as plain JSON values, for provenance.

        >>> from erc_bench.objectives import PPOClip
        >>> Objective(PPOClip(0.2, 0.28)).spec()["surrogate"]
        {'type': 'PPOClip', 'low': 0.2, 'high': 0.28}
        """
        described: dict[str, Any] = describe(self)
        return {**described, "over_batch": self.over_batch}


def describe(value: Any) -> Any:
    """A piece, or a value inside one, as plain JSON values; infinity and NaN become texts."""
    if is_dataclass(value):
        inside = {f.name: describe(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **inside}
    if isinstance(value, Tensor):
        return describe(value.tolist())
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _per_run(piece: Any) -> Iterator[tuple[str, int]]:
    for field in fields(piece) if is_dataclass(piece) else ():
        value = getattr(piece, field.name)
        if isinstance(value, Tensor):
            if value.ndim:
                yield f"{type(piece).__name__}.{field.name}", len(value)
        else:
            for inner in value if isinstance(value, tuple) else (value,):
                yield from _per_run(inner)
