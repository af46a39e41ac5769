"""Whether a configuration is what the installed verl or TRL will run: nothing unknown, nothing ignored."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from erc_bench.errors import InputError
from paper_repro.configuration import as_overrides

__all__ = ["Finding", "validate_trl", "validate_verl"]

SECTION = "trainer.v1.erc_bench"
#: Keys that verl's configuration has but its code does not do what the name says with: (key, the values
#: that are harmless, what to use). Read in verl 0.9.1's source.
TRAPS: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("algorithm.filter_groups.max_num_gen_batches", (0, None),
     "is not read by the synchronous trainer; use algorithm.filter_groups.max_inflight_gen_batches"),
    ("data.gen_batch_size", (1, None), "is set to 1 where groups are filtered; leave it at 1"),
    ("reward_model.reward_manager", (None,), "is an old name; use reward.reward_manager.name"),
    ("custom_reward_function.path", (None,), "is an old name; use reward.custom_reward_function.path"),
)  # fmt: skip
#: Added keys that go to a function of verl as keyword arguments, by prefix.
PASSED_ON = ("reward.reward_kwargs.overlong_buffer_cfg.", "reward.reward_kwargs.max_resp_len")


@dataclass(frozen=True)
class Finding:
    """What is wrong with a key."""

    key: str
    problem: str


def validate_verl(values: Mapping[str, Any]) -> list[Finding]:
    """Compose verl's real configuration with these overrides; what is wrong with it, nothing if all is well.

    Checks, in this order: every key is known to Hydra, or added where something reads it; verl's
    dataclasses take the values; the plug-in takes its section; no set key is one that verl never reads
    or overrules; verl's own validation passes.

    Raises:
        InputError: verl or Hydra is not installed.
    """
    if find_spec("verl") is None or find_spec("hydra") is None:
        raise InputError(
            "validate: needs verl: pip install 'erc-bench[verl]' and pip install --no-deps verl==0.9.1"
        )
    config, found = _composed(values)
    found += _added(values) + _traps(values) + _unread(values) + _types(values) + _sizes(values)
    if config is not None:
        found += _dataclasses(config) + _plugin(config) + _verls_own(config)
    unique = dict.fromkeys(found)
    return list(unique)


def _compose(overrides: Sequence[str]) -> Any:
    from hydra import compose, initialize_config_module  # noqa: PLC0415

    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


def _composed(values: Mapping[str, Any]) -> tuple[Any, list[Finding]]:
    """The configuration without the keys that cannot be composed, and those."""
    from hydra.errors import HydraException  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    try:
        return _compose(as_overrides(values)), []
    except (HydraException, OmegaConfBaseException):
        pass
    good: dict[str, Any] = {}
    found = []
    for key, value in values.items():
        try:
            _compose(as_overrides({key: value}))
        except (HydraException, OmegaConfBaseException) as error:
            found.append(Finding(key, " ".join(str(error).split())[:200]))
        else:
            good[key] = value
    return _compose(as_overrides(good)), found


def _added(values: Mapping[str, Any]) -> list[Finding]:
    """A key that is added with + must be one that something reads."""
    return [
        Finding(key, "is added to verl's configuration, where nothing reads it")
        for key in values
        if key.startswith("+") and not key[1:].startswith((SECTION + ".", *PASSED_ON))
    ]


def _traps(values: Mapping[str, Any]) -> list[Finding]:
    return [
        Finding(key, f"= {values[key]!r} {advice}")
        for key, harmless, advice in TRAPS
        if key in values and values[key] not in harmless
    ]


@cache
def _words_of_verl() -> frozenset[str]:
    """Every attribute, keyword, argument and string that is a word, in verl's Python source."""
    spec = find_spec("verl")
    assert spec is not None
    assert spec.origin is not None
    words: set[str] = set()
    for path in Path(spec.origin).parent.rglob("*.py"):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                words.add(node.attr)
            elif isinstance(node, ast.keyword | ast.arg):
                words.add(node.arg or "")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.update(re.findall(r"\w+", node.value) if len(node.value) < 80 else ())
    return frozenset(words)


def _unread(values: Mapping[str, Any]) -> list[Finding]:
    """Keys whose name occurs nowhere in verl's code: set, and silently ignored."""
    words = _words_of_verl()
    return [
        Finding(key, "is never read by the installed verl")
        for key in values
        if not key.startswith("+") and key.rpartition(".")[2] not in words
    ]


def _types(values: Mapping[str, Any]) -> list[Finding]:
    """Values of another kind than verl's default, which nothing converts."""
    from omegaconf import OmegaConf  # noqa: PLC0415

    base = _compose([])
    kinds = {bool: (bool,), int: (int, float), float: (int, float)}
    found = []
    for key, value in values.items():
        default = None if key.startswith("+") else OmegaConf.select(base, key, default=None)
        allowed = kinds.get(type(default))
        if allowed and (type(value) not in allowed):
            found.append(Finding(key, f"= {value!r} must be of the kind of verl's {default!r}"))
    return found


def _sizes(values: Mapping[str, Any]) -> list[Finding]:
    """Mini-batches must divide the rollout: else verl drops what is left over."""
    batch = values.get("data.train_batch_size")
    key = "actor_rollout_ref.actor.ppo_mini_batch_size"
    part = values.get(key)
    if isinstance(batch, int) and isinstance(part, int) and (part < 1 or batch % part):
        return [Finding(key, f"= {part} does not divide data.train_batch_size = {batch}")]
    return []


def _dataclasses(config: Any) -> list[Finding]:
    """Verl's own types of the parts that have one."""
    from verl.utils.config import omega_conf_to_dataclass  # noqa: PLC0415

    found = []
    for key in ("actor_rollout_ref.actor", "actor_rollout_ref.rollout", "algorithm"):
        part: Any = config
        for name in key.split("."):
            part = part[name]
        try:
            omega_conf_to_dataclass(part)
        except Exception as error:  # whatever verl's classes raise is a finding
            found.append(
                Finding(key, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            )
    return found


def _plugin(config: Any) -> list[Finding]:
    """The checks that the plug-in makes before a worker starts."""
    from erc_bench.adapters.verl.settings import NAME, Settings  # noqa: PLC0415

    if config.trainer.v1.trainer_mode != NAME:
        mode = config.trainer.v1.trainer_mode
        return [
            Finding(
                "trainer.v1.trainer_mode", f"is {mode!r}, must be {NAME}: else verl's own loss runs"
            )
        ]
    try:
        Settings.from_config(config)
    except InputError as error:
        key, _, problem = str(error).partition(":")
        return [Finding(key, problem.strip())]
    return []


def _verls_own(config: Any) -> list[Finding]:
    """``verl.utils.config.validate_config``, as its trainer calls it."""
    import contextlib  # noqa: PLC0415
    import io  # noqa: PLC0415

    from verl.utils.config import validate_config  # noqa: PLC0415

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            validate_config(config, use_reference_policy=False, use_critic=False)
    except Exception as error:  # asserts and ValueErrors of verl alike
        return [Finding("verl", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")]
    return []


def validate_trl(run: Mapping[str, Any], grpo: Mapping[str, Any]) -> list[Finding]:
    """The single-GPU run against the installed TRL's ``GRPOConfig`` and our objectives.

    Raises:
        InputError: TRL is not installed.
    """
    if find_spec("trl") is None:
        raise InputError("validate: needs TRL: pip install 'erc-bench[llm]'")
    from trl import GRPOConfig  # noqa: PLC0415

    from erc_bench.adapters.trl import require_settings  # noqa: PLC0415
    from erc_bench.objectives import make  # noqa: PLC0415

    known = {f.name: f.default for f in fields(GRPOConfig)}
    found = [Finding(key, "is no field of trl.GRPOConfig") for key in grpo if key not in known]
    allowed = ("model", "objective", "parameters", "positive_nll")
    found += [
        Finding(f"run.{key}", f"unknown (allowed: {', '.join(allowed)})")
        for key in run
        if key not in allowed
    ]
    usable = {key: value for key, value in grpo.items() if key in known}
    try:
        objective = make(run["objective"], **run.get("parameters", {}))
        # Precision and the inference engine are checked by TRL where the GPU is.
        here = usable | {"bf16": False, "use_vllm": False, "use_cpu": True}
        require_settings(GRPOConfig(output_dir="unused", **here), objective, run["objective"])
    except KeyError:
        found.append(Finding("run.objective", "not given"))
    except (ValueError, TypeError) as error:
        key, _, problem = " ".join(str(error).split()).partition(":")
        found.append(Finding(key, problem.strip()))
    return found
