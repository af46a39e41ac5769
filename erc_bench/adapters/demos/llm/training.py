"""One arm with one seed: a fresh model trained by TRL under our objective, and what it wrote down."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from erc_bench.adapters.demos.llm.models import Loaded, load
from erc_bench.adapters.demos.llm.task import Addition, reward
from erc_bench.core.errors import InputError
from erc_bench.core.storage import atomic_write, read_object

__all__ = ["FIELDS", "Settings", "evaluate", "newest", "parsed", "quiet", "seal", "train"]

#: What TRL gives an objective of a batch; as in ``erc_bench.adapters.trl``, which needs TRL itself.
FIELDS = ("entropy", "old_entropy", "action", "ref_logp", "reward")

#: Checkpoints of a run, about: between rollouts, where TRL holds no responses.
CHECKPOINTS = 8
#: In a checkpoint that was written to its end: SHA-256 of each of its files.
SEAL = "whole.json"


@dataclass(frozen=True)
class Settings:
    """What both arms share. The shape is the paper's: 8 responses a prompt, 8 updates a rollout.

    Attributes:
        model: see :func:`erc_bench.adapters.demos.llm.models.load`.
        largest: of the numbers to add.
        rollouts: generations of responses.
        prompts: of a rollout.
        responses: of a prompt.
        updates: optimizer steps on each rollout.
        length: most tokens of a response.
        learning_rate: of AdamW, constant after the warm-up; weight decay 0.1, gradients clipped to 1.
        warmup: optimizer steps over which it rises from 0.
        evaluation_samples: responses to each held-out prompt, before and after training.
    """

    model: str = "smollm2"
    largest: int = 20
    rollouts: int = 16
    prompts: int = 8
    responses: int = 8
    updates: int = 8
    length: int = 10
    learning_rate: float = 1e-5
    warmup: int = 10
    evaluation_samples: int = 2

    def __post_init__(self) -> None:
        for name in ("largest", "rollouts", "prompts", "updates", "length", "evaluation_samples"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"{name}: {getattr(self, name)} is not allowed; must be at least 1"
                )
        if self.warmup < 0:
            raise InputError(f"warmup: {self.warmup} is not allowed; must not be negative")
        if self.responses < 2:
            raise InputError(f"responses: {self.responses} is not allowed; must be at least 2")
        if self.prompts * self.responses % self.updates:
            raise InputError(
                f"updates: {self.updates} must divide the {self.prompts * self.responses} responses"
            )
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(
                f"learning_rate: {self.learning_rate} is not allowed; must be positive"
            )


def train(
    settings: Settings, objective: str, seed: int, folder: Path, on_steps: Callable[[int], None]
) -> None:
    """Train and write ``trainer_state.json`` (TRL's log) and then ``evaluation.json`` into ``folder``.

    The seed chooses prompts, their order and the samples; every arm with it starts alike. Goes on from
    the newest whole checkpoint in the folder, if there is one, and removes them at the end.

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
    name, parameters = parsed(objective)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL and what it imports
        trainer = ObjectiveGRPOTrainer(
            model=loaded.model,
            reward_funcs=reward,
            objective=name,
            parameters=parameters,
            args=GRPOConfig(
                output_dir=str(place), seed=seed, data_seed=seed, report_to="none",
                use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False,
                num_generations=settings.responses, steps_per_generation=settings.updates,
                per_device_train_batch_size=settings.prompts * settings.responses // settings.updates,
                gradient_accumulation_steps=1, max_completion_length=settings.length,
                max_steps=settings.rollouts * settings.updates, save_strategy="steps",
                save_steps=settings.updates * max(1, settings.rollouts // CHECKPOINTS),
                save_total_limit=2,  # one is whole while another is written
                learning_rate=settings.learning_rate,
                lr_scheduler_type="constant_with_warmup", warmup_steps=settings.warmup,
                weight_decay=0.1, max_grad_norm=1.0, logging_steps=1, disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=loaded.tokenizer,
            callbacks=[Watch()],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "trainer_state.json", {"log_history": trainer.state.log_history})
    after = evaluate(loaded, task, settings, seed)
    _write(
        folder / "evaluation.json",
        {"objective": objective, "seed": seed, "settings": asdict(settings)}
        | {"reward/initial": before, "reward/final": after},
    )
    shutil.rmtree(place, ignore_errors=True)


def seal(checkpoint: Path) -> None:
    """Write the digests of a checkpoint's files beside them: from now on it is whole."""
    digests = {p.name: _digest(p) for p in sorted(checkpoint.iterdir()) if p.is_file()}
    _write(checkpoint / SEAL, digests)


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


def parsed(label: str) -> tuple[str, dict[str, float]]:
    """A recipe's name and parameters, of a label ``name:parameter=value,...``.

    Raises:
        InputError: not of this form.
    """
    name, _, text = label.partition(":")
    parameters = {}
    for part in text.split(",") if text else ():
        key, _, value = part.partition("=")
        try:
            parameters[key] = float(value)
        except ValueError:
            raise InputError(f"objectives: {label!r} must be name:parameter=number,...") from None
    return name, parameters


@torch.no_grad()
def evaluate(loaded: Loaded, task: Addition, settings: Settings, seed: int) -> float:
    """Mean reward on the held-out prompts, sampled at temperature 1 with a stream of its own."""
    model, tokenizer = loaded.model.eval(), loaded.tokenizer
    state = torch.random.get_rng_state()
    torch.manual_seed(10_000 + seed)
    total, pairs = 0.0, task.pairs(held_out=True)
    for first in range(0, len(pairs), 16):
        part = pairs[first : first + 16]
        texts = [
            tokenizer.apply_chat_template(
                task.messages(pair), tokenize=False, add_generation_prompt=True
            )
            for pair in part
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(model.device)
        made = model.generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
            max_new_tokens=settings.length, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            num_return_sequences=settings.evaluation_samples,
        )  # fmt: skip
        said = tokenizer.batch_decode(
            made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        answers = [sum(pair) for pair in part for _ in range(settings.evaluation_samples)]
        total += sum(reward(said, answers))
    torch.random.set_rng_state(state)
    return total / (len(pairs) * settings.evaluation_samples)


def quiet() -> None:
    """No hub, no telemetry, no progress bars but ours."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of every missing timeout
    import datasets  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _write(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1) + "\n"
    atomic_write(path, lambda stream: stream.write(text.encode()))
