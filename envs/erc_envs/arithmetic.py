"""Arithmetic: written addition as text, with operands held out for the evaluation."""

# The contract of these methods is stated once, in Dynamics.
# ruff: noqa: D102

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from erc_envs._checks import check_choice, check_float, check_int
from erc_envs._tokens import TextTask
from erc_envs.base import BoolArray, FloatArray, IntArray

_PLUS, _EQUALS, _END = 10, 11, 12
_SYMBOLS = (*"0123456789", "+", "=", ".")
_SLIP_LOW, _SLIP_HIGH = 0.01, 2.0  # range of the facts' slips, in units of `slip`
_IMAGINED = 0.25  # chance of a carry that is not there, in units of `carry_slip`
_STRAY = 0.01  # chance of a token drawn uniformly, in units of `slip`


@dataclass(frozen=True)
class Arithmetic(TextTask):
    r"""Addition as a language task, ``a+b=`` to the digits of the sum, on held-out operands too.

    What it isolates: whether what holds in tables survives in a sequence model, whose every
    parameter serves all contexts, and whether it generalises. A prompt is two operands of exactly
    ``digits`` digits, zero-padded. A response earns 1 if it is the sum in canonical form, followed
    by the end token, else 0. Canonical means most significant digit first and no leading zeros; the
    sum 0 is one 0. A response may end at any time, and is cut off after digits + 2 tokens, the
    length of the longest right answer. Carries are the hard part: because the most significant
    digit is written first, they must be foreseen. The optimum is to write the sum and end:

        optimal_return = 1,   prior_return = mean_x prod_t prior(right token | x, t).

    Splits: a pair of operands is held out together with its mirror image, since a + b answers
    b + a. A seeded permutation of the unordered pairs, and one of the doubles a + a, put the
    fraction ``test_fraction`` of each (rounded, but never none or all) into "test" and the rest
    into "train". ``held_out()`` is the test split of the same instance.

    The prior is an imperfect pupil. It adds the column that the position belongs to, with digits u
    and v and the carry c from the columns to its right, and writes (u + v + c') mod 10. Here

        c' = 1 - c with probability carry_slip if c = 1 (forgotten), carry_slip/4 if c = 0 (imagined;
             not in the column of ones, which none can come from), else c' = c,

    and with probability s[u, v] the result is one too high or too low. The slips s of the hundred
    addition facts are log-spaced from slip/100 to 2 slip, in an order drawn from the instance, so
    token entropies spread over orders of magnitude. After the last digit comes the end token.
    With probability slip/100 any token is written instead. A forgotten carry out of the highest
    column shows as a leading zero. The prior looks at its position alone: it does not correct a
    wrong token, but adds the next column as if nothing had happened.

    Which objective should win: one that unlearns the likely mistakes, which are made at carries, in
    high-entropy tokens, without losing the many nearly certain tokens to drift.

    Tokens: 0-9 the digits, 10 "+", 11 "=", 12 the end, shown as ".".
    Observation: MultiDiscrete with ``prompt_tokens`` + horizon columns, the context so far. Each
    column is a token + 1, or 0 where nothing is written yet; column ``prompt_tokens`` + t holds the
    action of step t.
    State columns: prompt, then the horizon columns of the response, as observed.

    Raises:
        ValueError: a field outside its range, named with its value.

    >>> sums = Arithmetic()
    >>> sums.operands[41], sums.num_prompts, sums.held_out().num_prompts
    (array([ 0, 48]), 8000, 2000)
    >>> sums.observe(sums.initial_state(np.array([41])))
    array([[ 1,  1, 11,  5,  9, 12,  0,  0,  0,  0]])
    """

    digits: int = 2
    split: str = "train"
    test_fraction: float = 0.2
    slip: float = 0.1
    carry_slip: float = 0.4
    instance_seed: int = 0

    num_actions: int = field(default=len(_SYMBOLS), init=False, repr=False, compare=False)
    operands: IntArray = field(init=False, repr=False, compare=False)
    """The pairs (num_prompts, 2) of this split, in lexicographic order."""

    def __post_init__(self) -> None:
        check_int("digits", self.digits, 1, 3)
        check_int("instance_seed", self.instance_seed, 0)
        check_choice("split", self.split, ("train", "test"))
        check_float("test_fraction", self.test_fraction, 0, 1, "()")
        check_float("slip", self.slip, 0, 0.25, "(]")
        check_float("carry_slip", self.carry_slip, 0, 0.5, "[)")
        rng = np.random.default_rng(self.instance_seed)
        operands = np.argwhere(self._is_test(rng) == (self.split == "test"))
        facts = self.slip * rng.permutation(np.geomspace(_SLIP_LOW, _SLIP_HIGH, 100))
        answer, row = self._answers(operands)
        a, b = (_digits_of(x, self.digits)[:, ::-1] + 1 for x in operands.T)
        plus, equals = (np.full((len(a), 1), token + 1) for token in (_PLUS, _EQUALS))
        context = np.concatenate([a, plus, b, equals], axis=1)
        self._set_tables(
            num_prompts=len(operands),
            horizon=self.digits + 2,
            prompt_tokens=context.shape[1],
            operands=operands,
            _end=_END,
            _symbols=_SYMBOLS,
            _context=context,
            _answer=answer,
            _row=row,
            _prior=self._prior_rows(facts.reshape(10, 10)),
        )

    def _is_test(self, rng: np.random.Generator) -> BoolArray:
        """Which pairs (a, b) are held out, a symmetric matrix; how many does not depend on the draw."""
        N = 10**self.digits
        test = np.zeros((N, N), dtype=np.bool_)
        for a, b in (np.triu_indices(N, k=1), np.diag_indices(N)):
            count = min(max(round(self.test_fraction * len(a)), 1), len(a) - 1)
            chosen = rng.permutation(len(a))[:count]
            test[a[chosen], b[chosen]] = test[b[chosen], a[chosen]] = True
        return test

    def _answers(self, operands: IntArray) -> tuple[IntArray, IntArray]:
        """The right tokens + 1 (P, T), 0 after the end; and the prior's rows (P, T + 1)."""
        D, T = self.digits, self.digits + 2
        # Columns of the sum from the right; the highest one holds nothing but the last carry.
        u, v, total = (_digits_of(x, D + 1) for x in (*operands.T, operands.sum(axis=1)))
        carry = (total - u - v) % 10
        rows = _row_of(u, v, carry, np.arange(D + 1) > 0)
        length = np.maximum(((total > 0) * np.arange(1, D + 2)).max(axis=1), 1)
        column = (
            length[:, None] - 1 - np.arange(T + 1)
        )  # of each position; it is negative after the sum
        at = np.maximum(column, 0)
        answer = np.take_along_axis(total, at, axis=1) + 1
        answer = np.where(column >= 0, answer, np.where(column == -1, _END + 1, 0))
        row = np.where(column >= 0, np.take_along_axis(rows, at, axis=1), _ROW_END)
        return answer[:, :T], row

    def _prior_rows(self, slips: FloatArray) -> FloatArray:
        """Next-token distributions (rows, V) of every kind of column, and after the last digit."""
        u, v, carry, has_right = np.indices((10, 10, 2, 2)).reshape(4, -1)
        misjudged = self.carry_slip * np.where(carry, 1.0, _IMAGINED * has_right)
        slip = slips[u, v]
        rows = np.zeros((_ROW_END + 1, self.num_actions))
        each = np.arange(_ROW_END)
        for wrong, judged in ((0, 1 - misjudged), (1, misjudged)):
            total = u + v + (carry ^ wrong)
            for shift, chance in ((0, 1 - slip), (1, slip / 2), (-1, slip / 2)):
                rows[each, (total + shift) % 10] += judged * chance
        rows[_ROW_END, _END] = 1.0
        stray = _STRAY * self.slip
        return np.asarray((1 - stray) * rows + stray / self.num_actions)

    @property
    def prior_return(self) -> float:
        tokens = np.maximum(self._answer - 1, 0)
        right = np.take_along_axis(self._prior[self._row[:, :-1]], tokens[..., None], axis=-1)
        return float(np.where(self._answer > 0, right[..., 0], 1.0).prod(axis=1).mean())

    def held_out(self) -> Arithmetic:
        """The test split of the same instance."""
        return dataclasses.replace(self, split="test")

    def _title(self) -> str:
        return f"Arithmetic ({self.split})"

    def _reward(self, prompt: IntArray, response: IntArray) -> FloatArray:
        right = (response == self._answer[prompt]).all(axis=1)
        return np.asarray(right, dtype=np.float64)


_ROW_END = 10 * 10 * 2 * 2  # the prior's row after the last digit


def _row_of(u: IntArray, v: IntArray, carry: IntArray, has_right: BoolArray) -> IntArray:
    """Row of the prior for a column with these digits and carry, and others to its right or none."""
    return np.asarray(((u * 10 + v) * 2 + carry) * 2 + has_right)


def _digits_of(numbers: IntArray, count: int) -> IntArray:
    """Decimal digits (N, count), the ones first."""
    return np.asarray(numbers[:, None] // 10 ** np.arange(count) % 10)
