"""ReasoningGym: problems and a verifier that this project did not write."""

# The contract of these methods is stated once, in Dynamics.
# ruff: noqa: D102

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from gymnasium.error import DependencyNotInstalled

from erc_envs._checks import check_choice, check_float, check_int
from erc_envs._tokens import TextTask
from erc_envs.base import FloatArray, IntArray

#: Families with short questions and answers, and the settings that keep them short. Their verifiers
#: read the answer of an entry and nothing else of it.
_FAMILIES: dict[str, dict[str, int]] = {
    "binary_alternation": {"min_n": 6, "max_n": 10},
    "chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
    "count_bits": {"min_n": 1, "max_n": 1023},
    "gcd": {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 99},
}
_PAD, _END = " ", "."
_DRAWS = 10  # entries drawn at most for each problem, since questions repeat
_SLIP_LOW, _SLIP_HIGH = 0.01, 2.0  # range of the tokens' slips, in units of `slip`
_STRAY = 0.01  # chance of a token drawn uniformly, in units of `slip`


@dataclass(frozen=True)
class ReasoningGym(TextTask):
    r"""Problems of reasoning-gym, answered character by character and scored by its own verifiers.

    What it isolates: whether what holds in tasks made for this suite holds in one that was not. The
    problems are the first ``size`` different ones of ``reasoning_gym.create_dataset(family)``, with a
    seed that follows from ``instance_seed`` and settings that keep questions and answers short:

        binary_alternation   strings of 6 to 10 bits: swaps until they alternate, or -1
        chain_sum            sums and differences of two numbers of one or of two digits
        count_bits           numbers up to 1023: ones in binary
        gcd                  greatest common divisors of two numbers up to 99

    A prompt is what varies in the question: what all questions begin and end with is left out, and
    spaces before it make all prompts equally long. A response earns what the dataset's own
    ``score_answer`` gives its text, without the end token. These verifiers are lenient, as public
    ones are: an answer that contains the right one earns the ratio of their lengths, and that of
    chain_sum compares numbers, so that "007" answers 3 + 4. A response may end at any time, and is
    cut off, to earn nothing, after the length of the longest right answer and its end token. Every
    right answer earns 1, which is checked, so

        optimal_return = 1,   prior_return = mean_x sum_y prior(y | x) score(y, x)

    over all texts y that fit.

    Splits: a seeded permutation puts the fraction ``test_fraction`` of the problems (rounded, but
    never none or all) into "test" and the rest into "train". ``held_out()`` is the test split of the
    same instance.

    The prior is an imperfect pupil, who knows the answer but slips. Where the right token, which may be
    the end, is v, it is written with probability 1 - s[v], and otherwise a token is drawn from those
    that right answers have at this position, as often as they have it. The slips s of the tokens are
    log-spaced from slip/100 to 2 slip, in an order drawn from the instance, so token entropies spread
    over orders of magnitude. After the end of the right answer the end is written, and with
    probability slip/100 any token instead. The prior looks at its position alone: it does not correct
    a wrong token, but goes on as if nothing had happened.

    Which objective should win: one that unlearns the slips without losing the nearly certain tokens.

    Tokens: the characters of questions and answers in the order of their codes, then the end,
    shown as ".".
    Observation: MultiDiscrete with ``prompt_tokens`` + horizon columns, the context so far. Each
    column is a token + 1, or 0 where nothing is written yet; column ``prompt_tokens`` + t holds the
    action of step t.
    State columns: prompt, then the horizon columns of the response, as observed.
    Source: reasoning-gym, arXiv:2505.24760. It comes with ``pip install 'erc-bench[tasks]'``.

    Raises:
        ValueError: a field outside its range, named with its value.
        gymnasium.error.DependencyNotInstalled: reasoning-gym is not installed.
    """

    extra: ClassVar[str | None] = "tasks"

    family: str = "chain_sum"
    size: int = 8000
    split: str = "train"
    test_fraction: float = 0.2
    slip: float = 0.3
    instance_seed: int = 0

    num_actions: int = field(init=False, repr=False, compare=False)
    problems: tuple[tuple[str, str], ...] = field(init=False, repr=False, compare=False)
    """Question and answer of every prompt, as reasoning-gym states them."""

    def __post_init__(self) -> None:
        check_choice("family", self.family, tuple(_FAMILIES))
        check_int("size", self.size, 2)
        check_choice("split", self.split, ("train", "test"))
        check_float("test_fraction", self.test_fraction, 0, 1, "()")
        check_float("slip", self.slip, 0, 0.5, "(]")
        check_int("instance_seed", self.instance_seed, 0)
        every = _problems(self.family, self.size, self.instance_seed)
        asked = _what_varies([question for question, _ in every])
        answers = [answer for _, answer in every]
        characters = sorted(set("".join([*asked, *answers, _PAD])))
        symbols = (*characters, _END)
        code = {character: token + 1 for token, character in enumerate(characters)}
        longest, horizon = max(map(len, asked)), max(map(len, answers)) + 1
        context = np.array([[code[c] for c in text.rjust(longest, _PAD)] for text in asked])
        answer = np.zeros((self.size, horizon), dtype=np.int64)
        for row, text in zip(answer, answers, strict=True):
            row[: len(text) + 1] = [*(code[c] for c in text), len(symbols)]
        rng = np.random.default_rng(self.instance_seed)
        chosen = self._chosen(rng.permutation(self.size))
        slips = self.slip * rng.permutation(np.geomspace(_SLIP_LOW, _SLIP_HIGH, len(symbols)))
        prior, kind = self._pupil(answer, slips)
        starts = kind[chosen, None] * (horizon + 1)
        self._set_tables(
            num_prompts=len(chosen),
            num_actions=len(symbols),
            horizon=horizon,
            problems=tuple(every[x] for x in chosen.tolist()),
            prompt_tokens=longest,
            _end=len(symbols) - 1,
            _symbols=symbols,
            _context=context[chosen],
            _answer=answer[chosen],
            _row=starts + np.arange(horizon + 1),
            _prior=prior,
        )

    def _chosen(self, order: IntArray) -> IntArray:
        """The problems of this split, in the order in which they were drawn."""
        count = min(max(round(self.test_fraction * self.size), 1), self.size - 1)
        return np.sort(order[:count] if self.split == "test" else order[count:])

    def _pupil(self, answer: IntArray, slips: FloatArray) -> tuple[FloatArray, IntArray]:
        """Rows (A (T + 1), V) of the prior for the A different answers, and whose each problem has (P,)."""
        kinds, kind = np.unique(answer, axis=0, return_inverse=True)
        A, T = kinds.shape
        V = len(slips)
        right = np.eye(V)[np.where(kinds > 0, kinds - 1, V - 1)]  # (A, T, V)
        common = np.stack([np.bincount(column, minlength=V + 1)[1:] for column in answer.T])
        common = common / common.sum(axis=1, keepdims=True)  # (T, V)
        slip = (slips * right).sum(axis=-1, keepdims=True) * (kinds > 0)[..., None]
        rows = np.zeros((A, T + 1, V))
        rows[:, :T] = (1 - slip) * right + slip * common
        rows[:, T, V - 1] = 1.0
        stray = _STRAY * self.slip
        rows = (1 - stray) * rows + stray / V
        return rows.reshape(-1, V), kind.ravel()

    @functools.cached_property
    def prior_return(self) -> float:
        writable = self._symbols[:-1]
        texts = [
            ["".join(text) for text in itertools.product(writable, repeat=t)]
            for t in range(self.horizon)
        ]
        answers = ["".join(self._written(row)[:-1]) for row in self._answer]
        total, known = 0.0, dict[str, float]()
        for answer, row in zip(answers, self._row, strict=True):
            if answer not in known:
                verifier, entry = _verifier(self.family), {"answer": answer}
                written, expected = np.ones(1), 0.0
                for t in range(self.horizon):
                    scores = np.array([verifier(text, entry) for text in texts[t]])
                    ends = self._prior[row[t]]
                    expected += float(written @ scores * ends[-1])
                    written = np.outer(written, ends[:-1]).ravel()
                known[answer] = expected
            total += known[answer]
        return total / self.num_prompts

    def held_out(self) -> ReasoningGym:
        """The test split of the same instance."""
        return dataclasses.replace(self, split="test")

    def _reward(self, prompt: IntArray, response: IntArray) -> FloatArray:
        rewards = np.zeros(len(prompt))
        for i in np.flatnonzero((response == self._end + 1).any(axis=1)):
            text = "".join(self._written(response[i])[:-1])
            rewards[i] = _score(self.family, self.problems[prompt[i]][1], text)
        return rewards

    def _title(self) -> str:
        return f"ReasoningGym {self.family} ({self.split})"


def _library() -> ModuleType:
    try:
        import reasoning_gym  # noqa: PLC0415  # an optional package
    except ImportError as error:
        raise DependencyNotInstalled(
            f"ReasoningGym needs reasoning-gym ({error}): pip install 'erc-bench[tasks]'"
        ) from error
    module: ModuleType = reasoning_gym
    return module


@functools.lru_cache(maxsize=8)
def _problems(family: str, size: int, instance_seed: int) -> tuple[tuple[str, str], ...]:
    """The first ``size`` different questions of a dataset, with their answers."""
    # Entry i of a dataset follows from its seed + i, so neighbouring seeds share nearly all entries.
    seed = int(np.random.SeedSequence(instance_seed).generate_state(1)[0])
    settings = _FAMILIES[family] | {"seed": seed, "size": _DRAWS * size}
    dataset = _library().create_dataset(family, **settings)
    found: dict[str, str] = {}
    for entry in dataset:
        if dataset.score_answer(entry["answer"], entry) != 1:
            raise ValueError(
                f"family: {family}'s own answer to {entry['question']!r} does not earn 1"
            )
        found.setdefault(entry["question"], entry["answer"])
        if len(found) == size:
            return tuple(found.items())
    raise ValueError(
        f"size must be an integer in [2, {len(found)}] for {family}, which has no more different "
        f"questions among {_DRAWS * size}, got {size}"
    )


@functools.lru_cache
def _verifier(family: str) -> Any:
    return _library().create_dataset(family, **_FAMILIES[family]).score_answer


@functools.lru_cache(maxsize=2**16)
def _score(family: str, answer: str, text: str) -> float:
    return float(_verifier(family)(text, {"answer": answer}))


def _what_varies(questions: list[str]) -> list[str]:
    """The questions without the whole words that all of them begin and end with.

    >>> _what_varies(["What is 1 + 2?", "What is 13 + 4?"])
    ['1 + 2', '13 + 4']
    """
    start = _shared(questions)
    rest = [question[start:] for question in questions]
    end = _shared([text[::-1] for text in rest])
    return [text[: len(text) - end] for text in rest]


def _shared(texts: list[str]) -> int:
    """Number of characters that all texts begin with, but for the start of a word or number."""
    columns = zip(*texts, strict=False)
    same = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
    return len(re.sub(r"\w+$", "", texts[0][:same]))
