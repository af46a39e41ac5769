"""Named objectives: each a composition of a few lines with its equation (maximised) and its source.

``r`` is the sampled action's ratio, ``A`` the advantage, ``rho`` the entropy ratio, ``sg`` the
stop-gradient. Parameters are the builder's keyword arguments.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from erc_bench.advantages import Advantage
from erc_bench.errors import InputError
from erc_bench.numerics import Hyper
from erc_bench.objectives.aggregates import SequenceMeanTokenMean
from erc_bench.objectives.base import Objective
from erc_bench.objectives.gates import EntropyRatio
from erc_bench.objectives.regularizers import KLEstimate
from erc_bench.objectives.surrogates import GPPO, DualClip, PPOClip, Reinforce

__all__ = ["RECIPES", "Recipe", "make", "recipe"]


@dataclass(frozen=True)
class Recipe:
    """An objective and what its paper trains it with.

    Attributes:
        name: in the registry and in records.
        build: makes the objective; its keyword arguments are the recipe's parameters.
        advantage: estimator.
        dynamic_sampling: only groups whose rewards differ are trained on (DAPO, eq. 11).
        overlong_penalty: DAPO's soft length penalty is added to rewards (eq. 13).
        source: paper.
        equation: what is maximised, one line.
    """

    name: str
    build: Callable[..., Objective]
    advantage: Advantage
    dynamic_sampling: bool
    overlong_penalty: bool
    source: str
    equation: str

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Names and defaults of the parameters."""
        return {k: p.default for k, p in inspect.signature(self.build).parameters.items()}

    @property
    def description(self) -> str:
        """One sentence."""
        return (inspect.getdoc(self.build) or "").partition("\n")[0]


#: Every recipe by name, in the order they are defined.
RECIPES: dict[str, Recipe] = {}


def _recipe(
    name: str,
    *,
    source: str,
    advantage: Advantage = "group-zscore",
    dynamic_sampling: bool = False,
    overlong_penalty: bool = False,
) -> Callable[[Callable[..., Objective]], Callable[..., Objective]]:
    """Register a builder; the last paragraph of its docstring is the equation."""

    def register(build: Callable[..., Objective]) -> Callable[..., Objective]:
        equation = " ".join((inspect.getdoc(build) or "").split("\n\n")[-1].split())
        RECIPES[name] = Recipe(
            name, build, advantage, dynamic_sampling, overlong_penalty, source, equation
        )
        return build

    return register


def recipe(name: str) -> Recipe:
    """Look a recipe up.

    Raises:
        InputError: unknown name.

    >>> recipe("dapo").advantage
    'group-zscore'
    """
    if name not in RECIPES:
        from erc_bench.objectives.third_party import load_plugins  # noqa: PLC0415  # it needs Recipe

        load_plugins()
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"objective: {name!r} is unknown{hint} (known: {', '.join(RECIPES)})")
    return RECIPES[name]


def make(name: str, **overrides: Hyper) -> Objective:
    """Build a recipe's objective, with some of its parameters changed.

    Raises:
        InputError: unknown recipe or parameter, or a value out of its range.

    >>> make("erc-dapo", band_low=0.1).gates
    (EntropyRatio(low=0.1, high=0.05, eps=1e-08),)
    """
    found = recipe(name)
    for key in overrides:
        if key not in found.parameters:
            allowed = ", ".join(found.parameters) or "none"
            raise InputError(f"objective: {name} has no parameter {key!r} (allowed: {allowed})")
    return found.build(**overrides)


@_recipe("reinforce", source="Williams, Machine Learning 8 (1992)", advantage="leave-one-out")
def reinforce() -> Objective:
    """The policy gradient, without regard to how far the policy has moved.

    A log pi
    """
    return Objective(Reinforce())


@_recipe("ppo-clip", source="arXiv:1707.06347 eq. 7", advantage="gae")
def ppo_clip(clip_low: Hyper = 0.2, clip_high: Hyper = 0.2) -> Objective:
    """Stops where the sampled action's ratio has left the clip range.

    min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
    """
    return Objective(PPOClip(clip_low, clip_high))


@_recipe("dual-clip", source="arXiv:1912.09729", advantage="gae")
def dual_clip(clip_low: Hyper = 0.2, clip_high: Hyper = 0.2, c: Hyper = 3.0) -> Objective:
    """PPO-clip that also bounds the punishment of actions that have become likelier.

    max(min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), c A) if A < 0, else as ppo-clip
    """
    return Objective(DualClip(PPOClip(clip_low, clip_high), c))


@_recipe("grpo", source="arXiv:2402.03300 eq. 3")
def grpo(clip_low: Hyper = 0.2, clip_high: Hyper = 0.2, beta: Hyper = 0.0) -> Objective:
    """PPO-clip with advantages relative to a group; every response weighs the same.

    1/|y| sum_t min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) - beta k3(pi || ref)
    """
    base = Objective(PPOClip(clip_low, clip_high), aggregate=SequenceMeanTokenMean())
    penalised = isinstance(beta, Tensor) or beta != 0
    return base.regularized(KLEstimate(beta, "k3", "ref")) if penalised else base


@_recipe("dapo", source="arXiv:2503.14476 eq. 8", dynamic_sampling=True, overlong_penalty=True)
def dapo(clip_low: Hyper = 0.2, clip_high: Hyper = 0.28) -> Objective:
    """PPO-clip with a higher upper bound; every token weighs the same.

    min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
    """
    return Objective(PPOClip(clip_low, clip_high))


@_recipe("gppo", source="arXiv:2508.07629")
def gppo(clip_low: Hyper = 0.2, clip_high: Hyper = 0.2) -> Objective:
    """PPO-clip in value; where it clips, a bounded gradient is kept.

    min(r A, clip(r, (1 - clip_low) r/sg(r), (1 + clip_high) r/sg(r)) A)
    """
    return Objective(GPPO(clip_low, clip_high))


@_recipe("erc-dapo", source="arXiv:2512.05591", dynamic_sampling=True, overlong_penalty=True)
def erc_dapo(
    band_low: Hyper = 0.05, band_high: Hyper = 0.05, clip_low: Hyper = 0.2, clip_high: Hyper = 0.28
) -> Objective:
    """DAPO that drops a token's gradient where the policy's entropy has left a band.

    dapo if 1 - band_low < rho < 1 + band_high, else sg(dapo)
    """
    return dapo(clip_low, clip_high).gated(EntropyRatio(band_low, band_high))


@_recipe("erc-gppo", source="arXiv:2512.05591")
def erc_gppo(
    band_low: Hyper = 0.05, band_high: Hyper = 0.05, clip_low: Hyper = 0.2, clip_high: Hyper = 0.2
) -> Objective:
    """GPPO that drops a token's gradient where the policy's entropy has left a band.

    gppo if 1 - band_low < rho < 1 + band_high, else sg(gppo)
    """
    return gppo(clip_low, clip_high).gated(EntropyRatio(band_low, band_high))
