"""Which recipe is compared with whose code; runs without any of the others installed."""

from __future__ import annotations

from differential import trl_losses, verl_losses
from erc_bench.objectives import RECIPES

#: recipes of which no installed library has the loss, and what holds them instead
ELSEWHERE = {
    "erc-dapo": "the official release's numbers, tests/objectives/test_objectives_golden.py",
    "erc-gppo": "the official release's numbers, tests/objectives/test_objectives_golden.py",
    "gppo": "the official release's numbers, of which GPPO is the ungated part",
    "ce-gppo": "closed forms; its release is a fork of verl that is not on a package index",
    "dapo-kl": "verl's and TRL's dapo, and the exact divergence of ppo-kl",
    "ppo-kl": "closed forms and autograd of the exact divergence",
    "ppo-kl-adaptive": "closed forms; verl's controller is another one, see docs/differences.md",
    "erc-directional-dapo": "of this project",
    "kl-gate-dapo": "of this project",
    "tv-gate-dapo": "of this project",
}


def test_every_recipe_is_compared_or_says_what_holds_it_instead():
    """A new recipe has an oracle, or a reason why it has none."""
    compared = {case.recipe for case in (*verl_losses.CASES, *trl_losses.CASES)}
    assert compared | set(ELSEWHERE) == set(RECIPES)
    assert not compared & set(ELSEWHERE)
