"""The commands of `erc-bench repro` and their options."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

__all__ = ["Compare", "Plan", "Validate"]

Model = Literal["1.5b", "7b"]
Arm = Literal["dapo", "erc-dapo", "gppo", "erc-gppo"]


@dataclass(frozen=True)
class Plan:
    """Print the commands of one of the paper's runs in order, with what they will cost.

    Example: erc-bench repro plan --model 1.5b --objective erc-dapo --out plans
    """

    model: Model = "1.5b"
    """DeepSeek-R1-Distill-Qwen of this size."""
    objective: Arm = "erc-dapo"
    """Arm."""
    positive_nll: bool = True
    """The release's 0.1 x NLL on correct responses, which its paper does not mention."""
    engine: Literal["verl", "trl"] = "verl"
    """verl: the paper's run on 64 GPUs. trl: a tenth of its batch on one."""
    out: Path | None = None
    """Write a shell script into this folder too."""
    steps: int | None = None
    """Rollouts, for the estimate. None: 500 on verl, 100 on trl."""
    tokens: float | None = None
    """Mean response length, for the estimate. None: 8000 on verl, 6000 on trl."""
    gpus: int | None = None
    """Number of GPUs, for the estimate. None: 64 on verl, 1 on trl."""
    peak: float = 9.9e14
    """Operations per second of a GPU, for the estimate."""
    utilisation: float = 0.25
    """Share of the peak in training, for the estimate."""
    decoding: float = 2500.0
    """Tokens generated per second and GPU by a 1.5B model, for the estimate."""

    def run(self) -> None:
        """Print the plan and, with ``out``, write it."""
        from erc_bench.core.errors import InputError  # noqa: PLC0415
        from paper_repro.planning import SINGLE_GPU, Cost, commands, cost, write_plan  # noqa: PLC0415

        if self.engine == "trl" and self.model != "1.5b":
            raise InputError("model: the single-GPU run is of 1.5b; 7b needs --engine verl")
        given = {"steps": self.steps, "tokens": self.tokens, "gpus": self.gpus}
        known: dict[str, Any] = dict(SINGLE_GPU) if self.engine == "trl" else {}
        known |= {name: value for name, value in given.items() if value is not None}
        assumed = Cost(
            peak=self.peak, training_utilisation=self.utilisation, decoding=self.decoding, **known
        )
        print(f"# {cost(self.model, assumed)}\n")
        for command in commands(
            self.model, self.objective, positive_nll=self.positive_nll, engine=self.engine
        ):
            print(command)
        if self.out is not None:
            shared: dict[str, Any] = {"positive_nll": self.positive_nll, "engine": self.engine}
            path = write_plan(self.out, self.model, self.objective, assumed=assumed, **shared)
            print(path, file=sys.stderr)


@dataclass(frozen=True)
class Validate:
    """Compose the configuration with the installed verl (or TRL) and fail on keys that do nothing.

    Example: erc-bench repro validate --model 7b --objective erc-gppo --set trainer.nnodes=4
    """

    engine: Literal["verl", "trl"] = "verl"
    """Which configuration."""
    model: Model | None = None
    """None: both."""
    objective: Arm | None = None
    """None: all four."""
    set: tuple[str, ...] = ()
    """Further overrides, key=value as JSON, to be validated with the rest."""

    def run(self) -> None:
        """Validate; exits with 1 if anything is wrong."""
        from rich.console import Console  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        from paper_repro.configuration import (  # noqa: PLC0415
            MODELS,
            OBJECTIVES,
            compose,
            override,
            trl_settings,
        )
        from paper_repro.validating import validate_trl, validate_verl  # noqa: PLC0415

        further = dict(override(text) for text in self.set)
        table = Table("configuration", "key", "problem")
        if self.engine == "trl":
            run, grpo = trl_settings()
            found = {"trl": validate_trl(run, grpo | further)}
        else:
            found = {
                f"{model}-{arm}": validate_verl(compose(model, arm) | further)
                for model in ([self.model] if self.model else MODELS)
                for arm in ([self.objective] if self.objective else OBJECTIVES)
            }
        for name, findings in found.items():
            for finding in findings:
                table.add_row(name, finding.key, finding.problem)
            if not findings:
                table.add_row(name, "", "valid")
        Console(width=None if sys.stdout.isatty() else 160).print(table)
        if any(found.values()):
            sys.exit(1)


@dataclass(frozen=True)
class Compare:
    """Set a finished run beside the papers' numbers, with intervals.

    Example: erc-bench repro compare eval/1.5b-erc-dapo.json --objective erc-dapo --log run.jsonl
    """

    evaluation: Positional[Path | None] = None
    """What `python -m paper_repro.evaluation score` wrote."""
    log: Path | None = None
    """Log of the training: verl's, TRL's or TensorBoard's."""
    model: Model = "1.5b"
    """Size."""
    objective: Arm = "erc-dapo"
    """Arm."""
    baseline: Path | None = None
    """Evaluation of the same model trained without ERC: adds the difference, paired by problem."""
    targets: Path | None = None
    """Other papers' numbers, in the form of paper_repro/targets.toml."""
    json: Path | None = None
    """Write the rows as JSON."""
    markdown: Path | None = None
    """Write the rows as Markdown."""

    def run(self) -> None:
        """Print the rows and write the files asked for."""
        from erc_bench.core.storage import write_json, write_text  # noqa: PLC0415
        from paper_repro.comparing import as_markdown, compare  # noqa: PLC0415

        more = {"baseline": self.baseline, "papers": self.targets}
        rows = compare(self.model, self.objective, self.evaluation, self.log, **more)
        text = as_markdown(rows)
        print(text, end="")
        data = [asdict(row) | {"finding": row.finding} for row in rows]
        for row in data:
            row |= {key: None for key in ("low", "high") if row[key] != row[key]}  # no NaN in JSON
        if self.markdown is not None:
            write_text(self.markdown, text)
        if self.json is not None:
            write_json(self.json, data)
