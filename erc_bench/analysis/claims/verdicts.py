"""One verdict per claim and regime: the conjunction of its deciding rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from erc_bench.analysis.claims.assess import NO_VALUE, NOTHING, Question, Row
from erc_bench.analysis.claims.evidence import Evidence
from erc_bench.analysis.claims.rules import Claim, Regime, RuleBook, load
from erc_bench.studies.records import Results

__all__ = ["Assessment", "Verdict", "assess"]


@dataclass(frozen=True)
class Verdict:
    """What the records say about a claim in a regime.

    Attributes:
        claim: its rule.
        regime: paper, stress or sweep.
        verdict: the claim's word for holding or failing, "inconclusive", or "not measured"; for a
            phase diagram, each gate with "helps", "hurts", "helps and hurts" or "no difference
            found".
        because: which rows decide it.
        deciding: those rows.
        missing: what the rule asks for and the records lack, with the reason.
    """

    claim: Claim
    regime: Regime
    verdict: str
    because: str
    deciding: tuple[Row, ...]
    missing: dict[str, str]

    @property
    def holds(self) -> bool | None:
        """Whether the claim holds; None where it neither holds nor fails."""
        return dict(zip(self.claim.words, (True, False), strict=True)).get(self.verdict)


@dataclass(frozen=True)
class Assessment:
    """Every claim against one results folder."""

    rules: RuleBook
    verdicts: tuple[Verdict, ...]
    rows: tuple[Row, ...]

    def not_measured(self) -> dict[str, dict[str, str]]:
        """For each claim that lacks records: what, and why."""
        found: dict[str, dict[str, str]] = {}
        for verdict in self.verdicts:
            if verdict.missing:
                found.setdefault(verdict.claim.id, {}).update(verdict.missing)
        return found


def assess(results: Results, rules: RuleBook | None = None) -> Assessment:
    """Put the records of a results folder through the pre-registered rules.

    Raises:
        InputError: no part of the records is finished, or the rules are not well-formed.
    """
    book = load() if rules is None else rules
    evidence = Evidence(results)
    verdicts: list[Verdict] = []
    rows: list[Row] = []
    for claim in book.claims:
        for regime in dict.fromkeys(r for part in claim.parts for r in part.experiments):
            found: list[Row] = []
            missing: dict[str, str] = {}
            for part in claim.parts:
                if regime in part.experiments:
                    own, lacking = Question(claim, part, regime, evidence, book.rules).rows()
                    found += own
                    if part.decides != "no":
                        missing |= lacking
            verdicts.append(_verdict(claim, regime, found, missing))
            rows += found
    return Assessment(book, tuple(verdicts), tuple(rows))


def _verdict(claim: Claim, regime: Regime, rows: Sequence[Row], missing: dict[str, str]) -> Verdict:
    deciding = tuple(row for row in rows if row.role == "deciding")
    calm = sum(row.verdict == NOTHING for row in deciding)
    known = [row for row in deciding if row.verdict not in (NO_VALUE, NOTHING)]
    if calm and not known:
        word, because = NOTHING, "the base is not shown to collapse"
    elif any(row.part.decides == "cells" for row in deciding):
        word, because = _phase(known)
    else:
        word, because = _conjunction(claim, known, complete=not missing)
    if calm:
        because += f"; nothing to steady in {_count(calm, 'row')}"
    if len(known) + calm < len(deciding):
        because += f"; {_count(len(deciding) - len(known) - calm, 'row')} without a value"
    if missing and known:
        because += f"; lacks {', '.join(missing)}"
    return Verdict(claim, regime, word, because, deciding, missing)


def _conjunction(claim: Claim, rows: Sequence[Row], *, complete: bool) -> tuple[str, str]:
    """The claim holds if all its rows hold and none is missing, and fails if one of them fails."""
    if not rows:
        return (
            ("inconclusive", "no run has a value") if complete else ("not measured", "no records")
        )
    counts = {
        claim.words[0]: sum(row.holds is True for row in rows),
        claim.words[1]: sum(row.holds is False for row in rows),
        "inconclusive": sum(row.holds is None for row in rows),
    }
    told = ", ".join(f"{word} in {n}" for word, n in counts.items() if n)
    because = f"{told} of {_count(len(rows), 'deciding row')}"
    if counts[claim.words[1]]:
        return claim.words[1], because
    if complete and counts[claim.words[0]] == len(rows):
        return claim.words[0], because
    return "inconclusive", because + _few_seeds(rows)


def _few_seeds(rows: Iterable[Row]) -> str:
    notes = dict.fromkeys(n for row in rows for n in row.note.split("; ") if n.endswith(" seeds"))
    return f" ({', '.join(notes)})" if notes else ""


def _phase(rows: Sequence[Row]) -> tuple[str, str]:
    """For each gate, in how many cells it helps and hurts, and where."""
    words, texts = [], []
    for gate in dict.fromkeys(row.recipes[-1] for row in rows):
        cells = [row for row in rows if row.recipes[-1] == gate]
        better = [_cell(row, cells) for row in cells if row.holds is True]
        worse = [_cell(row, cells) for row in cells if row.holds is False]
        words.append(f"{gate}: {_direction(bool(better), bool(worse))}")
        texts.append(
            f"{gate}: better in {len(better)}, worse in {len(worse)} of {_count(len(cells), 'cell')}"
            + _where("better at", better)
            + _where("worse at", worse)
        )
    return "; ".join(words) or "not measured", "; ".join(texts) or "no records"


def _cell(row: Row, among: Sequence[Row]) -> str:
    """A cell by its point, and by its experiment where there are several or no grid."""
    several = len({other.experiment for other in among}) > 1
    return " ".join(filter(None, (row.experiment if several or not row.point else "", row.point)))


#: A verdict names up to this many cells; of more it gives only the number.
FEW = 4


def _direction(better: bool, worse: bool) -> str:
    if better and worse:
        return "helps and hurts"
    return "helps" if better else "hurts" if worse else "no difference found"


def _where(what: str, points: Sequence[str]) -> str:
    """The cells by name, if they are few; figure 8 shows them all."""
    return f" ({what} {' | '.join(points)})" if 0 < len(points) <= FEW else ""


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")
