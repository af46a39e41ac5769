"""Reward, data, evaluation and comparison, on cases with known answers."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from erc_bench.core.errors import InputError
from paper_repro import data, evaluation
from paper_repro.comparing import compare
from paper_repro.data import INSTRUCTION, Problem, prepare, problems, rows, write

judged = pytest.mark.skipif(find_spec("math_verify") is None, reason="math-verify: .[llm]")


@judged
@pytest.mark.parametrize(
    ("response", "truth", "right"),
    [
        (r"\boxed{7}", "7", True),
        (r"<think>\boxed{3}</think> it is \boxed{7}", "7", True),
        (r"<think>\boxed{7}</think> it is seven", "7", False),
        (r"\boxed{\frac{1}{2}}", "0.5", True),
        (r"\boxed{0.5}", r"\frac12", True),
        (r"$\boxed{\{1, 2\}}$", r"\{2, 1\}", True),
        (r"\boxed{(1,2)}", "(2,1)", False),
        (r"\boxed{5}, no: \boxed{7}", "7", True),
        (r"\boxed{7}, no: \boxed{5}", "7", False),
        (r"\boxed{x = 7}", "7", True),
        (r"\boxed{1,000}", "1000", True),
        (r"\boxed{033}", "33", True),
        ("7", "7", False),
        ("3 + 4", "7", False),
        (r"\boxed{", "7", False),
        (r"\boxed{}", "7", False),
        ("", "7", False),
    ],
)
def test_reward_on_tricky_answers(response, truth, right):
    from paper_repro.reward import compute_score, math_reward

    assert compute_score("", response, truth)["acc"] == right
    conversation = [[{"role": "assistant", "content": response}]]
    assert math_reward(conversation, [truth]) == math_reward([response], [truth]) == [float(right)]


@judged
def test_a_failing_judge_is_wrong_and_counted(monkeypatch):
    from paper_repro import reward

    def broken(*_):
        raise RuntimeError("judge")

    monkeypatch.setattr(reward, "judge", broken)
    assert reward.compute_score("", "", "7") == {"score": 0.0, "acc": 0.0, "judge_failed": 1.0}


def test_preparation_leaves_out_copies_and_test_questions():
    found = [Problem("What is $1+1$?", "2"), Problem("what is 1 + 1", "2"), Problem("AIME!", "3")]
    kept, counts = prepare(found, "s", exclude=["aime"])
    assert counts == {"read": 3, "repeated": 1, "in a test set": 1, "kept": 1}
    (row,) = kept
    assert row["prompt"][0]["content"] == f"What is $1+1$?\n{INSTRUCTION}"
    assert row["reward_model"]["ground_truth"] == row["answer"] == "2"


def test_data_goes_through_parquet_and_back(tmp_path, capsys):
    source = tmp_path / "some.jsonl"
    source.write_text('{"problem": "1+1", "answer": 2}\n\n{"question": "2+2", "answer": "4"}\n')
    data.main(["test", "amc23", str(source), "--out", str(tmp_path / "out")])
    data.main(["train", str(source), "--out", str(tmp_path / "out2")])
    assert "read 2, repeated 0, in a test set 0, kept 2" in capsys.readouterr().out
    again = list(problems(rows(tmp_path / "out" / "amc23.parquet"), "x"))
    assert again == [Problem("1+1", "2"), Problem("2+2", "4")]
    with pytest.raises(SystemExit):  # every question is in a test set
        data.main(["train", str(source), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    "text",
    [
        '{"problem": "1+1", "answer": "2"}\n{"problem": "a\u2028b", "answer": ["3"]}\n',
        '[{"problem": "1+1", "answer": 2},\n{"problem": "a\u2028b", "answer": 3}]',
        '{"prompt": [{"role": "user", "content": "1+1"}], "reward_model": {"ground_truth": "2"}}\n'
        '{"problem": "a\u2028b", "answer": "3"}',
    ],
)
def test_a_json_file_is_one_value_or_one_a_line(tmp_path, text):
    """The release's files are named .json and hold a record a line."""
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    found = list(problems(rows(tmp_path / "a.json"), "a"))
    assert found == [Problem("1+1", "2"), Problem("a\u2028b", "3")]


def test_a_benchmark_of_another_size_is_said(tmp_path, capsys):
    source = tmp_path / "some.jsonl"
    source.write_text('{"problem": "1+1", "answer": 2}\n')
    data.main(["test", "amc23", str(source), "--out", str(tmp_path)])
    assert "amc23 has 40 problems, not 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "{", "line 1 is not JSON"),
        ("a.jsonl", "[1]", "line 1 is not an object"),
        ("a.json", '{"problem": "1", "answer": 1}\n{', "line 2 is not JSON"),
        ("a.json", '[{"problem": "1",\n "answer": }]', "line 1 is not JSON"),
        ("a.json", '{"problem": "?", "answer": [1, 2]}', "record 1 has no question or no answer"),
        ("a.parquet", "x", "is damaged"),
        ("a.txt", "x", "must be .parquet"),
        ("a.jsonl", '{"problem": "?"}', "record 1 has no question or no answer"),
    ],
)
def test_bad_data_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        list(problems(rows(tmp_path / name), name))


def _generations(right):
    return [
        {
            "benchmark": "aime24",
            "problem": i,
            "answer": "7",
            "responses": [r"\boxed{7}"] * n + [r"\boxed{8}"] * (4 - n),
        }
        for i, n in enumerate(right)
    ]


@judged
def test_scores_of_known_generations(tmp_path):
    """0, 2 and 4 right of 4: avg@4 one half, pass@2 (0 + 5/6 + 1) / 3."""
    path = tmp_path / "g.jsonl"
    path.write_text("".join(json.dumps(g) + "\n" for g in _generations([0, 2, 4])))
    evaluation.main(["score", str(path), "--out", str(tmp_path / "e.json")])
    found = json.loads((tmp_path / "e.json").read_text())["benchmarks"]["aime24"]
    assert (found["problems"], found["samples"], found["judge_failed"]) == (3, 4, 0)
    assert found["avg"] == pytest.approx(50)
    assert found["low"] <= 50 <= found["high"]
    assert found["pass@k"]["2"][0] == pytest.approx(100 * (0 + 5 / 6 + 1) / 3)
    assert list(found["pass@k"]) == ["1", "2", "4"]


@judged
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "none"),
        (_generations([1]) * 2, "problem 0 twice"),
        ([*_generations([1]), _generations([1])[0] | {"problem": 1, "responses": ["a"]}], "1, 4"),
    ],
)
def test_bad_generations_are_refused(entries, message):
    with pytest.raises(InputError, match=message):
        evaluation.score(entries)


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers: .[llm]")
@pytest.mark.filterwarnings("ignore")
def test_generation_is_gone_on_with(tmp_path):
    """A tiny model from its config; a second call adds nothing to a finished file."""
    from adapters.tiny_trl import make_model

    model, tokenizer = make_model()
    tokenizer.chat_template = "{% for m in messages %}w2 w3{% endfor %}"
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    kept, _ = prepare([Problem("a", "1"), Problem("b", "2")], "amc23")
    write(kept, tmp_path / "amc23.parquet")
    out = tmp_path / "g.jsonl"
    for _ in range(2):
        with out.open("a") as stream:
            stream.write('{"benchmark": "amc')  # a process was killed here
        sampling = evaluation.Sampling(samples=3, length=4)
        evaluation.generate(str(tmp_path / "m"), tmp_path, out, sampling, "hf")
        found = list(evaluation.read_generations(out))
        assert [len(g["responses"]) for g in found] == [3, 3]
    first, second = out.read_text().splitlines()
    out.write_text(first + "\n")
    evaluation.generate(str(tmp_path / "m"), tmp_path, out, sampling, "hf")
    assert out.read_text().splitlines() == [first, second]  # its draws do not depend on the first


def test_comparison_reads_a_training_log():
    """A real log of verl with our plug-in; the interval is over steps."""
    log = Path(__file__).parents[1] / "adapters" / "data" / "verl_erc-dapo.jsonl"
    (share,) = [row for row in compare("1.5b", "erc-dapo", log=log) if "gate" in row.what]
    values = [
        json.loads(line)["data"]["actor/gate/dropped_fraction"]
        for line in log.read_text().splitlines()
    ]
    assert share.value == pytest.approx(100 * sum(values) / len(values))
    assert share.low <= share.value <= share.high
