"""The judge: answers that would stop a training run do not, and what it could not judge is counted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest

from erc_bench.core.errors import InputError
from paper_repro import judging, reward
from paper_repro.judging import JudgeError, Judges, shared_judges
from paper_repro.reward import answer_of, compute_score, math_reward

judged = pytest.mark.skipif(find_spec("math_verify") is None, reason="math-verify: .[llm]")


@pytest.fixture(scope="module")
def judges():
    made = Judges(workers=2, seconds=1.0)
    yield made
    made.close()


@judged
@pytest.mark.parametrize("answer", ["9^{9^{9^{9}}}", r"\binom{10^9}{10^8}", "(" * 300 + ")" * 300])
def test_an_endless_answer_is_given_up(judges, answer):
    """One operation on huge integers cannot be interrupted from Python: the kernel ends the process.
    The judge goes on with the next answer."""
    with pytest.raises(JudgeError):
        judges(answer, "7")
    assert judges("7", "7")


@judged
def test_an_unusable_truth_is_a_failure_and_no_wrong_answer(judges):
    with pytest.raises(JudgeError, match="truth"):
        judges("7", "")


@judged
def test_it_judges_from_any_thread():
    """verl calls its reward from an executor's threads, where timers of math-verify itself would fail."""
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda i: compute_score("", rf"\boxed{{{i % 5}}}", "3"), range(30)))
    assert [f["acc"] for f in found] == [float(i % 5 == 3) for i in range(30)]
    assert not any(f["judge_failed"] for f in found)


@judged
def test_a_killed_worker_is_replaced():
    judges = Judges(workers=1, seconds=5.0)
    assert judges("1", "1")
    worker = judges._idle.get()
    worker._process.kill()
    worker._process.wait()
    judges._idle.put(worker)
    with pytest.raises(JudgeError):
        judges("1", "1")
    assert judges("1", "1")
    judges.close()


@judged
def test_a_process_has_one_set_of_judges():
    assert shared_judges() is shared_judges()


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"\boxed{7}", "7"),
        (r"<think>\boxed{3}</think>\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"<think>\boxed{3}</think> three", None),
        (r"<think>\boxed{3}", "3"),
        (r"\boxed{1} or \boxed{2}$, and $x$.", "2"),
        (r"\boxed{\text{a {b} c}}", r"\text{a {b} c}"),
        (r"\boxed{", None),
        (r"\boxed{7", None),
        (r"\boxed", None),
        (r"\boxed{}", None),
        (r"\boxed 12.", "12"),
        (r"\boxed{" + "1" * 3000 + "}", None),
    ],
)
def test_the_answer_is_what_stands_in_the_last_complete_box(response, answer):
    assert answer_of(response) == answer


@judged
def test_text_after_the_box_does_not_change_the_verdict():
    """Not even another formula: math-verify would take its value too."""
    assert compute_score("", r"\boxed{7}, as $3 + 4 = 7$ and $9$", "7")["acc"] == 1
    assert compute_score("", r"\boxed{8}, nearly $7$", "7")["acc"] == 0


@judged
def test_any_of_several_truths_will_do():
    assert compute_score("", r"\boxed{7}", ["5", "7"])["acc"] == 1
    assert compute_score("", r"\boxed{7}", 7)["acc"] == 1
    assert compute_score("", r"\boxed{6}", ["5", "7"])["acc"] == 0


def test_failures_are_wrong_counted_and_logged(monkeypatch):
    def judge(response, truth):
        if response == "slow":
            raise JudgeError("took too long")
        return response == truth

    monkeypatch.setattr(reward, "judge", judge)
    assert compute_score("", "slow", "7") == {"score": 0.0, "acc": 0.0, "judge_failed": 1.0}
    logged = {}
    scores = math_reward(["slow", "7"], ["7", "7"], log_metric=logged.__setitem__)
    assert scores == [0.0, 1.0]
    assert logged == {"reward/judge_failed": 0.5}


def test_without_math_verify_nothing_is_trained(monkeypatch):
    """Rewards of 0 throughout would look like a run that does not learn."""
    judging._judges_of.cache_clear()
    monkeypatch.setattr(judging, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'erc-bench\[llm\]'"):
        compute_score("", r"\boxed{7}", "7")
    judging._judges_of.cache_clear()


@pytest.mark.parametrize(("workers", "seconds"), [(0, 1.0), (1, 0.0)])
def test_bad_settings_are_refused(workers, seconds):
    with pytest.raises(InputError, match="is not allowed"):
        Judges(workers, seconds)
