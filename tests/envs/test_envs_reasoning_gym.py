"""ReasoningGym: the library's own problems, answers and scores, splits, and the imperfect prior."""

import contextlib
import re
import subprocess
import sys

import numpy as np
import pytest
from extras import REASONING_GYM, needs_tasks
from hypothesis import given, settings
from hypothesis import strategies as st

import erc_envs
from erc_envs.reasoning_gym import _FAMILIES

with contextlib.suppress(ImportError):
    import reasoning_gym

FAMILIES = sorted(_FAMILIES)
SMALL = {"size": 60}


def written(task, prompt, text, *, ended=True):
    """What a response of these characters earns, and how many tokens of it are read."""
    tokens = [task._symbols.index(c) for c in text] + [task._end] * ended
    state = task.initial_state(np.array([prompt]))
    for t, token in enumerate(tokens):
        state, reward, terminated = task.step(state, np.array([token]), np.zeros(1))
        if terminated[0]:
            return float(reward[0]), t + 1
    raise AssertionError("did not end")


def entries(family):
    """The library's verifier, and its whole entries by question, of the default instance."""
    seed = int(np.random.SeedSequence(0).generate_state(1)[0])
    dataset = reasoning_gym.create_dataset(family, seed=seed, size=600, **_FAMILIES[family])
    return dataset.score_answer, {entry["question"]: entry for entry in dataset}


@needs_tasks
@pytest.mark.parametrize("family", FAMILIES)
def test_problems_are_those_of_the_library(family):
    """Question and answer are an entry's of create_dataset, and every question is asked once."""
    task = erc_envs.ReasoningGym(family=family, **SMALL)
    every = task.problems + task.held_out().problems
    _, known = entries(family)
    assert all(known[question]["answer"] == answer for question, answer in every)
    assert len({question for question, _ in every}) == len(every) == 60


@needs_tasks
@pytest.mark.parametrize("family", FAMILIES)
def test_rewards_are_the_librarys_scores(family):
    """For the whole entry, metadata included: right and wrong answers, part of one, and more than one."""
    task = erc_envs.ReasoningGym(family=family, **SMALL)
    verifier, known = entries(family)
    rng = np.random.default_rng(0)
    found = set()
    for prompt, (question, answer) in enumerate(task.problems):
        texts = {answer, f"0{answer}", f"{answer} ", f" {answer}", answer[1:], answer[::-1], ""}
        for length in range(task.horizon):
            texts.add("".join(rng.choice(task._symbols[:-1], size=length)))
        for text in sorted(t for t in texts if len(t) < task.horizon):
            expected = verifier(text, known[question])
            assert written(task, prompt, text) == (expected, len(text) + 1)
            found.add(expected)
    assert {0.0, 1.0} <= found


@needs_tasks
def test_the_verifiers_leniency_is_kept():
    """A leading zero is right in a sum; an answer in a longer one earns the ratio of their lengths."""
    sums = erc_envs.ReasoningGym(**SMALL)
    answers = [answer for _, answer in sums.problems]
    prompt = next(i for i, a in enumerate(answers) if len(a) == 2 and a.isdigit())
    right = answers[prompt]
    assert written(sums, prompt, f"0{right}") == (1.0, 4)
    assert written(sums, prompt, f"+{right}") == (1.0, 4)
    assert written(sums, prompt, f"-{right}") == (pytest.approx(2 / 3), 4)
    assert written(sums, prompt, f"0{right}0"[:4], ended=False) == (0.0, 4)


@needs_tasks
@pytest.mark.parametrize("family", FAMILIES)
def test_contexts_are_read_back(family):
    """The prompt is the varying part of the question, right-aligned; the optimum writes the answer."""
    task = erc_envs.ReasoningGym(family=family, **SMALL)
    state = task.initial_state(np.arange(task.num_prompts))
    asked = task.observe(state)
    assert asked.shape == (task.num_prompts, task.prompt_tokens + task.horizon)
    assert (asked[:, : task.prompt_tokens] > 0).all()
    for row, (question, _) in zip(asked, task.problems, strict=True):
        text = "".join(task._symbols[i - 1] for i in row[: task.prompt_tokens]).lstrip()
        numbers = re.findall(r"\d+", text)
        assert text in question
        assert numbers == re.findall(r"\d+", question)[-len(numbers) :] != []
    for _ in range(task.horizon):
        state, _, _ = task.step(state, task.optimal_action(state), np.zeros(task.num_prompts))
    for row, (_, answer) in zip(state[:, 1:], task.problems, strict=True):
        assert "".join(task._symbols[i - 1] for i in row[row > 0]) == f"{answer}."


@needs_tasks
@settings(max_examples=15, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    size=st.integers(2, 80),
    test_fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_splits_are_disjoint_and_complete(family, size, test_fraction, seed):
    """Every problem is in one split; sizes do not depend on the seed; both read the same tokens."""
    train = erc_envs.ReasoningGym(family, size, "train", test_fraction, instance_seed=seed)
    test = train.held_out()
    assert test.held_out() == test
    assert set(train.problems).isdisjoint(test.problems)
    assert len(train.problems) + len(test.problems) == size
    assert test.num_prompts == min(max(round(test_fraction * size), 1), size - 1)
    assert train._symbols == test._symbols
    assert train.observation_space == test.observation_space


@needs_tasks
def test_neighbouring_seeds_share_few_problems():
    """The library's entry i follows from seed + i, so its seeds must not be neighbours."""
    first, second = (set(erc_envs.ReasoningGym(instance_seed=i).problems) for i in (0, 1))
    assert len(first & second) < 0.6 * len(first)


@needs_tasks
def test_the_pupil_slips_to_what_is_common_at_the_position():
    """The right token with 1 - s[v], else as often as right answers have a token there; then the end."""
    bits = erc_envs.ReasoningGym("count_bits", 60, slip=0.3)
    every = [a for _, a in bits.problems + bits.held_out().problems]
    common = np.array([sum(a[0] == c for a in every) for c in bits._symbols]) / len(every)
    stray = 0.01 * 0.3
    slips = {}
    for prompt, (_, answer) in enumerate(bits.problems):
        row = bits.prior(bits.initial_state(np.array([prompt])))[0]
        v = bits._symbols.index(answer[0])
        plain = (row - stray / bits.num_actions) / (1 - stray)
        others = np.arange(bits.num_actions) != v
        s = plain[others].sum() / common[others].sum()
        np.testing.assert_allclose(plain[others], s * common[others], atol=1e-12)
        slips.setdefault(answer[0], s)
        assert s == pytest.approx(slips[answer[0]])
    assert 0.0029 < min(slips.values()) < max(slips.values()) < 0.601
    assert len(slips) > 4


@needs_tasks
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("seed", range(3))
def test_prior_return_leaves_room(seed, split):
    """The pupil whom the warm start follows earns 55 to 90 % of what can be, on either split."""
    task = erc_envs.ReasoningGym(size=400, instance_seed=seed, split=split)
    assert 0.55 <= task.prior_return <= 0.9


@needs_tasks
def test_too_many_problems_are_refused():
    """The message says how many different ones there are."""
    with pytest.raises(
        ValueError, match=r"size must be an integer in \[2, 1023\] for count_bits.*got 2000"
    ):
        erc_envs.ReasoningGym("count_bits", 2000)


def test_without_the_library_an_error_names_the_extra():
    """Importing registers the id all the same; making it, or asking for a run, says what to install."""
    code = f"""
import sys
sys.modules["reasoning_gym"] = None
import gymnasium, erc_envs
try:
    gymnasium.make({REASONING_GYM!r})
except gymnasium.error.DependencyNotInstalled as error:
    assert "pip install 'erc-bench[tasks]'" in str(error)
else:
    raise AssertionError
from erc_bench.core.errors import InputError
from erc_bench.presentation.listing import environments
from erc_bench.studies import plan
try:
    plan(["real_task"])
except InputError as error:
    assert "pip install 'erc-bench[tasks]'" in str(error)
else:
    raise AssertionError
assert environments().row_count == len([i for i in gymnasium.registry if i.startswith("erc/")])
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bad_family_is_refused_before_the_library_is_asked():
    """The families that are short enough are named."""
    with pytest.raises(ValueError, match=r"family must be .*'chain_sum'.*got 'chainsum'"):
        erc_envs.ReasoningGym("chainsum")
