"""The committed rules are well-formed and complete, and a fault in them is named."""

import copy
import dataclasses
import tomllib
from importlib.resources import files

import pytest

from erc_bench.analysis.claims import load
from erc_bench.analysis.claims.rules import Criterion, RuleBook
from erc_bench.core.errors import InputError
from erc_bench.core.validation import checked

TABLE = tomllib.loads((files("erc_bench.analysis") / "claims.toml").read_text(encoding="utf-8"))


def test_the_committed_rules_cover_every_claim():
    """C1 to C7, D1 to D3 and what a mask is worth, 20 seeds, 95 %: what was registered."""
    book = load()
    masks = ["S1", "P1", "P2", "P3"]
    first = [*(f"C{i}" for i in range(1, 8)), "D1", "D2", "D3"]
    assert [c.id for c in book.claims] == [*first, *masks]
    assert dataclasses.asdict(book.rules) == {
        "level": 0.95,
        "collapse": 0.1,
        "seeds": 20,
        "false_discovery_rate": 0.05,
        "tokens": 5,
    }
    for claim in book.claims:
        assert claim.figures or claim.id in masks
        assert any(part.decides != "no" for part in claim.parts)
        for part in claim.parts:
            assert part.experiments


def test_thresholds_are_those_of_the_paper_and_the_issue():
    """C4 brackets the paper's 0.02 % and 20.29 %, C6 its +0.9 and +1.7 points."""
    parts = {c.id: {p.name: p for p in c.parts} for c in load().claims}
    assert parts["C4"]["tokens clipped"].holds == Criterion(below=0.01, fails_above=0.01)
    dropped = parts["C4"]["tokens dropped"].holds
    assert (dropped.above, dropped.below) == (0.05, 0.4)
    reward = parts["C6"]["final reward, share of optimum"].holds
    assert (reward.above, reward.fails_below) == (0.0, 0.01)
    assert parts["C1"]["hidden share of violations"].holds.above == 0.5


def part(table):
    return table["claim"][3]["part"][0]


FAULTS = {
    "claim[3].part[0].colums: unknown key": lambda t: part(t).update(colums=part(t).pop("columns")),
    "claim[3].part[0].unit: missing key": lambda t: part(t).pop("unit"),
    "claim[3].part[0].statistic: 'median' is not allowed; must be 'value', ": lambda t: part(
        t
    ).update(statistic="median"),
    "claim[3].part[0].columns: value takes 1": lambda t: part(t).update(columns=["a", "b"]),
    "claim[3].part[0].arms: value takes 1": lambda t: part(t).update(arms=[["dapo", "erc-dapo"]]),
    "claim[3].part[0].holds.over: unknown key": lambda t: part(t).update(holds={"over": 1}),
    "claim[3].part[0].holds.below: '1 %' is not allowed; must be a number": lambda t: part(t)[
        "holds"
    ].update(below="1 %"),
    "claim[3].part[0].holds.above: 1.0 is not below 0.01": lambda t: part(t)["holds"].update(
        above=1
    ),
    "claim[3].part[0].holds.above: missing": lambda t: part(t).update(holds={}),
    "claim[3].part[0].holds: missing": lambda t: part(t).pop("holds"),
    "claim[3].part[0].reference: belongs": lambda t: part(t).update(reference="stress"),
    "claim[3].part[0].experiments.harsh: unknown key": lambda t: part(t)["experiments"].update(
        harsh=[]
    ),
    "claim[3].part[0].experiments.paper: [] is not allowed": lambda t: part(t)[
        "experiments"
    ].update(paper=[]),
    "claim[3].paper: missing key": lambda t: t["claim"][3].pop("paper"),
    "claim: id: ": lambda t: t["claim"][3].update(id="C1"),
    "claim[3].words: ": lambda t: t["claim"][3].update(words=["yes"]),
    "rules.seeds: 0 is not allowed; must be at least 2": lambda t: t["rules"].update(seeds=0),
    "rules.level: 95 is not allowed; must be less than 1": lambda t: t["rules"].update(level=95),
    "version: 2 is not allowed": lambda t: t.update(version=2),
    "claims.toml: claims: unknown key": lambda t: t.update(claims=[]),
}


@pytest.mark.parametrize("told", FAULTS)
def test_a_fault_in_the_rules_is_named(told):
    """The place, the key and what is allowed; the committed table is left without one."""
    table = copy.deepcopy(TABLE)
    checked(RuleBook, table, at="claims.toml: ")
    FAULTS[told](table)
    with pytest.raises(InputError) as error:
        checked(RuleBook, table, at="claims.toml: ")
    assert told in str(error.value)


def test_a_file_that_is_not_toml_or_not_there_is_refused(tmp_path):
    (tmp_path / "x.toml").write_text("version = = 1")
    with pytest.raises(InputError, match="is not TOML"):
        load(tmp_path / "x.toml")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "none.toml")
