"""The commands of `erc-bench sb3` and their options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from erc_bench.core.errors import InputError

__all__ = ["Demo", "Redraw"]


@dataclass(frozen=True)
class Demo:
    """Train SB3's PPO with and without the entropy-ratio band on classic control, and compare.

    Example: erc-bench sb3 demo --environments CartPole-v1 --seeds 3 --out results/sb3
    """

    environments: tuple[str, ...] = (
        "CartPole-v1",
        "Acrobot-v1",
        "LunarLander-v3",
        "erc/DriftBandit-v0",
    )
    """Gymnasium ids; LunarLander needs erc-bench[control]."""
    steps: int | None = None
    """Steps of each run. None: 50,000, 100,000, 150,000 and 50,000; of any other environment 50,000."""
    seeds: int = 10
    """Number of seeds, which the arms share."""
    out: Path = Path("results/sb3")
    """A new or empty folder, unless --resume."""
    workers: int = 1
    """Number of processes."""
    resume: bool = False
    """Go on with an interrupted comparison in --out."""

    def run(self) -> None:
        """Train, draw, and print the files written."""
        from erc_bench.adapters.demos.sb3.demo import demo  # noqa: PLC0415
        from erc_bench.adapters.demos.sb3.training import ENVIRONMENTS  # noqa: PLC0415

        if not self.environments:
            raise InputError("environments: none given")
        steps = {
            name: ENVIRONMENTS.get(name, 50_000) if self.steps is None else self.steps
            for name in self.environments
        }
        files = demo(self.out, steps, self.seeds, workers=self.workers, resume=self.resume)
        for path in files:
            print(path)


@dataclass(frozen=True)
class Redraw:
    """Draw and tabulate what an SB3 demo has finished so far."""

    out: Path = Path("results/sb3")
    """Its folder."""

    def run(self) -> None:
        """Draw, and print the files written."""
        from erc_bench.adapters.demos.sb3.demo import redraw  # noqa: PLC0415

        for path in redraw(self.out):
            print(path)
