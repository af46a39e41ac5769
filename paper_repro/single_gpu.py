"""The single-GPU run of ``configs/trl.toml``: TRL's GRPOTrainer with one of our objectives.

    python -m paper_repro.single_gpu data/train.parquet --objective erc-dapo --out runs/erc-dapo

Needs ``erc-bench[llm]``; with the configuration as it is, a GPU of 80 GB and vLLM.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, UseAppendAction, arg

from erc_bench.core.errors import InputError
from erc_bench.core.validation import checked
from paper_repro.configuration import SingleGPU, compose, override, trl_settings
from paper_repro.data import rows
from paper_repro.reward import math_reward
from paper_repro.validating import validate_trl

__all__ = ["train"]


def train(
    data: Path, out: Path, run: Mapping[str, Any], grpo: Mapping[str, Any], *, seed: int = 0
) -> Path:
    """Train, and write the final model with ``trainer_state.json`` beside it.

    Args:
        data: Parquet that ``paper_repro.data`` wrote.
        out: new or empty folder.
        run: model, objective, parameters, positive_nll.
        grpo: fields of ``trl.GRPOConfig``.
        seed: seeds data order, sampling and initialisation.

    Returns:
        The folder of the final model.

    Raises:
        InputError: anything that ``erc-bench repro validate --engine trl`` would name; data without
            prompts and answers; a folder with something in it.
    """
    faults = validate_trl(run, grpo)
    if faults:
        raise InputError("; ".join(f"{fault.key}: {fault.problem}" for fault in faults))
    if out.exists() and any(out.iterdir()):
        raise InputError(f"out: {out} is not empty")
    table = [{key: row.get(key) for key in ("prompt", "answer")} for row in rows(data)]
    if not table or not all(row["prompt"] and row["answer"] for row in table):
        raise InputError(f"data: {data} must have a prompt and an answer in every row")

    from datasets import Dataset  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415
    from trl import GRPOConfig  # noqa: PLC0415

    from erc_bench.adapters.trl import ObjectiveGRPOTrainer  # noqa: PLC0415

    chosen: SingleGPU = checked(SingleGPU, run, at="run.")
    trainer = ObjectiveGRPOTrainer(
        model=chosen.model,
        objective=chosen.built,
        reward_funcs=math_reward,
        args=GRPOConfig(output_dir=str(out), seed=seed, **grpo),
        train_dataset=Dataset.from_list(table),
        processing_class=AutoTokenizer.from_pretrained(chosen.model, padding_side="left"),
    )
    trainer.train()
    final = out / "final"
    trainer.save_model(str(final))
    trainer.state.save_to_json(str(final / "trainer_state.json"))
    return final


@dataclass(frozen=True)
class Train:
    """Train the single-GPU run."""

    data: Positional[Path]
    """What `python -m paper_repro.data train` wrote."""
    out: Path = Path("runs/single-gpu")
    """New or empty folder."""
    objective: str | None = None
    """Arm: dapo, erc-dapo, gppo or erc-gppo. None: the configuration's."""
    model: str | None = None
    """Folder or hub name. None: the configuration's."""
    positive_nll: bool = True
    """The release's 0.1 x NLL on correct responses."""
    seed: int = 0
    """Seed of everything random."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """Change a field of GRPOConfig, as --set max_steps=100 (repeatable)."""


def settings(command: Train) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration with what the command changes.

    Raises:
        InputError: an arm that the configuration does not have.
    """
    run, grpo = trl_settings()
    if command.objective is not None:
        run |= {"objective": command.objective, "parameters": arm_parameters(command.objective)}
    if command.model is not None:
        run["model"] = command.model
    if not command.positive_nll:
        run["positive_nll"] = 0.0
    return run, grpo | dict(override(text) for text in command.set)


def arm_parameters(objective: str) -> dict[str, float]:
    """The same clip and band as on verl, from ``configs/verl.toml``."""
    prefix = "+trainer.v1.erc_bench.parameters."
    found = compose("1.5b", objective).items()
    return {key.removeprefix(prefix): value for key, value in found if key.startswith(prefix)}


def main(arguments: list[str] | None = None) -> None:
    """Command line of this module."""
    program, flat = "python -m paper_repro.single_gpu", (tyro.conf.OmitArgPrefixes,)
    command = tyro.cli(Train, args=arguments, prog=program, config=flat)
    try:
        run, grpo = settings(command)
        print(train(command.data, command.out, run, grpo, seed=command.seed))
    except InputError as error:
        print(f"paper_repro.single_gpu: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
