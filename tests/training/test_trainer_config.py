import dataclasses
import math

import numpy as np
import pytest
from trainer_runs import TINY, StopToken, arm, forks, trainer

from erc_bench.training import TrainConfig

#: field -> (changed value, other settings under which it matters)
PERTURBED = {
    "rollouts": (2, {}),
    "prompts": (2, {}),
    "group_size": (3, {}),
    "minibatches": (4, {}),
    "minibatches_of": ("responses", {}),
    "epochs": (2, {}),
    "learning_rate": (1e-3, {}),
    "warmup_updates": (2, {}),
    "max_grad_norm": (1e-3, {}),
    "weight_decay": (0.1, {}),
    "temperature": (0.8, {}),
    "gae_lambda": (0.5, {}),
    "rollout_bits": (5, {"old_policy": "rollout"}),
    "rollout_jitter": (0.1, {}),
    "rollout_weight_bits": (5, {"old_policy": "rollout"}),
    "rollout_lag": (1, {}),
    "false_positives": (0.5, {}),
    "false_negatives": (0.5, {}),
    "old_policy": ("rollout", {"rollout_jitter": 0.1}),
    "generation_rounds": (1, {}),
    "overlong_cache": (2, {}),
    "warm_start_steps": (3, {}),
    "warm_start_learning_rate": (1e-2, {}),
    "evaluation_episodes": (8, {}),
    "evaluation_answers": (4, {}),
    "token_samples": (1, {}),
    "violation_delta": (1e-9, {}),
    "policy": ("tabular", {}),
    "hidden": (8, {}),
    "dtype": ("float32", {}),
    "engine": ("torch", {"dtype": "float32"}),
}


@pytest.fixture(scope="module")
def records():
    """A small run's records for given settings: a value head, dynamic sampling, early endings."""
    known = {}

    def make(**settings):
        key = tuple(sorted(settings.items()))
        if key not in known:
            arms = [arm("ppo-clip"), arm("dapo"), arm("erc-dapo")]
            result = trainer(arms, StopToken(), **settings).run()
            known[key] = {**result.metrics, **result.tokens, **result.runs}
        return known[key]

    return make


@pytest.mark.parametrize("field", TrainConfig.names())
def test_every_setting_changes_the_records(records, field):
    """A setting that reaches nothing is a lie; each one, perturbed alone, changes something recorded."""
    assert PERTURBED.keys() == set(TrainConfig.names())
    value, where = PERTURBED[field]
    base = {"overlong_cache": 4, **where}
    assert {**TrainConfig().flat(), **TINY, **base}[field] != value
    before, after = records(**base), records(**{**base, field: value})
    same = [
        n
        for n in before
        if n in after
        and before[n].dtype == after[n].dtype
        and np.array_equal(before[n], after[n], equal_nan=True)
    ]
    assert len(same) < len(before)


def test_the_same_settings_give_the_same_records(records):
    """The counterpart: what changed above was changed by the setting."""
    arms = [arm("ppo-clip"), arm("dapo"), arm("erc-dapo")]
    again = trainer(arms, StopToken(), overlong_cache=4).run()
    for name, value in records(overlong_cache=4).items():
        np.testing.assert_array_equal(
            value, {**again.metrics, **again.tokens, **again.runs}[name], err_msg=name
        )


def test_the_trainers_seed_changes_the_records():
    """The root of all randomness is one."""
    a = trainer([arm("grpo")], forks(), seed=1).run()
    b = trainer([arm("grpo")], forks(), seed=2).run()
    assert not np.array_equal(a.runs["entropy/initial"], b.runs["entropy/initial"])
    assert not np.array_equal(a.tokens["action"], b.tokens["action"])


COUNTS = (
    "rollouts",
    "prompts",
    "group_size",
    "minibatches",
    "epochs",
    "generation_rounds",
    "overlong_cache",
    "evaluation_episodes",
    "evaluation_answers",
    "rollout_bits",
    "rollout_weight_bits",
    "hidden",
)
SIZES = ("warm_start_steps", "token_samples", "rollout_lag", "warmup_updates")
FRACTIONS = ("gae_lambda", "false_positives", "false_negatives")
BAD = [
    *((name, value) for name in COUNTS for value in (0, -1, 2.5, math.nan, "3", True, None)),
    *((name, value) for name in SIZES for value in (-1, 0.5, "1")),
    *(
        (name, value)
        for name in ("warm_start_learning_rate", "temperature", "violation_delta")
        for value in (0.0, -1e-3, math.nan, math.inf, "1e-3", None)
    ),
    *(
        (name, v)
        for name in ("learning_rate", "weight_decay", "rollout_jitter")
        for v in (-0.1, math.nan, math.inf, "0", None)
    ),
    *(("old_policy", v) for v in ("engine", None, 1)),
    ("evaluation_answers", 3),
    *(("max_grad_norm", v) for v in (0.0, -1.0, math.nan, "1")),
    *((name, v) for name in FRACTIONS for v in (-0.1, 1.1, math.nan, math.inf, "1")),
    ("minibatches_of", "tokens"),
    ("policy", "rnn"),
    ("policy", 3),
    ("dtype", "float16"),
    ("dtype", None),
    ("engine", "jax"),
    ("minibatches", 3),
    ("minibatches", 64),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_a_bad_value_is_named_with_its_field(field, value):
    """One line: field, value, what is allowed."""
    with pytest.raises(ValueError, match=f"^{field}: ") as caught:
        TrainConfig(**{field: value})
    message = str(caught.value)
    assert repr(value) in message
    assert "must be" in message
    assert "\n" not in message


def test_every_setting_has_a_bad_value_here():
    """The list above grows with the fields."""
    assert {name for name, _ in BAD} == set(TrainConfig.names())


def test_limits_are_allowed():
    """Values at the edge of their range are not refused."""
    TrainConfig(
        max_grad_norm=math.inf,
        gae_lambda=0,
        weight_decay=0,
        warm_start_steps=0,
        token_samples=0,
        prompts=6,
        minibatches=6,
        learning_rate=0,
        evaluation_answers=1024,
        rollout_bits=1,
    )
    assert TrainConfig(minibatches=4, epochs=3).updates_per_rollout == 12


def test_the_settings_are_few_and_all_documented():
    """A configuration one can read: two dozen fields at most, some of them small groups."""
    assert len(dataclasses.fields(TrainConfig)) <= 24
    assert all("Doc(" in str(f.type) for f in TrainConfig.settings().values())


@pytest.mark.parametrize("name", TrainConfig.names())
def test_a_flat_name_is_enough_to_write_and_to_read_a_setting(name):
    """Nested or not: as a keyword, in ``replace``, as an attribute and in ``flat``."""
    value, _ = PERTURBED[name]
    base = TrainConfig(**TINY)
    config = TrainConfig(**{**TINY, name: value})
    assert dataclasses.replace(base, **{name: value}) == config != base
    assert getattr(config, name) == config.flat()[name] == value
    assert TrainConfig(**config.flat()) == config
    assert {**base.flat(), name: value} == config.flat()


def test_a_misspelt_setting_is_named():
    """As a dataclass would: TypeError for a keyword, AttributeError for an attribute."""
    with pytest.raises(TypeError, match="no setting 'rolouts'; known: rollouts, "):
        TrainConfig(rolouts=3)
    with pytest.raises(AttributeError, match="no setting 'rolouts'"):
        _ = TrainConfig().rolouts
    with pytest.raises(ValueError, match=r"^settings: 'hidden' is unknown"):
        arm("grpo", settings={"hidden": 3})
