import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from erc_bench.core.errors import InputError
from erc_bench.studies import EXPERIMENTS, Experiment, execute, plan, register, setting
from erc_bench.studies.scores import entropy_kept, gap_closed
from erc_bench.training import TrainConfig
from erc_envs.token_forks import TokenForks


def test_parts_cover_the_runs_once_in_order():
    """Any number of runs is cut into contiguous chunks, seed after seed; nothing is lost or done twice."""
    for seeds in (1, 2, 3, 7, 20, 64, 129):
        (only,) = plan(["forking_tokens"], seeds=seeds).experiments
        covered = [run for part in only.parts for run in part.runs]
        arms = range(len(only.arms))
        assert covered == [(arm, seed) for seed in range(seeds) for arm in arms]
        names = [part.name for part in only.parts]
        assert names == sorted(set(names))
        assert all(only.cost(part) > 0 for part in only.parts)


def test_settings_tier_and_seeds_reach_the_plan():
    """Settings that are asked for override those of the tier."""
    work = plan(
        ["forking_tokens"], tier="smoke", seed=5, seeds=4, settings={"rollouts": 2, "hidden": 8}
    )
    (only,) = work.experiments
    assert (only.config.rollouts, only.config.hidden, only.seeds, work.seed) == (2, 8, 4, 5)
    assert only.config.warm_start_steps == 200
    assert plan(["forking_tokens"], tier="full").experiments[0].seeds == 30


def test_a_band_reaches_every_arm_that_has_one_and_no_other():
    """``band`` sets the gate of every arm that has one, unless the arm names its own band."""
    arms = ["dapo", "erc-dapo", "erc-gppo:clip_low=0.1", "erc-dapo:band_low=0.3"]
    (only,) = plan(["forking_tokens"], objectives=arms, band=0.1).experiments
    bands = [
        (a.objective.gates[0].low, a.objective.gates[0].high) if a.objective.gates else None
        for a in only.arms
    ]
    assert bands == [None, (0.1, 0.1), (0.1, 0.1), (0.3, 0.05)]
    assert [a.label for a in only.arms] == arms
    assert only.arms[2].overrides == {"clip_low": 0.1, "band_low": 0.1, "band_high": 0.1}


def test_all_spellings_of_a_band_are_one_request(tmp_path):
    """All give the same gate and measurements. An arm without a gate is measured by the paper's band."""
    spellings = [
        {"objectives": ["dapo", "erc-dapo"], "band": 0.001},
        {"objectives": ["dapo", "erc-dapo"], "grid": {"band": [0.001]}},
        {"objectives": ["dapo", "erc-dapo:band=0.001"]},
        {"objectives": ["dapo", "erc-dapo:band_low=0.001,band_high=0.001"]},
    ]
    small = {
        "rollouts": 2,
        "prompts": 8,
        "warm_start_steps": 20,
        "evaluation_episodes": 32,
        "learning_rate": 1e-2,
    }
    found = []
    for number, asked in enumerate(spellings):
        work = plan(["unsampled_shift"], settings=small, seeds=1, **asked)
        (only,) = work.experiments
        assert [arm.objective.band for arm in only.arms] == [None, (0.001, 0.001)]
        assert only.band == (0.001, 0.001)
        rows = execute(work, tmp_path / str(number)).read("metrics")
        found.append([arm for _, arm in rows.groupby("objective", sort=False)])
    own, paper = "drift/out_of_band_fraction", "drift/out_of_paper_band_fraction"
    base, gated = found[0]
    assert (base[own] == base[paper]).all()
    assert (gated[own] == gated["gate/dropped_fraction"]).all()
    assert (gated[own] > gated[paper]).any()
    for other in found[1:]:
        for arm, first in zip(other, found[0], strict=True):
            pd.testing.assert_frame_equal(
                arm.drop(columns="objective"), first.drop(columns="objective")
            )


def test_an_infinite_band_or_norm_is_written_as_a_word():
    """An infinite band is allowed, and gives the base objective, but JSON has no infinity."""
    work = plan(
        ["forking_tokens"],
        objectives=["erc-dapo"],
        band=math.inf,
        settings={"max_grad_norm": math.inf},
    )
    text = json.dumps(work.config(), allow_nan=False)
    entry = json.loads(text)["experiments"]["forking_tokens"]
    assert entry["band"] == {"low": "inf", "high": "inf"}
    assert entry["train"]["max_grad_norm"] == "inf"
    assert entry["objectives"]["erc-dapo"]["overrides"] == {"band_low": "inf", "band_high": "inf"}


def test_an_environment_alone_is_an_experiment():
    """It is given by its id or its short name, and the experiment is called custom."""
    for name in ("erc/TokenForks-v0", "TokenForks"):
        (only,) = plan([], environment=name).experiments
        assert only.experiment.name == "custom"
        assert only.experiment.environment == "erc/TokenForks-v0"
        assert isinstance(only.environment.get_wrapper_attr("dynamics"), TokenForks)


def test_an_experiment_of_ones_own():
    """An ``Experiment`` object can replace a name, and can have options for its environment."""
    mine = Experiment(
        name="mine",
        question="?",
        environment="erc/TokenForks-v0",
        expectation="none",
        score=gap_closed,
        score_meaning="gap",
        objectives=("dapo",),
        environment_options={"length": 4, "num_forks": 1},
    )
    (only,) = plan([mine], tier="smoke").experiments
    assert only.environment.get_wrapper_attr("dynamics").length == 4
    assert plan([mine]).config()["experiments"]["mine"]["environment_options"]["length"] == 4


def test_names_of_experiments_are_unique():
    """Registering a name twice is a programming error, and raises ValueError."""
    with pytest.raises(ValueError, match="registered twice"):
        register(next(iter(EXPERIMENTS.values())))


BAD = [
    ({"experiments": ["nothing"]}, "experiment: 'nothing' is unknown (known: "),
    ({"experiments": []}, "experiments: none given"),
    ({"experiments": ["forking_tokens"] * 2}, "each may be named once"),
    ({"environment": "TokenForks"}, "environment: give either"),
    (
        {"experiments": [], "environment": "TokenFork"},
        "'TokenFork' is unknown; did you mean TokenForks?",
    ),
    ({"experiments": [], "environment": "CartPole-v1"}, "CartPole-v1 has no `dynamics`"),
    ({"objectives": []}, "objectives: none given"),
    ({"objectives": ["dapo", "dapo"]}, "each may be named once"),
    ({"objectives": ["dappo"]}, "objective: 'dappo' is unknown; did you mean"),
    ({"objectives": ["dapo:band_low=1"]}, "dapo has no parameter 'band_low'"),
    ({"objectives": ["dapo:clip_low"]}, "'clip_low' is not parameter=number"),
    ({"objectives": ["dapo:clip_low=x"]}, "'clip_low=x' is not parameter=number"),
    ({"objectives": ["dapo:clip_low=-1"]}, "-1"),
    ({"objectives": ["erc-dapo:band_low=nan"]}, "nan"),
    ({"seeds": 0}, "seeds: 0 is not allowed"),
    ({"seeds": -3}, "seeds: -3 is not allowed"),
    ({"seed": -1}, "seed: -1 is not allowed"),
    ({"tier": "huge"}, "tier: 'huge' is not allowed; must be 'smoke', 'quick' or 'full'"),
    ({"band": 0.0}, "band: 0.0 is not allowed"),
    ({"band": -1.0}, "band: -1.0 is not allowed"),
    ({"band": math.nan}, "band: nan is not allowed"),
    ({"settings": {"nothing": 1}}, "settings: 'nothing' is unknown (known: rollouts"),
    ({"settings": {"rollouts": "many"}}, "rollouts: 'many' is not allowed"),
    ({"settings": {"minibatches": 7}}, "minibatches: 7 is not allowed"),
    ({"settings": {"group_size": 1}, "objectives": ["grpo"]}, "group_size: 1 is not allowed"),
    ({"settings": {"group_size": 1}, "objectives": ["reinforce"]}, "group_size: 1 is not allowed"),
]


@pytest.mark.parametrize(("asked", "told"), BAD, ids=lambda x: str(x)[:40])
def test_what_cannot_be_done_is_refused_by_name(asked, told):
    """The InputError is one line that names field, value and what is allowed."""
    with pytest.raises(InputError, match=re.escape(told)) as caught:
        plan(**{"experiments": ["forking_tokens"], **asked})
    assert "\n" not in str(caught.value)


def test_a_value_head_needs_no_group():
    """``group_size=1`` is allowed if no estimator compares answers within a group."""
    plan(["forking_tokens"], objectives=["ppo-clip"], settings={"group_size": 1})


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("rollouts=3", 3),
        ("rollouts=1e1", 10),
        ("learning_rate=1e-3", 1e-3),
        ("learning_rate=1", 1.0),
        ("policy=tabular", "tabular"),
        ("max_grad_norm=inf", math.inf),
    ],
)
def test_settings_are_parsed_by_the_fields_type(text, parsed):
    """Integers stay integers, floats become floats, words stay words."""
    name, value = setting(text)
    assert value == parsed
    assert type(value) is type(getattr(TrainConfig(), name))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rollouts",
        "=3",
        "nothing=3",
        "rolouts=3",
        "rollouts=",
        "rollouts=x",
        "rollouts=2.5",
        "rollouts=1e999",
        "rollouts=[1]",
        "rollouts=nan",
        "learning_rate=x",
        "learning_rate=",
        "rollouts=__import__('os')",
    ],
)
def test_a_setting_that_is_none_is_refused(text):
    """The InputError quotes the setting in one line."""
    with pytest.raises(InputError, match=r"^set: ") as caught:
        setting(text)
    assert "\n" not in str(caught.value)
    assert "did you mean rollouts" in str(caught.value) or text != "rolouts=3"


def _runs(**columns):
    return pd.DataFrame({"diverged": [False], **{k: [v] for k, v in columns.items()}})


@pytest.mark.parametrize(
    ("final", "score"), [(0.2, 0.0), (0.6, 0.5), (1.0, 1.0), (0.1, 0.0), (1.2, 1.0)]
)
def test_gap_closed(final, score):
    """The score is 0 at the first policy's return, 1 at the optimum's, linear between, clipped outside."""
    runs = _runs(**{"reward/initial": 0.2, "reward/final": final, "reward/optimal": 1.0})
    assert gap_closed(runs)[0] == pytest.approx(score)


@pytest.mark.parametrize(
    ("final", "score"), [(2.0, 1.0), (1.0, 0.5), (3.0, 0.5), (0.0, 0.0), (5.0, 0.0)]
)
def test_entropy_kept(final, score):
    """The score is 1 if the entropy did not move, and 0 if it vanished or doubled."""
    assert entropy_kept(_runs(**{"entropy/initial": 2.0, "entropy/final": final}))[0] == score


def test_a_diverged_run_scores_zero():
    """NaN results of a diverged run count as failures, not as missing."""
    runs = _runs(
        **{
            "reward/initial": 0.2,
            "reward/final": np.nan,
            "reward/optimal": 1.0,
            "entropy/initial": 2.0,
            "entropy/final": np.nan,
        }
    ).assign(diverged=True)
    assert gap_closed(runs)[0] == 0
    assert entropy_kept(runs)[0] == 0
