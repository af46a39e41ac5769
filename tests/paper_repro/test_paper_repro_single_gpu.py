"""The single-GPU run, from its command line to its evaluation's log, with a tiny model on the CPU."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from erc_bench.adapters.logs import read_log
from erc_bench.core.errors import InputError
from paper_repro import single_gpu
from paper_repro.configuration import compose, trl_settings
from paper_repro.data import Problem, prepare, write

pytestmark = [
    pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed: .[llm]"),
    pytest.mark.filterwarnings("ignore"),  # of TRL and what it imports
]
CPU = {
    "bf16": False,
    "use_vllm": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "max_completion_length": 4,
    "max_steps": 8,
    "save_steps": 100,
    "disable_tqdm": True,
}


@pytest.fixture
def data(tmp_path):
    kept, _ = prepare([Problem(f"w{i}", "1") for i in range(16)], "tiny")
    write(kept, tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


def test_it_trains_and_logs_what_compare_reads(data, tmp_path):
    from adapters.tiny_trl import make_model

    model, tokenizer = make_model()
    tokenizer.chat_template = "{% for m in messages %}w2 w3{% endfor %}"
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    sets = [f"--set={key}={str(value).lower()}" for key, value in CPU.items()]
    single_gpu.main(
        [
            str(data),
            "--model",
            str(tmp_path / "model"),
            "--out",
            str(tmp_path / "run"),
            "--objective",
            "erc-gppo",
            *sets,
        ]
    )
    log = read_log(tmp_path / "run" / "final" / "trainer_state.json").metrics
    assert log["staleness"].tolist() == list(range(8))
    assert log["gate/dropped_fraction"].notna().all()
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def test_arms_have_the_parameters_of_verls():
    """The same clip and band on both trainers, for every arm."""
    run, _ = trl_settings()
    assert run["parameters"] == single_gpu.arm_parameters(run["objective"])
    assert single_gpu.arm_parameters("gppo") == {"clip_low": 0.2, "clip_high": 0.2}
    assert run["positive_nll"] == compose()["+trainer.v1.erc_bench.positive_nll"]


@pytest.mark.parametrize(
    ("run", "grpo", "message"),
    [
        ({"objective": "erc-dapoo"}, {}, "did you mean erc-dapo"),
        ({}, {"epsilon": 0.3}, "has no effect"),
    ],
)
def test_what_validate_names_is_refused(data, tmp_path, run, grpo, message):
    base_run, base_grpo = trl_settings()
    with pytest.raises(InputError, match=message):
        single_gpu.train(data, tmp_path / "out", base_run | run, base_grpo | grpo)


def test_results_are_not_written_over(data, tmp_path):
    with pytest.raises(InputError, match="is not empty"):
        single_gpu.train(data, tmp_path, *trl_settings())
