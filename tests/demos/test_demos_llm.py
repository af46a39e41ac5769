"""The language-model demo on its tiny model: trains, resumes, draws; its judge and its bad input."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from erc_bench.adapters.demos.llm.task import Addition, final_number
from erc_bench.adapters.demos.llm.training import Settings, newest, seal, train
from erc_bench.cli import main
from erc_bench.core.errors import InputError

llm = pytest.mark.skipif(
    any(find_spec(p) is None for p in ("trl", "math_verify")), reason="TRL and math-verify: .[llm]"
)
SMALL = ["llm", "demo", "--model", "tiny", "--seeds", "2", "--rollouts", "2"]


@llm
@pytest.mark.filterwarnings("ignore")
def test_demo_ends_in_figures_and_goes_on(tmp_path, capsys):
    """One command: records, figures 2 to 4, tables, the noise floor; a second call trains nothing."""
    main([*SMALL, "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "| reward after |" in said
    for name in ("fig2_entropy_gradient", "fig3_learning_curves", "fig4_clip_fractions"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 5000
    assert "float32, bf16 weights" in (tmp_path / "noise.md").read_text()
    log = json.loads((tmp_path / "runs" / "erc-dapo-seed0" / "trainer_state.json").read_text())
    steps = [entry for entry in log["log_history"] if "loss/surrogate" in entry]
    assert [entry["staleness"] for entry in steps] == [*range(8)] * 2
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/evaluation.json")}
    assert len(before) == 4
    with pytest.raises(SystemExit):
        main([*SMALL, "--out", str(tmp_path)])
    assert "add --resume" in capsys.readouterr().err
    main([*SMALL, "--out", str(tmp_path), "--resume"])
    assert {p: p.stat().st_mtime_ns for p in before} == before
    with pytest.raises(SystemExit):
        main([*SMALL[:-1], "3", "--out", str(tmp_path), "--resume"])
    assert "made with rollouts = 2, now 3" in capsys.readouterr().err


def logged(folder):
    """TRL's log without what a clock says; ``train_loss`` is a mean over the steps of one process."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    free = ("step_time", "runtime", "per_second", "train_loss")
    return [{k: v for k, v in entry.items() if not k.endswith(free)} for entry in log]


@llm
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("objective", ["erc-dapo", "grpo"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, objective):
    """Cut off within its third rollout: the same log and the same evaluation as an uninterrupted run's."""
    small = Settings(
        model="tiny",
        rollouts=4,
        prompts=4,
        responses=4,
        updates=2,
        evaluation_samples=1,
        learning_rate=1e-3,
        warmup=3,
    )
    train(small, objective, 0, tmp_path / "whole", lambda _: None)
    done = 0

    def interrupt(steps):
        nonlocal done
        done += steps
        if done == 5:
            raise KeyboardInterrupt

    folder = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train(small, objective, 0, folder, interrupt)
    cut_off = folder / "trl" / "checkpoint-6"
    cut_off.mkdir()  # as kill -9 leaves one
    (cut_off / "model.safetensors").write_bytes(b"half")
    assert newest(folder / "trl") == folder / "trl" / "checkpoint-4"
    assert not cut_off.exists()
    steps = []
    train(small, objective, 0, folder, steps.append)
    assert steps == [4, 1, 1, 1, 1]
    assert logged(folder) == logged(tmp_path / "whole")
    ends = [(f / "evaluation.json").read_text() for f in (folder, tmp_path / "whole")]
    assert ends[0] == ends[1]
    assert {p.name for p in folder.iterdir()} == {"trainer_state.json", "evaluation.json"}


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    """One changed byte, or a file that is gone; the message says which."""
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"state")
        seal(tmp_path / f"checkpoint-{step}")
    last = tmp_path / "checkpoint-4"
    assert newest(tmp_path) == last
    (last / "optimizer.pt").write_bytes(b"stale")
    with pytest.raises(InputError, match=r"checkpoint-4 is damaged \(at optimizer.pt\)"):
        newest(tmp_path)
    (last / "optimizer.pt").unlink()
    with pytest.raises(InputError, match="remove it to go on from one before it"):
        newest(tmp_path)
    (last / "whole.json").unlink()
    assert newest(tmp_path) == tmp_path / "checkpoint-2"
    assert newest(tmp_path / "nothing") is None


@llm
def test_judge_wants_the_answer_and_not_the_question():
    from erc_bench.adapters.demos.llm.task import judge

    assert judge("3 + 4 = 7", 7) == judge("The answer is 7.", 7) == 1
    assert judge("Using the expression 3 + 4", 7) == judge("seven", 7) == judge("", 7) == 0
    assert judge("7.0", 7) == 1


def test_final_number():
    assert final_number("from 3 to -4.5!") == "-4.5"


def test_held_out_sums_are_not_trained_on():
    task = Addition()
    trained, held_out = task.pairs(held_out=False), task.pairs(held_out=True)
    assert not {*trained} & {*held_out}
    assert len(trained) + len(held_out) == 400
    assert {*task.prompts(1000, seed=3)} <= {*trained}
    assert all(a and b for a, b in trained)  # with a zero the question's last number is its answer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollouts": 0}, "rollouts: 0"),
        ({"responses": 1}, "responses: 1"),
        ({"updates": 7}, "updates: 7 must divide"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate: nan"),
        ({"warmup": -1}, "warmup: -1"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=message):
        Settings(**changes)


@llm
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "gpt"], "is not a folder of a transformers model"),
        (["--objectives", "kl-gate-dapo"], "which TRL does not keep"),
        (["--objectives", "erc-dapoo"], "did you mean"),
        (["--objectives", "erc-dapo:wide"], "is not parameter=number"),
        (["--objectives", "erc-dapo:learning_rate=0.1"], "parameters of its recipe only"),
        (["--seeds", "0"], "seeds: 0"),
    ],
)
def test_bad_input_is_one_line_before_any_work(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main([*SMALL, *options, "--out", str(tmp_path / "new")])
    assert stopped.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "new").exists()
