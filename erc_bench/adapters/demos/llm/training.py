"""One run: TRL trains a fresh model under our objective, and its log and evaluation are written."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from erc_bench.adapters.demos.llm.loaded import Loaded
from erc_bench.adapters.demos.llm.models import load
from erc_bench.adapters.demos.llm.task import Addition, reward
from erc_bench.core.errors import InputError
from erc_bench.core.storage import read_object, write_json
from erc_bench.core.validation import Count, Positive, Size, checked_dataclass
from erc_bench.studies.arms import parse

__all__ = ["FIELDS", "Settings", "evaluate", "newest", "quiet", "seal", "train"]

#: What TRL's batches hold for an objective here, where no inference engine gives ``rollout_logp``.
FIELDS = ("entropy", "old_entropy", "action", "ref_logp", "reward")

#: About how many checkpoints a run writes. They lie between rollouts, where TRL holds no responses.
CHECKPOINTS = 8
#: A file in a checkpoint that was written to its end: the SHA-256 of each of its files.
SEAL = "whole.json"


@checked_dataclass
class Settings:
    """What both arms share. The shape is the paper's: 8 responses a prompt, 8 updates a rollout.

    Attributes:
        model: see :func:`erc_bench.adapters.demos.llm.models.load`.
        largest: the largest number to add.
        rollouts: how often responses are generated.
        prompts: prompts per rollout.
        responses: responses to each prompt.
        updates: optimizer steps on each rollout.
        length: the most tokens a response may have.
        learning_rate: of AdamW, constant after the warm-up; weight decay is 0.1, and gradients are
            clipped to norm 1.
        warmup: optimizer steps over which the learning rate rises from 0.
        evaluation_samples: responses to each held-out prompt, before and after training.
    """

    model: str = "smollm2"
    largest: Count = 20
    rollouts: Count = 16
    prompts: Count = 8
    responses: Annotated[int, Field(ge=2)] = 8
    updates: Count = 8
    length: Count = 10
    learning_rate: Positive = 1e-5
    warmup: Size = 10
    evaluation_samples: Count = 2

    def __post_init__(self) -> None:
        if self.prompts * self.responses % self.updates:
            raise InputError(
                f"updates: {self.updates} must divide the {self.prompts * self.responses} responses"
            )


def train(
    settings: Settings, objective: str, seed: int, folder: Path, on_steps: Callable[[int], None]
) -> None:
    """Train, and write ``trainer_state.json`` (TRL's log) and then ``evaluation.json`` into ``folder``.

    The seed chooses prompts, their order and the samples, so every arm with it starts alike. Training
    goes on from the newest whole checkpoint in the folder, if there is one; all are removed at the end.

    Raises:
        InputError: that checkpoint is damaged.
    """
    quiet()
    place = folder / "trl"
    start = newest(place)
    from datasets import Dataset  # noqa: PLC0415
    from transformers import PrinterCallback, TrainerCallback  # noqa: PLC0415
    from trl import GRPOConfig  # noqa: PLC0415

    from erc_bench.adapters.trl import ObjectiveGRPOTrainer  # noqa: PLC0415

    class Watch(TrainerCallback):
        def on_train_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            on_steps(state.global_step)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            on_steps(1)

        def on_save(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            seal(place / f"checkpoint-{state.global_step}")

    task = Addition(settings.largest)
    loaded = load(settings.model, task)
    pairs = task.prompts(settings.rollouts * settings.prompts, seed)
    rows = [{"prompt": task.messages(pair), "answer": sum(pair)} for pair in pairs]
    before = evaluate(loaded, task, settings, seed)
    loaded.model.train()
    arm = parse(objective)
    config = GRPOConfig(
        output_dir=str(place),
        seed=seed,
        data_seed=seed,
        num_generations=settings.responses,
        steps_per_generation=settings.updates,
        per_device_train_batch_size=settings.prompts * settings.responses // settings.updates,
        gradient_accumulation_steps=1,
        max_completion_length=settings.length,
        max_steps=settings.rollouts * settings.updates,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=settings.warmup,
        weight_decay=0.1,
        max_grad_norm=1.0,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="steps",
        save_steps=settings.updates * max(1, settings.rollouts // CHECKPOINTS),
        save_total_limit=2,  # one is whole while another is written
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL and what it imports
        trainer = ObjectiveGRPOTrainer(
            model=loaded.model,
            reward_funcs=reward,
            objective=arm.recipe.name,
            parameters=arm.parameters,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=loaded.tokenizer,
            callbacks=[Watch()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "trainer_state.json", {"log_history": trainer.state.log_history})
    after = evaluate(loaded, task, settings, seed)
    write_json(
        folder / "evaluation.json",
        {"objective": objective, "seed": seed, "settings": asdict(settings)}
        | {"reward/initial": before, "reward/final": after},
    )
    shutil.rmtree(place, ignore_errors=True)


def seal(checkpoint: Path) -> None:
    """Write the digests of a checkpoint's files beside them, which marks it as whole."""
    digests = {p.name: _digest(p) for p in sorted(checkpoint.iterdir()) if p.is_file()}
    write_json(checkpoint / SEAL, digests)


def newest(place: Path) -> Path | None:
    """The newest whole checkpoint below ``place``; those that were cut off are removed.

    Raises:
        InputError: one of its files is not what was written.
    """
    whole = {}
    for checkpoint in place.glob("checkpoint-*"):
        number = checkpoint.name.removeprefix("checkpoint-")
        if not (checkpoint / SEAL).is_file():
            shutil.rmtree(checkpoint, ignore_errors=True)
        elif number.isdecimal():
            whole[int(number)] = checkpoint
    if not whole:
        return None
    found = whole[max(whole)]
    for name, digest in read_object(found / SEAL, "resume").items():
        path = found / Path(name).name
        if not path.is_file() or _digest(path) != digest:
            raise InputError(
                f"resume: checkpoint {found} is damaged (at {path.name}); remove it to go on from one "
                "before it or to train the run anew"
            )
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def evaluate(loaded: Loaded, task: Addition, settings: Settings, seed: int) -> float:
    """Mean reward on the held-out prompts, sampled with a random stream of its own."""
    loaded.model.eval()
    state = torch.random.get_rng_state()
    torch.manual_seed(10_000 + seed)
    total, pairs, copies = 0.0, task.pairs(held_out=True), settings.evaluation_samples
    for first in range(0, len(pairs), 16):
        part = pairs[first : first + 16]
        found = loaded.sample([task.messages(pair) for pair in part], settings.length, copies)
        said = loaded.tokenizer.batch_decode(found.responses, skip_special_tokens=True)
        total += sum(reward(said, [sum(pair) for pair in part for _ in range(copies)]))
    torch.random.set_rng_state(state)
    return total / (len(pairs) * copies)


def quiet() -> None:
    """Turn off the hub, telemetry and other people's progress bars."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of every missing timeout
    import datasets  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
