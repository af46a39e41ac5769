"""The paper's configurations: valid for the installed verl and TRL, and every planted fault is named."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from erc_bench.core.errors import InputError
from paper_repro.configuration import MODELS, OBJECTIVES, as_overrides, compose, trl_settings
from paper_repro.planning import PARAMETERS, Cost, commands, cost, write_plan
from paper_repro.validating import validate_trl, validate_verl

verl = pytest.mark.skipif(find_spec("verl") is None, reason="verl is not installed: docs/verl.md")
trl = pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed: .[llm]")
pytestmark = pytest.mark.filterwarnings("ignore")  # of verl and what it imports
ACTOR = "actor_rollout_ref.actor"


@verl
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("model", MODELS)
def test_every_run_is_valid(model, objective):
    for nll in (True, False):
        assert validate_verl(compose(model, objective, positive_nll=nll)) == []


@verl
@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("data.train_batchsize", 128, "did you mean data.train_batch_size?"),
        ("+data.train_batch_size", 128, "leave out the +"),
        ("reward_model.reward_manager", "dapo", "an old section"),
        ("custom_reward_function.path", "x.py", "use reward.custom_reward_function"),
        ("actor_rollout_ref.nccl_timeout", 1200, "never read"),
        ("data.return_raw_input_ids", True, "never read"),
        ("+reward.reward_kwargs.overlong_buffer_cfg.length", 4096, "nothing reads it"),
        ("+reward.reward_kwargs.overlong_buffer_cfg.len", 4096, "has no effect without .enable"),
        ("+actor_rollout_ref.rollout.val_kwargs.max_response_len", 32768, "nothing reads it"),
        (f"{ACTOR}.tau_pos", 2.0, "the objective under"),
        (f"{ACTOR}.policy_loss.kl_cov_ratio", 0.1, "the objective under"),
        (f"{ACTOR}.kl_loss_coef", 0.1, "without actor_rollout_ref.actor.use_kl_loss"),
        (f"{ACTOR}.ppo_micro_batch_size_per_gpu", 4, "use ppo_max_token_len_per_gpu"),
        (f"{ACTOR}.optim.lr_warmup_steps_ratio", 0.1, "where"),
        ("actor_rollout_ref.ref.log_prob_max_token_len_per_gpu", 1, "needs the reference"),
        ("critic.optim.lr", 1e-3, "needs no critic"),
        ("algorithm.gamma", 0.9, "relative to a group"),
        ("algorithm.kl_ctrl.kl_coef", 0.1, "use_kl_in_reward"),
        ("trainer.v1.separate_async.parameter_sync_step", 2, "another trainer_mode"),
        ("trainer.resume_from_path", "x", "resume_mode=resume_path"),
        ("trainer.use_v1", False, "must be true"),
        ("actor_rollout_ref.rollout.log_prob_use_dynamic_bsz", False, "must equal"),
        (f"{ACTOR}.ulysses_sequence_parallel_size", 8, "overrules"),
        ("algorithm.filter_groups.max_num_gen_batches", 1, "use algorithm.filter_groups.max_in"),
        ("data.gen_batch_size", 256, "is set to 1"),
        (f"{ACTOR}.optim.lr", "fast", "must be of the kind"),
        (f"{ACTOR}.calculate_entropy", False, "must be True"),
        (f"{ACTOR}.policy_loss.loss_mode", "vanilla", "must be erc_bench"),
        ("trainer.v1.trainer_mode", "sync", "else verl's own loss runs"),
        ("+data.shuffling", True, "nothing reads it"),
        (f"{ACTOR}.ppo_mini_batch_size", 48, "does not divide"),
        (f"{ACTOR}.clip_ratio_high", 0.4, "decides"),
        ("+trainer.v1.erc_bench.bandlow", 0.1, "unknown key"),
        ("+trainer.v1.erc_bench.parameters.band", 0.1, "no parameter 'band'"),
    ],
)
def test_planted_faults_are_named(key, value, problem):
    """By the key, in words that say what to do."""
    found = validate_verl(compose() | {key: value})
    assert any(problem in one.problem for one in found), found
    assert any(
        key.removeprefix("+").rpartition(".")[0] in one.key
        or one.key == "trainer.v1.erc_bench.objective"
        for one in found
    )


def test_validation_says_what_to_install(monkeypatch):
    monkeypatch.setattr("paper_repro.validating.find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install --no-deps verl"):
        validate_verl(compose())
    with pytest.raises(InputError, match=r"erc-bench\[llm\]"):
        validate_trl(*trl_settings())


@trl
def test_single_gpu_run_is_valid():
    assert validate_trl(*trl_settings()) == []


@trl
@pytest.mark.parametrize(
    ("run", "grpo", "problem"),
    [
        ({}, {"num_generation": 8}, "is no field"),
        ({"objectiv": "dapo"}, {}, "unknown"),
        ({"objective": "erc-dapoo"}, {}, "did you mean"),
        ({}, {"epsilon": 0.3}, "has no effect"),
        ({}, {"gradient_accumulation_steps": 3}, "must be"),
    ],
)
def test_single_gpu_faults_are_named(run, grpo, problem):
    base_run, base_grpo = trl_settings()
    found = validate_trl(base_run | run, base_grpo | grpo)
    assert any(problem in one.problem for one in found), found


def test_hyperparameters_are_the_releases():
    """The numbers of its scripts: 8 updates a rollout, clip and band, both sizes alike but for memory."""
    values = compose("1.5b", "erc-dapo")
    updates = values["data.train_batch_size"] / values[f"{ACTOR}.ppo_mini_batch_size"]
    assert updates == 8
    assert values[f"{ACTOR}.optim.lr"] == 1e-6
    section = "+trainer.v1.erc_bench"
    assert values[f"{section}.parameters.clip_high"] == 0.28
    assert values[f"{section}.parameters.band_low"] == 0.05
    assert compose("1.5b", "erc-gppo")[f"{section}.parameters.clip_high"] == 0.2
    assert values[f"{section}.positive_nll"] == 0.1
    assert values[f"{section}.dual_clip"] == 10
    other = compose("7b", "erc-dapo")
    differing = {key for key in values if values[key] != other[key]}
    assert differing == {
        "actor_rollout_ref.model.path",
        "actor_rollout_ref.rollout.gpu_memory_utilization",
        "trainer.experiment_name",
    }


@pytest.mark.parametrize(("model", "objective"), [("3b", "dapo"), ("7b", "ppo")])
def test_unknown_runs_are_refused(model, objective):
    with pytest.raises(InputError, match=r"is unknown.* \(known: "):
        compose(model, objective)


def test_estimate_is_its_formula():
    """Worked by hand: generation 1e6 tokens on one GPU at 1000 a second; training 10 N per token."""
    assumed = Cost(
        steps=1,
        prompts=100,
        responses=10,
        tokens=1000.0,
        gpus=1,
        peak=1e15,
        utilisation=0.5,
        decoding=1000.0,
    )
    generation, training = assumed.hours(PARAMETERS["1.5b"])
    assert generation == pytest.approx(1e6 / 1000 / 3600)
    assert training == pytest.approx(5e5 * 10 * 1.54e9 / 5e14 / 3600)
    assert "estimate, not measured" in cost("7b", assumed)
    with pytest.raises(InputError, match="gpus: 0"):
        Cost(gpus=0)


def test_plan_is_a_script_of_all_overrides(tmp_path):
    path = write_plan(tmp_path, "7b", "gppo", positive_nll=False, assumed=Cost())
    text = path.read_text()
    for override in as_overrides(compose("7b", "gppo", positive_nll=False)):
        assert override in text.replace("'", "")
    assert path.name == "7b-gppo-without-nll.sh"


def test_the_plan_can_be_followed(tmp_path):
    """Each of its commands of ours is parsed by the program it names; test sets come before training's."""
    import shlex

    import tyro

    from paper_repro import evaluation, single_gpu
    from paper_repro.commands import Compare, Validate
    from paper_repro.data import Prepare

    parsers = {
        "paper_repro.data": Prepare,
        "paper_repro.single_gpu": single_gpu.Train,
        "validate": Validate,
        "compare": Compare,
        "generate": evaluation.Generate,
        "score": evaluation.Score,
    }
    for engine in ("verl", "trl"):
        seen = []
        for text in commands("1.5b", "erc-dapo", positive_nll=False, engine=engine):
            words = shlex.split(text.splitlines()[-1], comments=True)
            for place, word in enumerate(words[:4]):
                if word in parsers:
                    found = tyro.cli(
                        parsers[word],
                        args=words[place + 1 :],
                        config=(tyro.conf.OmitArgPrefixes,),
                    )
                    seen.append(found)
        kinds = [type(one).__name__ for one in seen]
        assert kinds.count("Prepare") == 2
        assert [one.kind for one in seen[:2]] == ["test", "train"]
        assert kinds[-1] == "Compare"
        assert seen[-1].baseline == Path(str(seen[-1].evaluation).replace("erc-dapo", "dapo"))
        assert ("Train" in kinds) == (engine == "trl")


def test_verl_finds_the_reward():
    """verl's own loader takes the plan's path."""
    loading = pytest.importorskip("verl.utils.import_utils", reason="verl is not installed")
    from paper_repro.planning import REWARD
    from paper_repro.reward import compute_score

    assert loading.load_extern_object(REWARD, "compute_score") is compute_score


@verl
def test_the_releases_own_overrides_are_found_wanting():
    """Its script's keys, typed into verl 0.9.1 as they are: each of the traps is named, at once."""
    script = {
        "data.gen_batch_size": 256,
        "algorithm.filter_groups.max_num_gen_batches": 1,
        "algorithm.kl_ctrl.kl_coef": 0.0,
        "reward_model.reward_manager": "dapo",
        "reward_model.overlong_buffer.enable": False,
        f"{ACTOR}.postive_loss_coeff": 0.1,
        f"{ACTOR}.entropy_mask_low": 0.95,
        "+actor_rollout_ref.rollout.val_kwargs.max_response_len": 32768,
        "actor_rollout_ref.ref.ulysses_sequence_parallel_size": 4,
    }
    assert {one.key for one in validate_verl(compose() | script)} >= set(script)


@verl
def test_every_rule_is_about_keys_that_verl_has():
    """A rule about a name that verl does not know would never be of use, nor noticed."""
    from omegaconf import OmegaConf

    from paper_repro.inert import RULES
    from paper_repro.validating import READ_IF_ADDED, _compose

    base = _compose([])
    for key in (key.rstrip(".") for rule in RULES for key in rule.keys):
        known = OmegaConf.select(base, key, default="absent") != "absent"
        assert known or any(name.startswith(key) for name in READ_IF_ADDED), key


@verl
def test_names_are_read_only_where_code_reads_them():
    """Declared in a dataclass and named in docstrings, read nowhere: not read."""
    from paper_repro.verl_source import names_read

    assert {"ppo_mini_batch_size", "calculate_entropy", "max_inflight_gen_batches"} <= names_read()
    assert not {"nccl_timeout", "over_sample_rate", "freeze_vision_tower"} & names_read()
