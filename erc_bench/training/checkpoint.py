"""A population's whole state in one safetensors file, written atomically."""

from __future__ import annotations

import hashlib
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from erc_bench.core.errors import InputError
from erc_bench.core.storage import atomic_write
from erc_bench.training.warmcache import digest

if TYPE_CHECKING:
    from erc_bench.training.loop import Trainer

__all__ = ["load", "save_state"]


def _identity(trainer: Trainer) -> Tensor:
    """Digest of what the population was asked to do: shapes alone do not tell all populations apart."""
    asked = [
        trainer.config,
        trainer.dynamics if is_dataclass(trainer.dynamics) else type(trainer.dynamics).__qualname__,
        trainer.seed,
        trainer.clip,
        trainer.band,
        trainer.learning_rate.tolist(),
        trainer.temperature.tolist(),
        trainer.rollout_bits.tolist(),
        trainer.rollout_jitter.tolist(),
        *(
            (
                a.label,
                a.advantage,
                list(a.seeds),
                a.objective.spec(),
                a.dynamic_sampling,
                a.overlong_penalty,
                a.reference,
            )
            for a in trainer.asked
        ),
    ]
    digest = hashlib.sha256(repr(asked).encode()).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)


def _state(trainer: Trainer) -> dict[str, Tensor]:
    optimizers = {"policy": trainer.optimizer}
    optimizers |= {f"critic{n}": critic.optimizer for n, critic in trainer.critics.items()}
    state = {
        "identity": _identity(trainer),
        "rollouts_done": torch.tensor(trainer.rollouts_done),
        "generated": trainer.generated,
        **{f"evaluation.{name}": value for name, value in trainer.evaluations.items()},
    }
    for name, optimizer in optimizers.items():
        state |= {f"{name}.param.{key}": value for key, value in optimizer.params.items()}
        state |= {f"{name}.{key}": value for key, value in optimizer.state().items()}
    for number, arm in enumerate(trainer.arms):
        adapted = arm.objective.coefficients(len(arm))
        state |= {f"objective{number}.{name}": value for name, value in adapted.items()}
    for table in ("metrics", "tokens"):
        columns = trainer.log.stacked(table)
        state |= {f"log.{table}.{key}": torch.from_numpy(rows) for key, rows in columns.items()}
    return state


def save_state(trainer: Trainer, path: Path) -> None:
    """Write the state to ``path``, whole or not at all; only its own folder is made.

    Raises:
        OSError: it could not be written; the checkpoint before it is still there.
    """
    path.parent.mkdir(exist_ok=True)
    whole = {name: x.contiguous() for name, x in _state(trainer).items()}
    content = save(whole, metadata={"sha256": digest(whole)})
    atomic_write(path, lambda stream: stream.write(content), make_folders=False)


def load(trainer: Trainer, path: Path) -> None:
    """Go back to a saved state; the next rollout is the one that would have followed.

    Raises:
        InputError: the file is damaged or belongs to another population.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise InputError(
            f"resume: checkpoint {path} cannot be read ({line}); remove it to train its part anew"
        ) from None
    if told != digest(state):
        raise InputError(f"resume: checkpoint {path} is damaged; remove it to train its part anew")
    for name, value in _state(trainer).items():
        found = state.get(name)
        other = found is None or (found.shape, found.dtype) != (value.shape, value.dtype)
        if other or (name == "identity" and not torch.equal(state[name], value)):
            raise InputError(f"resume: checkpoint {path} belongs to another run (at {name})")

    def below(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    trainer.rollouts_done = int(state["rollouts_done"])
    trainer.generated.copy_(state["generated"])
    trainer.evaluations = below("evaluation.")
    optimizers = {"policy": trainer.optimizer}
    optimizers |= {f"critic{n}": critic.optimizer for n, critic in trainer.critics.items()}
    for name, optimizer in optimizers.items():
        for key, value in below(f"{name}.param.").items():
            optimizer.params[key].copy_(value)
        optimizer.load(below(f"{name}."))
    for number, arm in enumerate(trainer.arms):
        objective = arm.objective.with_coefficients(below(f"objective{number}."))
        trainer.arms[number] = replace(arm, objective=objective)
    for table in ("metrics", "tokens"):
        columns = below(f"log.{table}.")
        trainer.log.restore(table, {key: rows.numpy() for key, rows in columns.items()})
