"""Whether a configuration is what the installed verl or TRL will run: nothing unknown, nothing ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.util import find_spec
from typing import Any

from erc_bench.core.errors import InputError
from erc_bench.core.validation import checked, nearest
from paper_repro.configuration import SingleGPU, as_overrides
from paper_repro.inert import ACTOR, inert
from paper_repro.verl_source import PASSED_WHOLE, names_read

__all__ = ["Finding", "validate_trl", "validate_verl"]

SECTION = "trainer.v1.erc_bench"
#: Keys that verl's own configuration lacks and its code reads all the same (reward_manager/dapo.py).
READ_IF_ADDED = {"reward.reward_kwargs.max_resp_len"} | {
    f"reward.reward_kwargs.overlong_buffer_cfg.{name}"
    for name in ("enable", "len", "penalty_factor", "log")
}


@dataclass(frozen=True)
class Finding:
    """A key, and what is wrong with it."""

    key: str
    problem: str


def validate_verl(values: Mapping[str, Any]) -> list[Finding]:
    """Compose verl's real configuration with these overrides, and list what is wrong with it.

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
    found += _added(values) + _unread(values) + _types(values) + _sizes(values)
    found += _inert(values, config) + _contradictions(config)
    found += _dataclasses(config) + _plugin(config) + _verls_own(config)
    return list(dict.fromkeys(found))


def _compose(overrides: Sequence[str]) -> Any:
    from hydra import compose, initialize_config_module  # noqa: PLC0415

    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


@cache
def _base() -> Any:
    """Verl's own configuration."""
    return _compose([])


@cache
def _known_keys() -> frozenset[str]:
    """Every key of it, sections included."""
    from omegaconf import OmegaConf  # noqa: PLC0415

    def keys(section: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in section.items():
            yield prefix + str(name)
            if isinstance(value, dict):
                yield from keys(value, f"{prefix}{name}.")

    return frozenset(keys(OmegaConf.to_container(_base(), resolve=False)))


def _composed(values: Mapping[str, Any]) -> tuple[Any, list[Finding]]:
    """The configuration without the keys that cannot be composed, and those."""
    from hydra.errors import HydraException  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    found = [Finding(key, why) for key in values if (why := _misspelt(key)) is not None]
    bad = {one.key for one in found}
    good = {key: value for key, value in values.items() if key not in bad}
    try:
        return _compose(as_overrides(good)), found
    except (HydraException, OmegaConfBaseException):
        pass
    composed: dict[str, Any] = {}
    for key, value in good.items():
        try:
            _compose(as_overrides({key: value}))
        except (HydraException, OmegaConfBaseException) as error:
            found.append(Finding(key, " ".join(str(error).split())[:200]))
        else:
            composed[key] = value
    return _compose(as_overrides(composed)), found


def _misspelt(key: str) -> str | None:
    """What Hydra will refuse a key for."""
    name = key.lstrip("+")
    if key.startswith("+") and name in _known_keys():
        return "verl has this key already; leave out the +"
    if key.startswith("+") or name in _known_keys():
        return None
    return f"Could not override: verl's configuration has no such key{nearest(name, _known_keys())}"


def _added(values: Mapping[str, Any]) -> list[Finding]:
    """A key that is added with + must be one that something reads."""
    return [
        Finding(key, "is added to verl's configuration, where nothing reads it")
        for key in values
        if key.startswith("+")
        and not key[1:].startswith(SECTION + ".")
        and key[1:] not in READ_IF_ADDED
    ]


def _inert(values: Mapping[str, Any], config: Any) -> list[Finding]:
    """Keys that do nothing in this configuration; one at verl's default is harmless."""
    base = _base()
    found = []
    for key, value in values.items():
        name = key.lstrip("+")
        why = inert(name, lambda other: _at(config, other))
        if why is not None and (key.startswith("+") or value != _at(base, name)):
            found.append(Finding(key, f"= {value!r} {why}"))
    return found


def _at(config: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    from omegaconf import OmegaConf  # noqa: PLC0415
    from omegaconf.errors import OmegaConfBaseException  # noqa: PLC0415

    try:
        return OmegaConf.select(config, key, default=None)
    except OmegaConfBaseException:  # a value that is to be filled in, ???
        return None


def _contradictions(config: Any) -> list[Finding]:
    """What stops verl only when its workers are up, or makes it train something else."""
    found = []
    if not _at(config, "trainer.use_v1"):
        problem = "must be true: the old trainer does not read trainer_mode"
        found.append(Finding("trainer.use_v1", problem))
    rollout = "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz"
    actor = f"{ACTOR}.use_dynamic_bsz"
    if bool(_at(config, rollout)) != bool(_at(config, actor)):
        found.append(Finding(rollout, f"must equal {actor} (verl's workers assert it)"))
    old = f"{ACTOR}.ulysses_sequence_parallel_size"
    new = f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size"
    if (_at(config, old) or 1) > 1 and _at(config, old) != _at(config, new):
        found.append(Finding(old, f"= {_at(config, old)} overrules {new} = {_at(config, new)}"))
    return found


def _unread(values: Mapping[str, Any]) -> list[Finding]:
    """Keys whose name verl's code reads nowhere: set, and silently ignored."""
    return [
        Finding(key, "is never read by the installed verl")
        for key in values
        if not key.startswith(("+", *PASSED_WHOLE)) and key.rpartition(".")[2] not in names_read()
    ]


def _types(values: Mapping[str, Any]) -> list[Finding]:
    """Values of another kind than verl's default, which nothing converts."""
    kinds = {bool: (bool,), int: (int, float), float: (int, float)}
    found = []
    for key, value in values.items():
        default = None if key.startswith("+") else _at(_base(), key)
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
    for key in (ACTOR, "actor_rollout_ref.rollout", "algorithm"):
        try:
            omega_conf_to_dataclass(_at(config, key))
        except Exception as error:  # whatever verl's classes raise is a finding
            found.append(Finding(key, _told(error)))
    return found


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _plugin(config: Any) -> list[Finding]:
    """The checks that the plug-in makes before a worker starts."""
    from erc_bench.adapters.verl.settings import NAME, Settings  # noqa: PLC0415

    if config.trainer.v1.trainer_mode != NAME:
        mode = config.trainer.v1.trainer_mode
        problem = f"is {mode!r}, must be {NAME}: else verl's own loss runs"
        return [Finding("trainer.v1.trainer_mode", problem)]
    try:
        Settings.from_config(config)
    except InputError as error:
        return [_finding(error)]
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
        return [Finding("verl", _told(error))]
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

    known = {f.name for f in fields(GRPOConfig)}
    found = [Finding(key, "is no field of trl.GRPOConfig") for key in grpo if key not in known]
    usable = {key: value for key, value in grpo.items() if key in known}
    try:
        chosen: SingleGPU = checked(SingleGPU, run, at="run.")
        # Precision and the inference engine are checked by TRL where the GPU is.
        here = usable | {"bf16": False, "use_vllm": False, "use_cpu": True}
        require_settings(GRPOConfig(output_dir="unused", **here), chosen.built, chosen.objective)
    except (ValueError, TypeError) as error:
        found.append(_finding(error))
    return found


def _finding(error: Exception) -> Finding:
    """A message ``key: problem`` as a finding."""
    key, _, problem = " ".join(str(error).split()).partition(":")
    return Finding(key, problem.strip())
